"""The first API, `/api/v1`, as clients up to Chroma 0.5.15 speak it: thin routes over the calls of today.

What differs is the envelope. Tenant and database stand in the query string, or nowhere: records are addressed by the
collection's UUID alone, so the server finds out first where it lives. An empty filter is no filter. A negative operator
leaves out records that lack the field, as it did then. And each generation of clients can parse only its own form of a
collection; `Generation` tells them apart. Format: Chroma 0.4.24 and 0.5.5, probed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, ClassVar, Final, Protocol, cast

import orjson
from msgspec import Struct

from chroma_async.errors import (
    ChromaError,
    InvalidArgumentError,
    InvalidDimensionException,
    InvalidUUIDError,
    NotFoundError,
    UniqueConstraintError,
)
from chroma_async.model import DEFAULT_DATABASE, DEFAULT_TENANT, Collection, Database, JsonObject, Tenant
from chroma_async.protocol.call import ENCODE_OPTIONS, Call, Route, WireRequest, WireResponse, decode_body
from chroma_async.protocol.collection_json import collection_to_json
from chroma_async.protocol.collections import (
    CountCollections,
    CreateCollection,
    DeleteCollection,
    GetCollection,
    ListCollections,
    ModifyCollection,
)
from chroma_async.protocol.records import (
    AddRecords,
    CountRecords,
    DeleteRecords,
    GetRecords,
    QueryRecords,
    UpdateRecords,
    UpsertRecords,
)
from chroma_async.protocol.results import CountResult, GetResult, QueryResult, columns_json, pages_json
from chroma_async.protocol.system import GetPreflight, GetVersion, Heartbeat, Reset
from chroma_async.protocol.tenants import CreateDatabase, CreateTenant, GetDatabase, GetTenant
from chroma_async.protocol.validation import parse_collection_id

API_V1: Final = "/api/v1"
COLLECTIONS: Final = API_V1 + "/collections"
RECORDS: Final = COLLECTIONS + "/{collection_id}"
PLACE: Final = ("tenant", "database")

OLD_HNSW_NAMES: Final[Mapping[str, str]] = {
    "space": "space",
    "ef_construction": "ef_construction",
    "ef_search": "ef_search",
    "num_threads": "num_threads",
    "M": "max_neighbors",
    "resize_factor": "resize_factor",
    "batch_size": "batch_size",
    "sync_threshold": "sync_threshold",
}


class Generation(Enum):
    """Which form of answers a client can parse, and the fields that it bears in a list of collections.

    The lists of Python clients are strict: a field too many is an error in the client, for those up to 0.4.15 tenant and
    database too. Those from 0.5.1 to 0.5.3 ask exactly as their elders do, and cannot read such lists. Where one collection
    is answered, all clients before 0.5.4 pick what they know, and get `SINGLE`, as other languages do everywhere.
    """

    STRICT = ("id", "name", "metadata")
    LENIENT = ("id", "name", "metadata", "dimension", "tenant", "database", "version")
    WITH_CONFIGURATION = ("id", "name", "configuration_json", "metadata", "dimension", "tenant", "database", "version")

    @classmethod
    def of(cls, user_agent: str) -> Generation:
        """Python clients use requests, and httpx from 0.5.4 on."""
        if user_agent.startswith("python-httpx"):
            return cls.WITH_CONFIGURATION
        return cls.STRICT if user_agent.startswith("python-requests") else cls.LENIENT


SINGLE: Final = Generation.LENIENT.value
RECORD_FIELDS: Final = ("ids", "distances", "embeddings", "metadatas", "documents", "uris")
"""In the order in which this API answers them; a get has no distances."""


class FindCollection(Call[Collection], frozen=True, kw_only=True):
    """A collection by its UUID, wherever it lives; not on the wire: what the records' routes of this API ask first."""

    route: ClassVar = Route("GET", RECORDS)
    collection_id: str

    def validate(self) -> None:
        try:
            parse_collection_id(self.collection_id)
        except InvalidArgumentError as error:
            raise InvalidUUIDError(f"Could not parse {self.collection_id} as a UUID") from error


Decode = Callable[[WireRequest], Call[Any]]


class Encode(Protocol):
    def __call__(self, result: Any, generation: Generation) -> WireResponse: ...


class LegacyRoute(Struct, frozen=True):
    """One route: how its request becomes a call, and the result an answer.

    The request of a route with a `{collection_id}` gets the collection's tenant and database beside it in `path`.
    """

    route: Route
    decode: Decode
    encode: Encode

    @property
    def is_addressed_by_id(self) -> bool:
        return "collection_id" in self.route.path_fields


# ---- requests


