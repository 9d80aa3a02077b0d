"""The collection object of the wire, `configuration_json`, and what the arguments of its creation mean.

Format: Chroma 1.5.9, `POST /api/v2/.../collections`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from chroma_async.errors import InvalidArgumentError
from chroma_async.model import Collection, CollectionId, HnswConfiguration, Json, JsonObject, Space
from chroma_async.protocol.embedding_function import is_default_function, kept_function
from chroma_async.protocol.explain import sentence
from chroma_async.protocol.schema import (
    EMBEDDING,
    INDEX_OF_KIND,
    Count,
    is_default_schema,
    parse_schema,
    resolve_schema,
    shown_schema,
    updated_schema,
)

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

LEGACY_AT_LEAST_TWO: Final = ("hnsw:batch_size", "hnsw:sync_threshold")
LEGACY_REFUSAL: Final = "Failed to parse hnsw parameters from segment metadata"


class HnswInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`configuration.hnsw` as a client sends it. A refusal names the fields in their order."""

    space: Space | None = None
    ef_construction: Count | None = None
    ef_search: Count | None = None
    max_neighbors: Count | None = None
    num_threads: Count | None = None
    resize_factor: float | None = None
    sync_threshold: Count | None = None
    batch_size: Count | None = None


class HnswUpdate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`new_configuration.hnsw`: what can change after creation."""

    ef_search: Count | None = None
    max_neighbors: Count | None = None
    num_threads: Count | None = None
    resize_factor: float | None = None
    sync_threshold: Count | None = None
    batch_size: Count | None = None


class SpannInput(msgspec.Struct, frozen=True):
    """`configuration.spann`: stored as HNSW with its space, as Chroma's single-node server does."""

    space: Space | None = None


class ConfigurationInput(msgspec.Struct, frozen=True):
    hnsw: HnswInput | None = None
    spann: SpannInput | None = None
    embedding_function: dict[str, Any] | None = None


class ConfigurationUpdate(msgspec.Struct, frozen=True):
    hnsw: HnswUpdate | None = None
    spann: SpannInput | None = None
    embedding_function: dict[str, Any] | None = None


# Looked into now: msgspec's first look into a type must not be taken by two threads at once.
_PREPARED: Final = tuple(map(msgspec.json.Decoder, (ConfigurationInput, ConfigurationUpdate)))


class CollectionSettings(msgspec.Struct, frozen=True):
    """What is decided about a collection's index; `schema` is None where it is the default one."""

    hnsw: HnswConfiguration
    embedding_function: JsonObject | None
    schema: JsonObject | None = None


def resolve_configuration(
    configuration: ConfigurationInput | None, metadata: Mapping[str, Json] | None
) -> HnswConfiguration:
    """Return the index configuration that creation arguments mean.

    An explicit one beats legacy `hnsw:*` metadata wholly, unless it says no more than the defaults, as clients often send.

    Raises:
        InvalidArgumentError: two kinds of index, or a legacy key that is unknown or has a wrong value.
    """
    given = configuration or ConfigurationInput()
    if given.hnsw is not None and given.spann is not None:
        raise InvalidArgumentError("Multiple vector index configurations provided")
    if given.spann is not None:
        return HnswConfiguration(space=given.spann.space or "l2")
    legacy = _overlay(HnswConfiguration(), _legacy(metadata or {}))
    explicit = HnswConfiguration() if given.hnsw is None else _overlay(HnswConfiguration(), given.hnsw)
    return legacy if explicit == HnswConfiguration() else explicit


def resolve_creation(
    configuration: ConfigurationInput | None, schema: Mapping[str, Any] | None, metadata: Mapping[str, Json] | None
) -> CollectionSettings:
    """Return what creation arguments mean: a schema of its own, or a configuration; never both.

    Raises:
        InvalidArgumentError, MalformedRequestError: one of them is wrong, or both say something.
    """
    hnsw = resolve_configuration(configuration, metadata)
    function = None if configuration is None else kept_function(configuration.embedding_function)
    parsed = None if schema is None else parse_schema(schema)
    if parsed is None or is_default_schema(parsed):
        return CollectionSettings(hnsw, function)
    if hnsw != HnswConfiguration() or not is_default_function(function):
        raise InvalidArgumentError("Failed to reconcile schema: Cannot set both collection config and schema simultaneously")
    own, hnsw, function = resolve_schema(parsed)
    return CollectionSettings(hnsw, function, own)


