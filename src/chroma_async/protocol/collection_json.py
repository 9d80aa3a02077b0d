"""The collection object of the wire: `configuration_json` and `schema` with the defaults that Chroma's server returns.

Format: Chroma 1.5.9, `POST /api/v2/.../collections`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final, cast

import msgspec

from chroma_async.errors import InvalidArgumentError, MalformedRequestError
from chroma_async.model import Collection, CollectionId, HnswConfiguration, Json, JsonObject, Space

SPACES: Final = ("l2", "cosine", "ip")

LEGACY_KEYS: Final[Mapping[str, str]] = {
    "hnsw:space": "space",
    "hnsw:construction_ef": "ef_construction",
    "hnsw:M": "max_neighbors",
    "hnsw:search_ef": "ef_search",
    "hnsw:num_threads": "num_threads",
    "hnsw:batch_size": "batch_size",
    "hnsw:sync_threshold": "sync_threshold",
    "hnsw:resize_factor": "resize_factor",
}

INDEX_OF_TYPE: Final = {
    "str": ("string", "string_inverted_index"),
    "int": ("int", "int_inverted_index"),
    "float": ("float", "float_inverted_index"),
    "bool": ("bool", "bool_inverted_index"),
}


class HnswInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`configuration.hnsw` as a client sends it."""

    space: Space | None = None
    ef_construction: int | None = None
    ef_search: int | None = None
    max_neighbors: int | None = None
    num_threads: int | None = None
    resize_factor: float | None = None
    sync_threshold: int | None = None
    batch_size: int | None = None


class HnswUpdate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`new_configuration.hnsw`: what can change after creation."""

    ef_search: int | None = None
    max_neighbors: int | None = None
    num_threads: int | None = None
    resize_factor: float | None = None
    sync_threshold: int | None = None
    batch_size: int | None = None


class SpannInput(msgspec.Struct, frozen=True):
    """`configuration.spann`: stored as HNSW with its space, as Chroma's single-node server does."""

    space: Space | None = None


class EmbeddingFunctionTag(msgspec.Struct, frozen=True):
    """The part of an embedding function's configuration that is checked; the whole is kept verbatim."""

    type: str
    name: str | None = None


class ConfigurationInput(msgspec.Struct, frozen=True):
    hnsw: HnswInput | None = None
    spann: SpannInput | None = None
    embedding_function: dict[str, Any] | None = None


class ConfigurationUpdate(msgspec.Struct, frozen=True):
    hnsw: HnswUpdate | None = None
    spann: SpannInput | None = None
    embedding_function: dict[str, Any] | None = None


def resolve_configuration(
    configuration: ConfigurationInput | None, metadata: Mapping[str, Json] | None
) -> HnswConfiguration:
    """Return the index configuration that creation arguments mean; explicit ones beat legacy `hnsw:*` metadata wholly.

    Raises:
        InvalidArgumentError: two kinds of index, or a legacy key that is unknown or has a wrong value.
    """
    given = configuration or ConfigurationInput()
    if given.hnsw is not None and given.spann is not None:
        raise InvalidArgumentError("Multiple vector index configurations provided")
    if given.spann is not None:
        return HnswConfiguration(space=given.spann.space or "l2")
    if given.hnsw is not None:
        return _overlay(HnswConfiguration(), given.hnsw)
    return _overlay(HnswConfiguration(), _legacy(metadata or {}))


def updated_configuration(current: HnswConfiguration, update: ConfigurationUpdate | None) -> HnswConfiguration:
    """Return the configuration after `modify`.

    Raises:
        InvalidArgumentError: two kinds of index.
    """
    if update is None:
        return current
    if update.hnsw is not None and update.spann is not None:
        raise InvalidArgumentError("Multiple vector index configurations provided")
    return current if update.hnsw is None else _overlay(current, update.hnsw)


def _overlay(base: HnswConfiguration, given: HnswInput | HnswUpdate) -> HnswConfiguration:
    changes = {name: value for name, value in msgspec.structs.asdict(given).items() if value is not None}
    for name, value in changes.items():
        if name != "space" and value < 0:
            raise MalformedRequestError(
                "Failed to deserialize the JSON body into the target type: "
                f"configuration.hnsw.{name}: invalid value: integer `{value}`, expected usize"
            )
    return replace(base, **changes)


def _legacy(metadata: Mapping[str, Json]) -> HnswInput:
    found = {key: value for key, value in metadata.items() if key.startswith("hnsw:")}
    unknown = [key for key in found if key not in LEGACY_KEYS]
    if unknown:
        raise InvalidArgumentError(
            f"Failed to parse hnsw parameters from segment metadata. unknown key={unknown[0]!r} "
            f"allowed={', '.join(LEGACY_KEYS)}"
        )
    try:
        return msgspec.convert({LEGACY_KEYS[key]: value for key, value in found.items()}, HnswInput)
    except msgspec.ValidationError as error:
        raise InvalidArgumentError(f"Failed to parse hnsw parameters from segment metadata. {error}") from error


