"""A collection's schema: which value types of which keys are indexed, as `create_collection(schema=...)` says.

A collection without a schema of its own (`Collection.schema` is None) shows the default one. A schema of its own is kept in
the form in which it is shown, filled from the defaults; what the index configuration and the written fields say is laid over
it whenever it is shown. Nothing is built or left out because of it: a disabled index only forbids filters on that key.
Format and messages: Chroma 1.5.9, `schema` of `POST /api/v2/.../collections`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, TypeAlias, assert_never, cast

import msgspec
from msgspec.structs import replace

from chroma_async.core.where import And, DocumentTest, FieldTest, Or, Where
from chroma_async.errors import InvalidArgumentError, UnimplementedError
from chroma_async.model import Collection, HnswConfiguration, JsonObject, Space
from chroma_async.protocol.embedding_function import check_embedding_function, is_default_function, kept_function
from chroma_async.protocol.explain import converted

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]

DOCUMENT: Final = "#document"
EMBEDDING: Final = "#embedding"

INDEX_OF_KIND: Final[Mapping[str, tuple[str, str]]] = {
    "str": ("string", "string_inverted_index"),
    "int": ("int", "int_inverted_index"),
    "float": ("float", "float_inverted_index"),
    "bool": ("bool", "bool_inverted_index"),
}
"""For each kind of metadata value its type and index in a schema."""

_WIRE_TYPE: Final[Mapping[type, tuple[str, str]]] = {
    str: ("str", "Str"),
    bool: ("bool", "Bool"),
    int: ("int", "Int"),
    float: ("float", "Float"),
}

# ---- what a client sends


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `config` of an index without options."""


class PlainIndex(msgspec.Struct, frozen=True):
    enabled: bool
    config: NoOptions


class HnswOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """In the order in which a schema shows them, and a refusal names them."""

    ef_construction: Count | None = None
    max_neighbors: Count | None = None
    ef_search: Count | None = None
    num_threads: Count | None = None
    batch_size: Count | None = None
    sync_threshold: Count | None = None
    resize_factor: float | None = None


class VectorOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`spann` is accepted for what it says elsewhere, and not kept, as on Chroma's single node."""

    space: Space | None = None
    embedding_function: dict[str, Any] | None = None
    source_key: str | None = None
    hnsw: HnswOptions | None = None
    spann: dict[str, Any] | None = None


class VectorIndex(msgspec.Struct, frozen=True):
    enabled: bool
    config: VectorOptions


class SparseOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    embedding_function: dict[str, Any] | None = None
    source_key: str | None = None
    bm25: bool | None = None
    algorithm: str | None = None


class SparseIndex(msgspec.Struct, frozen=True):
    enabled: bool
    config: SparseOptions


class StringType(msgspec.Struct, frozen=True):
    fts_index: PlainIndex | None = None
    string_inverted_index: PlainIndex | None = None


class FloatListType(msgspec.Struct, frozen=True):
    vector_index: VectorIndex | None = None


class SparseVectorType(msgspec.Struct, frozen=True):
    sparse_vector_index: SparseIndex | None = None


class IntType(msgspec.Struct, frozen=True):
    int_inverted_index: PlainIndex | None = None


class FloatType(msgspec.Struct, frozen=True):
    float_inverted_index: PlainIndex | None = None


class BoolType(msgspec.Struct, frozen=True):
    bool_inverted_index: PlainIndex | None = None


class ValueTypes(msgspec.Struct, frozen=True):
    string: StringType | None = None
    float_list: FloatListType | None = None
    sparse_vector: SparseVectorType | None = None
    int_type: IntType | None = msgspec.field(name="int", default=None)
    float_type: FloatType | None = msgspec.field(name="float", default=None)
    bool_type: BoolType | None = msgspec.field(name="bool", default=None)

    @property
    def given(self) -> set[str]:
        """The types of which something is said."""
        return {name for name in self.__struct_fields__ if getattr(self, name) is not None}

    @property
    def vector_index(self) -> VectorIndex | None:
        return None if self.float_list is None else self.float_list.vector_index

    @property
    def sparse_index(self) -> SparseIndex | None:
        return None if self.sparse_vector is None else self.sparse_vector.sparse_vector_index

    @property
    def has_full_text(self) -> bool:
        fts = None if self.string is None else self.string.fts_index
        return fts is not None and fts.enabled


