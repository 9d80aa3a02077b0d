"""Calls about collections."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgspec
import orjson
from msgspec.structs import replace

from chroma_async.errors import InvalidArgumentError
from chroma_async.model import Collection, HnswConfiguration, JsonObject, Precision, Space
from chroma_async.protocol.call import (
    COLLECTION,
    COLLECTIONS,
    DATABASE,
    Call,
    EmptyResultCall,
    Route,
    WireRequest,
    WireResponse,
)
from chroma_async.protocol.collection_json import (
    ConfigurationInput,
    ConfigurationUpdate,
    collection_from_json,
    collection_to_json,
)
from chroma_async.protocol.embedding_function import check_embedding_function
from chroma_async.protocol.metadata import check_collection_metadata
from chroma_async.protocol.results import PurgeResult
from chroma_async.protocol.schema import Count, parse_schema
from chroma_async.protocol.validation import (
    check_database_in_path,
    check_finite,
    check_name,
    check_wait_seconds,
    parse_collection_id,
)

PURGE_SECONDS: Final = 600.0

_RECEIPTS: Final = msgspec.json.Decoder(PurgeResult)


class CollectionCall(Call[Collection], frozen=True, kw_only=True):
    """A call that is answered by one collection."""

    @classmethod
    def encode_result(cls, result: Collection) -> WireResponse:
        return WireResponse(status=cls.route.status, body=orjson.dumps(collection_to_json(result)))

    @classmethod
    def decode_result(cls, response: WireResponse) -> Collection:
        return collection_from_json(orjson.loads(response.body))


class CreateCollection(CollectionCall, frozen=True, kw_only=True):
    """Create a collection, or return the one of that name untouched when `get_or_create`."""

    route: ClassVar = Route("POST", COLLECTIONS)
    writes_catalog: ClassVar = True
    tenant: str
    database: str
    name: str
    metadata: dict[str, Any] | None = None
    configuration: ConfigurationInput | None = None
    schema: dict[str, Any] | None = None
    get_or_create: bool = False

    def encode(self) -> WireRequest:
        request = super().encode()
        check_finite(self.configuration, "configuration")
        check_finite(self.schema, "schema")
        return request

    def validate(self) -> None:
        self.encode()  # what JSON can't say can't be stored either
        check_database_in_path(self.database)
        check_name(self.name, "Validation error: name: ")
        check_collection_metadata(self.metadata, "metadata")
        if self.configuration is not None:
            check_embedding_function(self.configuration.embedding_function)
        if self.schema is not None:
            parse_schema(self.schema)


class GetCollection(CollectionCall, frozen=True, kw_only=True):
    """A collection by name."""

    route: ClassVar = Route("GET", COLLECTIONS + "/{name}")
    safe_to_repeat: ClassVar = True
    tenant: str
    database: str
    name: str

    def validate(self) -> None:
        check_database_in_path(self.database)


class GetCollectionById(CollectionCall, frozen=True, kw_only=True):
    """A collection by its UUID, within the named tenant and database."""

    route: ClassVar = Route("GET", COLLECTIONS + "/by-id/{collection_id}")
    safe_to_repeat: ClassVar = True
    tenant: str
    database: str
    collection_id: str

    def validate(self) -> None:
        check_database_in_path(self.database)
        try:
            parse_collection_id(self.collection_id)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(
                "Validation error: collection_id: Invalid collection ID format, expected UUID"
            ) from error


class ListCollections(Call[list[Collection]], frozen=True, kw_only=True):
    """Collections of a database, ordered by UUID: random but stable."""

    route: ClassVar = Route("GET", COLLECTIONS, query=("limit", "offset"))
    safe_to_repeat: ClassVar = True
    tenant: str
    database: str
    limit: int | None = None
    offset: int | None = None

    def validate(self) -> None:
        check_database_in_path(self.database)
        for name, value in (("limit", self.limit), ("offset", self.offset)):
            if value is not None and value < 0:
                raise InvalidArgumentError(f"Failed to deserialize query string: {name}: invalid digit found in string")

    @classmethod
    def encode_result(cls, result: list[Collection]) -> WireResponse:
        return WireResponse(status=200, body=orjson.dumps([collection_to_json(item) for item in result]))

    @classmethod
    def decode_result(cls, response: WireResponse) -> list[Collection]:
        return [collection_from_json(fields) for fields in orjson.loads(response.body)]


class CountCollections(Call[int], frozen=True, kw_only=True):
    """Number of collections in a database."""

    route: ClassVar = Route("GET", DATABASE + "/collections_count")
    safe_to_repeat: ClassVar = True
    tenant: str
    database: str

    def validate(self) -> None:
        check_database_in_path(self.database)


class ModifyCollection(EmptyResultCall, frozen=True, kw_only=True):
    """Rename a collection, replace its metadata, change its configuration; None leaves a part alone."""

    route: ClassVar = Route("PUT", COLLECTION)
    writes_catalog: ClassVar = True
    tenant: str
    database: str
    collection_id: str
    new_name: str | None = None
    new_metadata: dict[str, Any] | None = None
    new_configuration: ConfigurationUpdate | None = None

    def encode(self) -> WireRequest:
        request = super().encode()
        check_finite(self.new_configuration, "new_configuration")
        return request

    def validate(self) -> None:
        self.encode()  # what JSON can't say can't be stored either
        check_database_in_path(self.database)
        parse_collection_id(self.collection_id)
        if self.new_name is not None:
            check_name(self.new_name, "Validation error: new_name: ")
        if self.kept_metadata or not self.new_metadata:
            check_collection_metadata(self.kept_metadata, "new_metadata")
        if self.new_configuration is not None:
            check_embedding_function(self.new_configuration.embedding_function, "new_configuration")

    @property
    def kept_metadata(self) -> JsonObject | None:
        """The new metadata without its nulls, which Chroma drops here; nothing but nulls leaves none."""
        if self.new_metadata is None:
            return None
        return {key: value for key, value in self.new_metadata.items() if value is not None}


class ReindexCollection(EmptyResultCall, frozen=True, kw_only=True):
    """Build a collection's graphs anew with other parameters; None leaves one as it is. Ours, not Chroma's.

    It is answered when it is decided. The graphs are built beside the old ones, by which queries go on; then they are
    swapped, and a new space counts from then on. `GET` of the collection says what was decided.
    """

    route: ClassVar = Route("POST", COLLECTION + "/reindex")
    writes_catalog: ClassVar = True
    tenant: str
    database: str
    collection_id: str
    space: Space | None = None
    max_neighbors: Count | None = None
    ef_construction: Count | None = None
    precision: Precision | None = None

    def validate(self) -> None:
        check_database_in_path(self.database)
        parse_collection_id(self.collection_id)

    def applied_to(self, hnsw: HnswConfiguration) -> HnswConfiguration:
        """Return the configuration with what is asked for.

        Raises:
            InvalidArgumentError: nothing is asked for, or i8 of a space whose vectors it can't hold.
        """
        names = ("space", "max_neighbors", "ef_construction", "precision")
        changes = {name: value for name in names if (value := getattr(self, name)) is not None}
        if not changes:
            raise InvalidArgumentError(f"nothing to change: give at least one of {', '.join(names)}")
        changed = replace(hnsw, **changes)
        if changed.space != "cosine" and changed.precision == "i8":
            if self.precision is None:
                return replace(changed, precision=None)
            raise InvalidArgumentError(f"precision i8 is for cosine: choose bf16 or f32. space={changed.space!r}")
        return changed


class PurgeCollection(Call[PurgeResult], frozen=True, kw_only=True):
    """Let every trace of deleted and replaced records leave the disk. Ours, not Chroma's.

    It is in the log before it is answered, and done in any case; the answer waits for it, no longer than so long.
    """

    route: ClassVar = Route("POST", COLLECTION + "/purge")
    tenant: str
    database: str
    collection_id: str
    wait_seconds: float | None = None

    def validate(self) -> None:
        check_database_in_path(self.database)
        parse_collection_id(self.collection_id)
        check_wait_seconds(self.wait_seconds)

    @property
    def patience_seconds(self) -> float:
        return PURGE_SECONDS if self.wait_seconds is None else self.wait_seconds

    @classmethod
    def decode_result(cls, response: WireResponse) -> PurgeResult:
        return _RECEIPTS.decode(response.body)


class DeleteCollection(EmptyResultCall, frozen=True, kw_only=True):
    """Delete a collection with its records."""

    route: ClassVar = Route("DELETE", COLLECTIONS + "/{name}")
    writes_catalog: ClassVar = True
    tenant: str
    database: str
    name: str

    def validate(self) -> None:
        check_database_in_path(self.database)