def _bare(call: type[Call[Any]]) -> Decode:
    """The call has no fields beyond its path."""
    return lambda request: call.from_fields(dict(request.path))


def _with_body(call: type[Call[Any]]) -> Decode:
    return lambda request: call.decode(WireRequest(path=request.path, query={}, body=request.body))


def _placed(call: type[Call[Any]], names: tuple[str, ...] = PLACE) -> Decode:
    """Tenant and database come from the query string to where the call has them."""

    def decode(request: WireRequest) -> Call[Any]:
        defaults = {"tenant": DEFAULT_TENANT, "database": DEFAULT_DATABASE}
        place = {name: request.query.get(name, defaults[name]) for name in names}
        rest = {name: value for name, value in request.query.items() if name not in PLACE}
        return call.decode(WireRequest(path={**request.path, **place}, query=rest, body=request.body))

    return decode


def _create_collection(request: WireRequest) -> Call[Any]:
    fields = dict(decode_body(CreateCollection, request.body))
    configuration = _new_configuration(fields.pop("configuration", None), fields.get("metadata"))
    body = orjson.dumps({**fields, "configuration": configuration})
    return _placed(CreateCollection)(WireRequest(path=request.path, query=request.query, body=body))


def _new_configuration(old: object, metadata: object) -> JsonObject | None:
    """Clients always send a configuration; what the metadata says about the index was meant, and beats it."""
    hnsw = _object(_object(old).get("hnsw_configuration"))
    if not hnsw or any(key.startswith("hnsw:") for key in _object(metadata)):
        return None
    return {"hnsw": {new: hnsw[name] for name, new in OLD_HNSW_NAMES.items() if name in hnsw}}


def _object(value: object) -> JsonObject:
    return cast("JsonObject", value) if isinstance(value, dict) else {}


def _add_records(request: WireRequest) -> Call[Any]:
    """Null in the metadata of a new record says that there is no such field, and was never refused."""
    fields = dict(decode_body(AddRecords, request.body))
    metadatas = fields.get("metadatas")
    if isinstance(metadatas, list):
        fields["metadatas"] = [_without_nulls(metadata) for metadata in cast("list[object]", metadatas)]
    return AddRecords.from_fields({**fields, **request.path})


def _without_nulls(metadata: object) -> object:
    if not isinstance(metadata, dict):
        return metadata
    return {key: value for key, value in cast("JsonObject", metadata).items() if value is not None}


def _filtered(call: type[Call[Any]]) -> Decode:
    """A call with filters and columns."""

    def decode(request: WireRequest) -> Call[Any]:
        fields = dict(decode_body(call, request.body))
        for name in ("where", "where_document"):
            fields[name] = fields.get(name) or None
        include = fields.get("include")
        if include is None:
            fields.pop("include", None)
        elif isinstance(include, list):
            fields["include"] = [column for column in cast("list[object]", include) if column != "data"]
        return call.from_fields({"missing_default": "exclude", **fields, **request.path})

    return decode


def _delete_records(request: WireRequest) -> Call[Any]:
    call = cast("DeleteRecords", _filtered(DeleteRecords)(request))
    if not call.ids and call.where is None and call.where_document is None:
        raise InvalidArgumentError(
            "You must provide either ids, where, or where_document to delete. If you want to delete all the data in a "
            "collection you can delete the collection itself using the delete_collection method. Or alternatively, you can "
            "get() all the relevant ids and then delete them."
        )
    return call


# ---- answers


def _json(value: object, status: int = 200) -> WireResponse:
    return WireResponse(status=status, body=orjson.dumps(value, option=ENCODE_OPTIONS))


def _plain(result: object, generation: Generation) -> WireResponse:
    return _json(result)


def _count(result: CountResult, generation: Generation) -> WireResponse:
    return _json(result.count)


def _nothing(result: object, generation: Generation) -> WireResponse:
    return _json(None)


def _added(result: object, generation: Generation) -> WireResponse:
    return _json(True, status=201)


def _heartbeat(result: int, generation: Generation) -> WireResponse:
    return Heartbeat.encode_result(result)


def _tenant(result: Tenant, generation: Generation) -> WireResponse:
    return _json({"name": result.name})


def _database(result: Database, generation: Generation) -> WireResponse:
    return _json({"id": result.id, "name": result.name, "tenant": result.tenant})


def _preflight(result: JsonObject, generation: Generation) -> WireResponse:
    return _json({"max_batch_size": result["max_batch_size"]})


def _collection(result: Collection, generation: Generation) -> WireResponse:
    fields = generation.value if generation is Generation.WITH_CONFIGURATION else SINGLE
    return _json(_collection_json(result, fields))