class _Outline(msgspec.Struct, frozen=True):
    defaults: dict[str, Any]
    keys: dict[str, Any]
    cmek: dict[str, Any] | None = None


class SchemaInput(msgspec.Struct, frozen=True):
    defaults: ValueTypes
    keys: dict[str, ValueTypes]


# Looked into now: msgspec's first look into a type must not be taken by two threads at once.
_PREPARED: Final = tuple(map(msgspec.json.Decoder, (_Outline, SchemaInput)))


def parse_schema(raw: Mapping[str, Any]) -> SchemaInput:
    """Return the schema of a creation, checked.

    Raises:
        MalformedRequestError: a part is missing, unknown or of the wrong type.
        InvalidArgumentError: an index stands where there can be none.
        UnimplementedError: it asks for encryption with a key of the customer's.
    """
    outline = converted(raw, _Outline, "schema")
    if outline.cmek is not None:
        raise UnimplementedError("customer-managed encryption keys are not supported; leave `cmek` out of the schema")
    schema = SchemaInput(
        defaults=converted(outline.defaults, ValueTypes, "schema.defaults"),
        keys={key: converted(types, ValueTypes, f"schema.keys.{key}") for key, types in outline.keys.items()},
    )
    problem = next(_problems(schema), None)
    if problem is not None:
        raise InvalidArgumentError(f"Validation error: schema: {problem}")
    return schema


def _problems(schema: SchemaInput) -> Iterator[str]:
    vector, sparse = schema.defaults.vector_index, schema.defaults.sparse_index
    if vector is not None and vector.enabled:
        yield "Vector index cannot be enabled by default. It can only be enabled on #embedding field."
    if schema.defaults.has_full_text:
        yield (
            "Full text search / regular expression index cannot be enabled by default. "
            "It can only be enabled on #document field."
        )
    if sparse is not None and sparse.enabled:
        yield (
            "Sparse vector index cannot be enabled by default. Please enable sparse vector index on specific keys. "
            "At most one sparse vector index is allowed for the collection."
        )
    for key, types in schema.keys.items():
        yield from _problems_of_key(key, types)


def _problems_of_key(key: str, types: ValueTypes) -> Iterator[str]:
    for index in (types.vector_index, types.sparse_index):
        if index is not None:
            check_embedding_function(index.config.embedding_function, f"schema.keys.{key}.config")
    if key == DOCUMENT:
        yield from _problems_of_document(types)
    elif key == EMBEDDING:
        yield from _problems_of_embedding(types)
    elif key.startswith("#"):
        yield f"key cannot begin with '#'. Keys starting with '#' are reserved for system use: {key}"
    else:
        yield from _problems_of_field(key, types)


def _problems_of_document(types: ValueTypes) -> Iterator[str]:
    if types.given - {"string"}:
        yield f"Document field cannot have any value types other than string: {DOCUMENT}"
    inverted = None if types.string is None else types.string.string_inverted_index
    if inverted is not None and inverted.enabled:
        yield f"String inverted index can not be enabled on #document key: {DOCUMENT}"


def _problems_of_embedding(types: ValueTypes) -> Iterator[str]:
    if types.given - {"float_list"}:
        yield f"Embedding field cannot have any value types other than float_list: {EMBEDDING}"
    vector = types.vector_index
    if vector is not None and vector.config.source_key not in (None, DOCUMENT):
        yield f"Vector index can only source from {DOCUMENT}"


def _problems_of_field(key: str, types: ValueTypes) -> Iterator[str]:
    vector, sparse = types.vector_index, types.sparse_index
    if vector is not None and vector.enabled:
        yield f"Vector index can only be enabled on #embedding field: {key}"
    if types.has_full_text:
        yield f"Full text search / regular expression index can only be enabled on #document field: {key}"
    if sparse is not None and sparse.enabled and sparse.config.source_key and sparse.config.embedding_function is None:
        yield (
            "If source_key is provided then embedding_function must also be provided "
            "since there is no default embedding function."
        )


# ---- schema and configuration