def updated_settings(collection: Collection, update: ConfigurationUpdate | None) -> CollectionSettings:
    """Return the settings after `modify`.

    Raises:
        InvalidArgumentError: two kinds of index.
    """
    given = update or ConfigurationUpdate()
    hnsw = updated_configuration(collection.hnsw, given)
    changes = {} if given.hnsw is None else {k: v for k, v in msgspec.structs.asdict(given.hnsw).items() if v is not None}
    function = kept_function(given.embedding_function)
    schema = updated_schema(collection.schema, changes, function)
    return CollectionSettings(hnsw, function or collection.embedding_function, schema)


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
    return msgspec.structs.replace(
        base, **{name: value for name, value in msgspec.structs.asdict(given).items() if value is not None}
    )


def _legacy(metadata: Mapping[str, Json]) -> HnswInput:
    """Return what the metadata says about the index.

    Raises:
        InvalidArgumentError: a key that begins with `hnsw:` is unknown, or has a wrong value.
    """
    found: dict[str, Json] = {}
    for key, value in metadata.items():
        if not key.startswith("hnsw:"):
            continue
        if key not in LEGACY_KEYS:
            raise InvalidArgumentError(f"{LEGACY_REFUSAL}. unknown key {key}; allowed: {', '.join(LEGACY_KEYS)}")
        alone: JsonObject = {"hnsw": {LEGACY_KEYS[key]: value}}
        try:
            msgspec.convert(alone, ConfigurationInput)
        except msgspec.ValidationError as error:
            raise InvalidArgumentError(f"{LEGACY_REFUSAL}. {key}: {sentence(error, alone, ConfigurationInput)}") from error
        if key in LEGACY_AT_LEAST_TWO and isinstance(value, int) and value < 2:
            raise InvalidArgumentError(f"{LEGACY_REFUSAL}. {key} must be at least 2, got {value}")
        found[LEGACY_KEYS[key]] = value
    return msgspec.convert(found, HnswInput)


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
        "schema": shown_schema(collection),
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
    schema = cast("JsonObject | None", raw.get("schema"))
    sent = _hnsw_of_schema(schema) | cast("JsonObject", configuration.get("hnsw") or configuration.get("spann") or {})
    return Collection(
        id=CollectionId(raw["id"]),
        name=raw["name"],
        tenant=raw["tenant"],
        database=raw["database"],
        metadata=raw.get("metadata"),
        hnsw=HnswConfiguration(
            **{name: value for name, value in sent.items() if name in HnswConfiguration.__struct_fields__}
        ),
        embedding_function=configuration.get("embedding_function"),
        dimension=raw.get("dimension"),
        fields=_fields_of_schema(schema),
        schema=schema,
    )


def _hnsw_of_schema(schema: Mapping[str, Any] | None) -> JsonObject:
    """The schema names settings that the configuration leaves out: `num_threads` and `batch_size`."""
    keys: JsonObject = {} if schema is None else schema["keys"]
    types: JsonObject = keys.get(EMBEDDING, {}).get("float_list", {})
    found: JsonObject | None = types.get("vector_index", {}).get("config", {}).get("hnsw")
    return found or {}


def _fields_of_schema(schema: Mapping[str, Any] | None) -> dict[str, tuple[str, ...]]:
    kind_of = {wire: kind for kind, (wire, _) in INDEX_OF_KIND.items()}
    keys = cast("dict[str, dict[str, Any]]", (schema or {}).get("keys", {}))
    return {
        field: tuple(kind_of[wire] for wire in kinds if wire in kind_of)
        for field, kinds in keys.items()
        if not field.startswith("#")
    }
