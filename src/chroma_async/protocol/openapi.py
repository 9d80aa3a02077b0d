"""The catalogue of calls as an OpenAPI document, for tools that make clients, pages and tests from one.

Format: OpenAPI 3.1.0. Parameters and bodies follow from the calls; what calls are answered by is said here, by the type of
their result.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, cast, get_args, get_origin

import msgspec
import numpy as np

from chroma_async.model import STAGES, Collection, Database, JsonObject, Tenant
from chroma_async.protocol import CALLS
from chroma_async.protocol.call import KEY_FIELD, KEY_HEADER, Call
from chroma_async.protocol.changes import EVENT_STREAM, Change, ChangeFeed, ChangeKind
from chroma_async.protocol.embeddings import EmbeddingBatch
from chroma_async.protocol.ingest import ARROW, NDJSON, Acknowledgement, GetIngestPosition, Ingest, Line
from chroma_async.protocol.records import KEY_LENGTH_MAX
from chroma_async.protocol.results import (
    CountResult,
    DeleteResult,
    FlushResult,
    GetResult,
    IndexingStatus,
    PurgeResult,
    QueryResult,
    WriteResult,
)
from chroma_async.protocol.system import GetPreflight, GetVersion, Heartbeat, Identity
from chroma_async.protocol.unsupported import UNSUPPORTED

JsonSchema = dict[str, Any]

VECTOR: Final[JsonSchema] = {"type": "array", "items": {"type": "number"}}
BASE64: Final[JsonSchema] = {"type": "string", "contentEncoding": "base64", "description": "little-endian float32"}
TEXT: Final[JsonSchema] = {"type": "string"}
COUNT: Final[JsonSchema] = {"type": "integer", "minimum": 0}
ANY_OBJECT: Final[JsonSchema] = {"type": "object"}
NOTHING: Final[JsonSchema] = {"type": "object", "description": "empty"}


def _list_of(items: JsonSchema) -> JsonSchema:
    return {"type": "array", "items": items}


def _or_null(schema: JsonSchema) -> JsonSchema:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(**properties: JsonSchema) -> JsonSchema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _columns(nested: bool) -> dict[str, JsonSchema]:
    """The columns of a get, or of a query, which has one list per query vector."""

    def column(items: JsonSchema) -> JsonSchema:
        return _list_of(_list_of(items)) if nested else _list_of(items)

    return {
        "ids": column(TEXT),
        "embeddings": _or_null(column(VECTOR)),
        "documents": _or_null(column(_or_null(TEXT))),
        "uris": _or_null(column(_or_null(TEXT))),
        "metadatas": _or_null(column(_or_null(ANY_OBJECT))),
    }


DATABASE: Final = _object(id=TEXT, name=TEXT, tenant=TEXT)
COLLECTION: Final = _object(
    id={"type": "string", "format": "uuid"},
    name=TEXT,
    configuration_json=_object(
        hnsw=_or_null(ANY_OBJECT), spann=_or_null(ANY_OBJECT), embedding_function=_or_null(ANY_OBJECT)
    ),
    schema=_or_null(ANY_OBJECT),
    metadata=_or_null(ANY_OBJECT),
    dimension=_or_null(COUNT),
    tenant=TEXT,
    database=TEXT,
    log_position=COUNT,
    version=COUNT,
)
INCLUDED: Final = _list_of(TEXT)
LAST_EVENT_ID: Final[JsonObject] = {"name": "last-event-id", "in": "header", "required": False, "schema": TEXT}
KEY: Final[JsonSchema] = {"type": "string", "minLength": 1, "maxLength": KEY_LENGTH_MAX, "pattern": "^[!-~]+$"}
STAGE: Final[JsonSchema] = {"type": "string", "enum": list(STAGES)}

COMPONENTS: Final[dict[type[Any], JsonSchema]] = {
    Collection: COLLECTION,
    Database: DATABASE,
    Tenant: _object(name=TEXT, resource_name=_or_null(TEXT)),
    Identity: _object(user_id=TEXT, tenant=_or_null(TEXT), databases=_or_null(_list_of(TEXT))),
    GetResult: _object(**_columns(nested=False), include=INCLUDED),
    QueryResult: _object(
        **_columns(nested=True),
        distances=_or_null(_list_of(_list_of(_or_null({"type": "number"})))),
        include=INCLUDED,
    ),
    DeleteResult: _object(deleted=COUNT),
    PurgeResult: _object(
        lsn=COUNT,
        done={"type": "boolean"},
        applied_lsn=_or_null(COUNT),
        records=_or_null(COUNT),
        dropped_vectors=_or_null(COUNT),
        ended_at=_or_null({"type": "number"}),
    ),
    Change: {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": [*get_args(ChangeKind), "error"]},
            "lsn": COUNT,
            "time": {"type": "number", "description": "seconds since 1970"},
            "cursor": {"type": "string", "description": "what a feed goes on after"},
            "collection": {"type": "string", "format": "uuid"},
            "name": TEXT,
            "ids": _list_of(TEXT),
            "embeddings": _list_of(_or_null(BASE64)),
            "documents": _list_of(_or_null(TEXT)),
            "metadatas": _list_of(_or_null(ANY_OBJECT)),
            "uris": _list_of(_or_null(TEXT)),
        },
        "required": ["kind"],
    },
    FlushResult: _object(lsn=COUNT, reached=STAGE, waiting=_list_of(TEXT)),
    IndexingStatus: _object(
        op_indexing_progress={"type": "number"}, num_unindexed_ops=COUNT, num_indexed_ops=COUNT, total_ops=COUNT
    ),
}
"""What results look like, by their type; each is a component of its name."""

PLAIN: Final[dict[Any, JsonSchema]] = {
    type(None): NOTHING,
    WriteResult: NOTHING,
    bool: {"type": "boolean"},
    int: COUNT,
    CountResult: COUNT,
    str: TEXT,
    Any: {},
}
SPECIAL: Final[dict[type[Call[Any]], JsonSchema]] = {
    Heartbeat: _object(**{"nanosecond heartbeat": COUNT}),
    GetPreflight: _object(max_batch_size=COUNT, supports_base64_encoding={"type": "boolean"}),
    GetIngestPosition: _object(position=COUNT, lsn=_or_null(COUNT)),
}
"""Calls whose answer is not told by the type of their result."""

ERROR: Final = _object(error={"type": "string", "description": "name of the class of errors"}, message=TEXT)

SECURITY: Final[JsonObject] = {
    "password": {"type": "http", "scheme": "basic"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "a token, or a JWT"},
    "token": {"type": "apiKey", "in": "header", "name": "X-Chroma-Token"},
}
"""How callers may say who they are, if a server asks them; it may take only some of these."""


@cache
def openapi_document(version: str) -> JsonObject:
    """Return the document; `version` is that of the server."""
    paths: dict[str, JsonObject] = {}
    for call in (*CALLS, *UNSUPPORTED):
        paths.setdefault(call.route.path, {})[call.route.method.lower()] = _operation(call)
    components = {kind.__name__: schema for kind, schema in COMPONENTS.items()} | {"Error": ERROR}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "chroma_async",
            "version": version,
            "description": "A vector database that speaks Chroma's API. Filters, and all else that is JSON in itself, are "
            "described in its documentation.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": components, "securitySchemes": SECURITY},
        "security": [{}, *({name: []} for name in SECURITY)],
    }


def _operation(call: type[Call[Any]]) -> JsonObject:
    route = call.route
    supported = call not in UNSUPPORTED
    refusal = {"description": "Refused.", "content": _json({"$ref": "#/components/schemas/Error"})}
    operation: JsonObject = {
        "operationId": call.__name__,
        "tags": [call.__module__.rpartition(".")[2] if supported else "not supported"],
        "summary": _summary(call),
        "parameters": [_parameter(call, name) for name in (*route.path_fields, *route.query)]
        + ([_parameter(call, KEY_FIELD)] if call.takes_key else [])
        + ([LAST_EVENT_ID] if supported and _result_type(call) is ChangeFeed else []),
        "responses": {str(status): refusal for status in _refusals(call)},
    }
    if supported:
        operation["responses"][str(route.status)] = _done(call)
    if call in (Heartbeat, GetVersion):
        operation["security"] = []
    if call is Ingest:
        operation["requestBody"] = {"required": True, "content": _stream_body()}
        return operation
    body = _body(call) if route.has_body else None
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    return operation


def _stream_body() -> JsonObject:
    """Return what a stream may be of: no schema is of more than one of its lines."""
    line = {**_schema_of(Line), "description": "one on each line"}
    return {NDJSON: {"schema": line}, ARROW: {"schema": {"description": "an Arrow IPC stream with these columns"}}}


def _done(call: type[Call[Any]]) -> JsonObject:
    if call is Ingest:
        schema = {**_schema_of(Acknowledgement), "description": "one on each line"}
        return {"description": "Done.", "content": {NDJSON: {"schema": schema}}}
    if _result_type(call) is not ChangeFeed:
        return {"description": "Done.", "content": _json(_answer(call))}
    kinds = {EVENT_STREAM: "the data of each event", NDJSON: "each line"}
    content = {kind: {"schema": {"type": "string", "description": f"{what} is a Change"}} for kind, what in kinds.items()}
    return {"description": "Changes, for as long as both sides want.", "content": content}


def _refusals(call: type[Call[Any]]) -> list[int]:
    """Statuses of the errors that a call may be answered by, beside those that a proxy makes."""
    found = {401, 403, 429, 500, 503}
    if call.route.path_fields or call.route.query:
        found |= {400, 404}
    if call not in UNSUPPORTED and _result_type(call) is ChangeFeed:
        found |= {410}
    if call.route.has_body:
        found |= {400, 404, 408, 413, 415, 422}
    if call.route.method != "GET":
        found |= {408, 409, 507}
    if call in UNSUPPORTED:
        found |= {404, 501}
    return sorted(found)


def _json(schema: JsonSchema) -> JsonObject:
    return {"application/json": {"schema": schema}}


def _summary(call: type[Call[Any]]) -> str:
    own = (
        vars(call).get("__doc__") or "Part of Chroma's API; refused with status 501, or 404 where there is nothing to find."
    )
    return " ".join(inspect.cleandoc(own).partition("\n\n")[0].split())


def _parameter(call: type[Call[Any]], name: str) -> JsonObject:
    types, place = {field.name: field.type for field in msgspec.structs.fields(call)}, call.place_of(name)
    if place == "header":
        return {"name": KEY_HEADER, "in": place, "required": False, "schema": KEY}
    schema = COUNT if types[name] in (int, int | None) else _schema_of(types[name])
    return {"name": name, "in": place, "required": place == "path" or (call is GetIngestPosition), "schema": schema}


def _body(call: type[Call[Any]]) -> JsonSchema | None:
    """Return what the body holds; None when that is nothing."""
    found = [field for field in msgspec.structs.fields(call) if call.place_of(field.name) == "body"]
    if not found:
        return None
    return {
        "type": "object",
        "properties": {field.name: _schema_of(field.type) for field in found},
        "required": [field.name for field in found if field.required],
    }


def _schema_of(kind: Any) -> JsonSchema:
    """Return the schema of one type, whole: what it refers to is put in its place."""
    (schema,), components = msgspec.json.schema_components([kind], schema_hook=_schema_of_custom)
    return cast("JsonSchema", _inlined(schema, components))


def _inlined(schema: Any, components: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(item, components) for item in cast("Sequence[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    entries = cast("JsonSchema", schema)
    if "$ref" in entries:
        return _inlined(components[str(entries["$ref"]).rpartition("/")[2]], components)
    return {key: _inlined(item, components) for key, item in entries.items() if key not in ("default", "title")}


def _schema_of_custom(kind: type[Any]) -> JsonSchema:
    if kind is EmbeddingBatch:
        return {"anyOf": [_list_of(_or_null(VECTOR)), _list_of(_or_null(BASE64))]}
    if kind is np.ndarray:
        return _list_of(VECTOR)
    raise TypeError(f"no schema for {kind}")


def _answer(call: type[Call[Any]]) -> JsonSchema:
    special = SPECIAL.get(call)
    return _result_schema(_result_type(call)) if special is None else special


def _result_schema(kind: Any) -> JsonSchema:
    if kind in COMPONENTS:
        return {"$ref": f"#/components/schemas/{kind.__name__}"}
    if kind in PLAIN:
        return PLAIN[kind]
    if get_origin(kind) is list:
        return _list_of(_result_schema(get_args(kind)[0]))
    if get_origin(kind) is dict:
        return {"type": "object", "additionalProperties": _result_schema(get_args(kind)[1])}
    raise TypeError(f"no schema for {kind}")


def _result_type(call: type[Any]) -> Any:
    """Return `R` of the nearest base `...[R]` that says it."""
    for base in call.__mro__:
        for generic in cast("Sequence[Any]", vars(base).get("__orig_bases__", ())):
            if len(get_args(generic)) == 1 and not hasattr(get_args(generic)[0], "__bound__"):
                return get_args(generic)[0]
    raise TypeError(f"no result type of {call}")