def is_default_schema(schema: SchemaInput) -> bool:
    """Whether a schema says no more than every collection's does; only then a configuration may stand beside it."""
    if set(schema.keys) - {DOCUMENT, EMBEDDING}:
        return False
    document = schema.keys.get(DOCUMENT, ValueTypes())
    embedding = schema.keys.get(EMBEDDING, ValueTypes()).vector_index
    return (
        _has_default_flags(schema.defaults, default_types(HnswConfiguration(), None))
        and _has_default_flags(document, _document_types())
        and _is_default_vector(schema.defaults.vector_index, enabled=False, source_key=None)
        and _is_default_vector(embedding, enabled=True, source_key=DOCUMENT)
    )


def _has_default_flags(types: ValueTypes, expected: JsonObject) -> bool:
    given = _shown(types)
    given.pop("float_list", None)
    return all(
        options["enabled"] == expected[name][index]["enabled"]
        for name, indexes in given.items()
        for index, options in indexes.items()
    )


def _is_default_vector(index: VectorIndex | None, *, enabled: bool, source_key: str | None) -> bool:
    if index is None:
        return True
    options = index.config
    return (
        index.enabled == enabled
        and options.space in (None, "l2")
        and is_default_function(options.embedding_function)
        and options.source_key == source_key
        and replace(_hnsw(options), num_threads=0) == HnswConfiguration()
    )


def _hnsw(options: VectorOptions) -> HnswConfiguration:
    given = {} if options.hnsw is None else msgspec.structs.asdict(options.hnsw)
    chosen = {name: value for name, value in {"space": options.space, **given}.items() if value is not None}
    return replace(HnswConfiguration(), **chosen)


def resolve_schema(schema: SchemaInput) -> tuple[JsonObject, HnswConfiguration, JsonObject | None]:
    """Return the schema as it is kept, and the index configuration and embedding function that it means.

    Raises:
        InvalidArgumentError: it asks for an index that a single node does not have.
    """
    if any(types.sparse_index is not None and types.sparse_index.enabled for types in schema.keys.values()):
        raise InvalidArgumentError(
            "Failed to reconcile schema: Invalid schema input: Sparse vector indexing is not enabled in local"
        )
    embedding = schema.keys.get(EMBEDDING, ValueTypes()).vector_index
    options = VectorOptions() if embedding is None else embedding.config
    hnsw, function = _hnsw(options), _function(options)
    keys = {key: _shown(types) for key, types in schema.keys.items() if key not in (DOCUMENT, EMBEDDING)}
    keys[DOCUMENT] = _laid_over(_document_types(), _shown(schema.keys.get(DOCUMENT, ValueTypes())))
    keys[EMBEDDING] = _embedding_types(hnsw, function, embedding is None or embedding.enabled)
    return {"defaults": _filled_defaults(schema.defaults), "keys": keys}, hnsw, function


def _function(options: VectorOptions) -> JsonObject | None:
    """An unknown function is none in a schema."""
    kept = kept_function(options.embedding_function)
    return None if kept is None or kept["type"] == "unknown" else kept


def _filled_defaults(types: ValueTypes) -> JsonObject:
    vector = types.vector_index
    options = VectorOptions() if vector is None else vector.config
    filled = _laid_over(default_types(_hnsw(options), options.embedding_function), _shown(types))
    if options.source_key is not None:
        filled["float_list"]["vector_index"]["config"]["source_key"] = options.source_key
    return filled


def _shown(types: ValueTypes) -> JsonObject:
    """Return the given parts without nulls, and without what is not kept."""
    given = cast("JsonObject", _without_nulls(msgspec.to_builtins(types)))
    for value_type, index in (("float_list", "vector_index"), ("sparse_vector", "sparse_vector_index")):
        options = given.get(value_type, {}).get(index, {}).get("config", {})
        options.pop("spann", None)
        options.pop("algorithm", None)
    return given


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    entries = cast("JsonObject", value).items()
    return {key: _without_nulls(item) for key, item in entries if item is not None}


def _laid_over(base: JsonObject, given: Mapping[str, Any]) -> JsonObject:
    """Return `base` with the given parts in place of its own, part by part; an embedding function is one part."""
    merged = dict(base)
    for key, item in given.items():
        both = isinstance(item, dict) and isinstance(merged.get(key), dict) and key != "embedding_function"
        merged[key] = _laid_over(merged[key], cast("JsonObject", item)) if both else item
    return merged