def check_embedding_function(value: Mapping[str, Any] | None) -> None:
    """Refuse an embedding function entry that no client could read back. Nothing named in it is ever imported here."""
    if value is None:
        return
    try:
        tag = msgspec.convert(value, EmbeddingFunctionTag)
    except msgspec.ValidationError as error:
        raise MalformedRequestError(f"configuration.embedding_function: {error}") from error
    known = tag.type in ("legacy", "unknown") or (tag.type == "known" and tag.name is not None and "config" in value)
    if not known:
        raise MalformedRequestError(
            "configuration.embedding_function: expected a type of 'legacy', 'unknown', or 'known' with name and config. "
            f"got={dict(value)!r}"
        )


def collection_to_json(collection: Collection) -> JsonObject:
    hnsw = collection.hnsw
    shown = ("space", "ef_construction", "ef_search", "max_neighbors", "resize_factor", "sync_threshold")
    return {
        "id": collection.id,
        "name": collection.name,
        "configuration_json": {
            "hnsw": {name: getattr(hnsw, name) for name in shown},
            "spann": None,
            "embedding_function": collection.embedding_function,
        },
        "schema": _schema(collection),
        "metadata": collection.metadata,
        "dimension": collection.dimension,
        "tenant": collection.tenant,
        "database": collection.database,
        "log_position": 0,
        "version": 0,
    }


def collection_from_json(raw: Mapping[str, Any]) -> Collection:
    """Return the collection that a server described (ours or Chroma's)."""
    configuration = cast("dict[str, Any]", raw["configuration_json"])
    sent = cast("dict[str, Any]", configuration.get("hnsw") or configuration.get("spann") or {})
    names = {entry.name for entry in fields(HnswConfiguration)}
    return Collection(
        id=CollectionId(raw["id"]),
        name=raw["name"],
        tenant=raw["tenant"],
        database=raw["database"],
        metadata=raw.get("metadata"),
        hnsw=HnswConfiguration(**{name: value for name, value in sent.items() if name in names}),
        embedding_function=configuration.get("embedding_function"),
        dimension=raw.get("dimension"),
        fields=_fields_of_schema(raw.get("schema")),
    )


def _schema(collection: Collection) -> JsonObject:
    embedding = _vector_index(collection)
    off: JsonObject = {"enabled": False, "config": {}}
    on: JsonObject = {"enabled": True, "config": {}}
    defaults: JsonObject = {
        "string": {"fts_index": off, "string_inverted_index": on},
        "float_list": {"vector_index": {"enabled": False, "config": embedding}},
        "sparse_vector": {
            "sparse_vector_index": {
                "enabled": False,
                "config": {"embedding_function": {"type": "unknown"}, "bm25": False},
            }
        },
        "int": {"int_inverted_index": on},
        "float": {"float_inverted_index": on},
        "bool": {"bool_inverted_index": on},
    }
    keys: JsonObject = {
        "#embedding": {
            "float_list": {"vector_index": {"enabled": True, "config": {**embedding, "source_key": "#document"}}}
        },
        "#document": {"string": {"fts_index": on, "string_inverted_index": off}},
    }
    for field, kinds in collection.fields.items():
        keys[field] = {INDEX_OF_TYPE[kind][0]: {INDEX_OF_TYPE[kind][1]: on} for kind in kinds}
    return {"defaults": defaults, "keys": keys}


def _vector_index(collection: Collection) -> JsonObject:
    hnsw = collection.hnsw
    index: JsonObject = {
        "space": hnsw.space,
        "hnsw": {
            "ef_construction": hnsw.ef_construction,
            "max_neighbors": hnsw.max_neighbors,
            "ef_search": hnsw.ef_search,
            "num_threads": hnsw.num_threads or os.cpu_count() or 1,
            "batch_size": hnsw.batch_size,
            "sync_threshold": hnsw.sync_threshold,
            "resize_factor": hnsw.resize_factor,
        },
    }
    if collection.embedding_function is not None:
        index["embedding_function"] = collection.embedding_function
    return index


def _fields_of_schema(schema: object) -> dict[str, tuple[str, ...]]:
    if not isinstance(schema, dict):
        return {}
    kind_of = {wire: kind for kind, (wire, _) in INDEX_OF_TYPE.items()}
    keys = cast("dict[str, dict[str, Any]]", cast("dict[str, Any]", schema).get("keys", {}))
    return {
        field: tuple(kind_of[wire] for wire in kinds if wire in kind_of)
        for field, kinds in keys.items()
        if not field.startswith("#")
    }