def _collections(result: list[Collection], generation: Generation) -> WireResponse:
    return _json([_collection_json(collection, generation.value) for collection in result])


def _collection_json(collection: Collection, fields: tuple[str, ...]) -> JsonObject:
    whole = {**collection_to_json(collection), "configuration_json": _old_configuration(collection)}
    return {name: whole[name] for name in fields}


def _old_configuration(collection: Collection) -> JsonObject:
    hnsw = collection.hnsw
    settings: JsonObject = {old: getattr(hnsw, name) for old, name in OLD_HNSW_NAMES.items()}
    settings["num_threads"] = hnsw.num_threads or 1
    return {
        "hnsw_configuration": {**settings, "_type": "HNSWConfigurationInternal"},
        "_type": "CollectionConfigurationInternal",
    }


def _get(result: GetResult, generation: Generation) -> WireResponse:
    return _json(_records_json(columns_json(result.columns), result.include))


def _query(result: QueryResult, generation: Generation) -> WireResponse:
    return _json(_records_json(pages_json(result), result.include))


def _records_json(found: JsonObject, include: tuple[str, ...]) -> JsonObject:
    columns: JsonObject = {name: found[name] for name in RECORD_FIELDS if name in found}
    return {**columns, "data": None, "included": include}


LEGACY_NAMES: Final[Mapping[type[ChromaError], tuple[str, int]]] = {
    NotFoundError: ("InvalidCollection", 400),
    UniqueConstraintError: ("UniqueConstraintError", 409),
    InvalidDimensionException: ("InvalidDimension", 400),
    InvalidUUIDError: ("InvalidUUID", 400),
}
"""Name and status that errors had in the first API, where they are others today."""


def legacy_name(error: ChromaError) -> tuple[str, int]:
    """Return the name and status under which clients of the first API know an error."""
    todays = error.wire_name, error.status
    if isinstance(error, NotFoundError) and not error.message.startswith("Collection"):
        return todays  # it named collections alone
    return LEGACY_NAMES.get(type(error), todays)


LEGACY_ROUTES: Final[tuple[LegacyRoute, ...]] = (
    LegacyRoute(Route("GET", API_V1), _bare(Heartbeat), _heartbeat),
    LegacyRoute(Route("GET", API_V1 + "/heartbeat"), _bare(Heartbeat), _heartbeat),
    LegacyRoute(Route("GET", API_V1 + "/version"), _bare(GetVersion), _plain),
    LegacyRoute(Route("GET", API_V1 + "/pre-flight-checks"), _bare(GetPreflight), _preflight),
    LegacyRoute(Route("POST", API_V1 + "/reset"), _bare(Reset), _plain),
    LegacyRoute(Route("POST", API_V1 + "/tenants"), _with_body(CreateTenant), _nothing),
    LegacyRoute(Route("GET", API_V1 + "/tenants/{tenant}"), _bare(GetTenant), _tenant),
    LegacyRoute(Route("POST", API_V1 + "/databases", query=PLACE), _placed(CreateDatabase, ("tenant",)), _nothing),
    LegacyRoute(Route("GET", API_V1 + "/databases/{database}", query=PLACE), _placed(GetDatabase, ("tenant",)), _database),
    LegacyRoute(Route("GET", API_V1 + "/count_collections", query=PLACE), _placed(CountCollections), _plain),
    LegacyRoute(Route("GET", COLLECTIONS, query=(*PLACE, "limit", "offset")), _placed(ListCollections), _collections),
    LegacyRoute(Route("POST", COLLECTIONS, query=PLACE), _create_collection, _collection),
    LegacyRoute(Route("GET", COLLECTIONS + "/{name}", query=PLACE), _placed(GetCollection), _collection),
    LegacyRoute(Route("DELETE", COLLECTIONS + "/{name}", query=PLACE), _placed(DeleteCollection), _nothing),
    LegacyRoute(Route("PUT", RECORDS), _with_body(ModifyCollection), _nothing),
    LegacyRoute(Route("POST", RECORDS + "/add"), _add_records, _added),
    LegacyRoute(Route("POST", RECORDS + "/update"), _with_body(UpdateRecords), _nothing),
    LegacyRoute(Route("POST", RECORDS + "/upsert"), _with_body(UpsertRecords), _nothing),
    LegacyRoute(Route("POST", RECORDS + "/get"), _filtered(GetRecords), _get),
    LegacyRoute(Route("POST", RECORDS + "/query"), _filtered(QueryRecords), _query),
    LegacyRoute(Route("POST", RECORDS + "/delete"), _delete_records, _nothing),
    LegacyRoute(Route("GET", RECORDS + "/count"), _bare(CountRecords), _count),
)
"""Each path is served with a trailing slash too."""