def updated_schema(schema: JsonObject | None, changes: Mapping[str, Any], function: JsonObject | None) -> JsonObject | None:
    """Return a collection's own schema after `modify`: the defaults follow the changed index settings too."""
    if schema is None or not (changes or function):
        return schema
    config: JsonObject = {"hnsw": dict(changes)}
    if function is not None:
        config["embedding_function"] = function
    return _laid_over(schema, {"defaults": {"float_list": {"vector_index": {"config": config}}}})


# ---- what a collection shows


def shown_schema(collection: Collection) -> JsonObject:
    """Return the whole schema: the collection's own or the default one, with its index settings and its fields."""
    hnsw, function = collection.hnsw, collection.embedding_function
    own = collection.schema
    if own is None:
        defaults = default_types(hnsw, function)
        keys: JsonObject = {EMBEDDING: _embedding_types(hnsw, function, enabled=True), DOCUMENT: _document_types()}
    else:
        defaults = own["defaults"]
        enabled = own["keys"][EMBEDDING]["float_list"]["vector_index"]["enabled"]
        keys = {**own["keys"], EMBEDDING: _embedding_types(hnsw, function, enabled)}
    for field, kinds in collection.fields.items():
        value_types = [INDEX_OF_KIND[kind][0] for kind in kinds]
        keys[field] = {**{name: defaults[name] for name in value_types}, **keys.get(field, {})}
    return {"defaults": defaults, "keys": keys}


def default_types(hnsw: HnswConfiguration, function: JsonObject | None) -> JsonObject:
    """Return the `defaults` of a schema in which nothing is said."""
    sparse: JsonObject = {"embedding_function": {"type": "unknown"}, "bm25": False}
    return {
        "string": {"fts_index": _index(enabled=False), "string_inverted_index": _index(enabled=True)},
        "float_list": {"vector_index": {"enabled": False, "config": _vector_options(hnsw, function)}},
        "sparse_vector": {"sparse_vector_index": {"enabled": False, "config": sparse}},
        "int": {"int_inverted_index": _index(enabled=True)},
        "float": {"float_inverted_index": _index(enabled=True)},
        "bool": {"bool_inverted_index": _index(enabled=True)},
    }


def _document_types() -> JsonObject:
    return {"string": {"fts_index": _index(enabled=True), "string_inverted_index": _index(enabled=False)}}


def _embedding_types(hnsw: HnswConfiguration, function: JsonObject | None, enabled: bool) -> JsonObject:
    options = {**_vector_options(hnsw, function), "source_key": DOCUMENT}
    return {"float_list": {"vector_index": {"enabled": enabled, "config": options}}}


def _index(*, enabled: bool) -> JsonObject:
    return {"enabled": enabled, "config": {}}


def _vector_options(hnsw: HnswConfiguration, function: JsonObject | None) -> JsonObject:
    settings: JsonObject = {name: getattr(hnsw, name) for name in HnswOptions.__struct_fields__}
    settings["num_threads"] = hnsw.num_threads or _processors()
    options: JsonObject = {"space": hnsw.space, "hnsw": settings}
    if function is not None:
        options["embedding_function"] = function
    return options


def _processors() -> int:
    return os.cpu_count() or 1


# ---- filters


def check_filter_allowed(collection: Collection, where: Where | None) -> None:
    """Refuse a filter on what the collection's schema says is not indexed.

    Raises:
        InvalidArgumentError: with the key and type of the first such test.
    """
    if collection.schema is not None and where is not None:
        _check_tests(shown_schema(collection), where)


def _check_tests(schema: JsonObject, where: Where) -> None:
    match where:
        case And(children) | Or(children):
            for child in children:
                _check_tests(schema, child)
        case DocumentTest():
            if not schema["keys"][DOCUMENT]["string"]["fts_index"]["enabled"]:
                raise InvalidArgumentError("Cannot filter using full-text search because FTS indexing is disabled")
        case FieldTest():
            _check_field(schema, where)
        case _:
            assert_never(where)


def _check_field(schema: JsonObject, test: FieldTest) -> None:
    operand = test.operand[0] if isinstance(test.operand, tuple) else test.operand
    kind, shown_kind = _WIRE_TYPE[type(operand)]
    value_type, index = INDEX_OF_KIND[kind]
    types = schema["keys"].get(test.field, {}).get(value_type, {})
    if not types.get(index, schema["defaults"][value_type][index])["enabled"]:
        raise InvalidArgumentError(
            f"Cannot filter using metadata key '{test.field}' with type '{shown_kind}' because indexing is disabled"
        )
