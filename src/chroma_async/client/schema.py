"""`Schema`: what of a collection is indexed, put together step by step as with Chroma.

    Schema().create_index(VectorIndexConfig(space="cosine")).delete_index(StringInvertedIndexConfig(), key="title")

It holds the JSON form of the wire; the server fills in what is not said.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, TypeAlias, TypeVar, cast

from chroma_async.client.embedding import DEFAULT_EMBEDDING, LEGACY, EmbeddingArgument, default_space, describe
from chroma_async.model import JsonObject, Space

S = TypeVar("S", bound="Schema")

DOCUMENT_KEY: Final = "#document"
EMBEDDING_KEY: Final = "#embedding"


@dataclass(frozen=True, kw_only=True)
class HnswIndexConfig:
    """How the vector index is built and searched; None takes the default."""

    ef_construction: int | None = None
    max_neighbors: int | None = None
    ef_search: int | None = None
    num_threads: int | None = None
    batch_size: int | None = None
    sync_threshold: int | None = None
    resize_factor: float | None = None


@dataclass(frozen=True, kw_only=True)
class SpannIndexConfig:
    """The vector index of Chroma's cloud; a single node, such as ours, accepts and ignores it."""

    search_nprobe: int | None = None
    write_nprobe: int | None = None
    ef_construction: int | None = None
    ef_search: int | None = None
    max_neighbors: int | None = None
    reassign_neighbor_count: int | None = None
    split_threshold: int | None = None
    merge_threshold: int | None = None


@dataclass(frozen=True, kw_only=True)
class VectorIndexConfig:
    """Distance, embedding function and index of the vectors. `source_key` is always the document."""

    space: Space | None = None
    embedding_function: EmbeddingArgument = DEFAULT_EMBEDDING
    source_key: str | None = None
    hnsw: HnswIndexConfig | None = None
    spann: SpannIndexConfig | None = None


@dataclass(frozen=True, kw_only=True)
class SparseVectorIndexConfig:
    """The index of sparse vectors, which a single node, such as ours, does not have and refuses."""

    embedding_function: Any = None
    source_key: str | None = None
    bm25: bool | None = None


@dataclass(frozen=True)
class FtsIndexConfig:
    """The index behind `where_document`."""


@dataclass(frozen=True)
class StringInvertedIndexConfig:
    """The index behind filters with texts."""


@dataclass(frozen=True)
class IntInvertedIndexConfig:
    """The index behind filters with whole numbers."""


@dataclass(frozen=True)
class FloatInvertedIndexConfig:
    """The index behind filters with floats."""


@dataclass(frozen=True)
class BoolInvertedIndexConfig:
    """The index behind filters with booleans."""


IndexConfig: TypeAlias = (
    FtsIndexConfig
    | VectorIndexConfig
    | SparseVectorIndexConfig
    | StringInvertedIndexConfig
    | IntInvertedIndexConfig
    | FloatInvertedIndexConfig
    | BoolInvertedIndexConfig
)

PLACES: Final[Mapping[type[Any], tuple[str, str]]] = {
    FtsIndexConfig: ("string", "fts_index"),
    StringInvertedIndexConfig: ("string", "string_inverted_index"),
    IntInvertedIndexConfig: ("int", "int_inverted_index"),
    FloatInvertedIndexConfig: ("float", "float_inverted_index"),
    BoolInvertedIndexConfig: ("bool", "bool_inverted_index"),
    VectorIndexConfig: ("float_list", "vector_index"),
    SparseVectorIndexConfig: ("sparse_vector", "sparse_vector_index"),
}
"""Type of the values and name of the index, in the JSON form."""


class Schema:
    """What is indexed: `defaults` for every key, `keys` for those that differ, both in the JSON form.

    Without a word everything is indexed that can be, and texts are embedded by the default model; a filter on what is not
    indexed is refused.
    """

    def __init__(self) -> None:
        self.defaults: JsonObject = {}
        self.keys: dict[str, JsonObject] = {}
        self._set_vector_index(VectorIndexConfig(), None)

    def create_index(self: S, config: IndexConfig | None = None, key: str | None = None) -> S:
        """Switch an index on: for a key, or without one for all keys. The vector index has no key.

        Raises:
            ValueError: an index where there can be none.
        """
        if isinstance(config, VectorIndexConfig):
            return self._set_vector_index(config, key)
        if isinstance(config, SparseVectorIndexConfig):
            self._check_sparse(config, key)
        self._put(config, key, enabled=True)
        return self

    def delete_index(self: S, config: IndexConfig | None = None, key: str | None = None) -> S:
        """Switch an index off: for a key, or without one for all keys.

        Raises:
            ValueError: the vector index, a sparse one, or one where there can be none.
        """
        if isinstance(config, VectorIndexConfig | SparseVectorIndexConfig):
            raise ValueError(f"this index can't be deleted. got={type(config).__name__}")
        self._put(config, key, enabled=False)
        return self

    def serialize_to_json(self) -> JsonObject:
        """Return the form of the wire."""
        return {"defaults": copy.deepcopy(self.defaults), "keys": copy.deepcopy(self.keys)}

    @classmethod
    def deserialize_from_json(cls: type[S], json_data: Mapping[str, Any]) -> S:
        """Return the schema of a form of the wire, such as `Collection.schema`."""
        schema = cls()
        schema.defaults = copy.deepcopy(json_data.get("defaults", {}))
        schema.keys = copy.deepcopy(json_data.get("keys", {}))
        return schema

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and (self.defaults, self.keys) == (other.defaults, other.keys)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Schema(defaults={self.defaults!r}, keys={self.keys!r})"

    def _put(self, config: IndexConfig | None, key: str | None, *, enabled: bool) -> None:
        if config is None:
            raise ValueError("say which index: FtsIndexConfig(), StringInvertedIndexConfig(), ...")
        if isinstance(config, FtsIndexConfig) != (key == DOCUMENT_KEY):
            raise ValueError(f"FtsIndexConfig is for key {DOCUMENT_KEY!r}, and that key takes no other. got={key!r}")
        if key is not None and key.startswith("#") and key != DOCUMENT_KEY:
            raise ValueError(f"keys that begin with # are the system's. got={key!r}")
        value_type, index = PLACES[type(config)]
        types = self.defaults if key is None else self.keys.setdefault(key, {})
        types.setdefault(value_type, {})[index] = {"enabled": enabled, "config": _options(config)}

    def _set_vector_index(self: S, config: VectorIndexConfig, key: str | None) -> S:
        if key is not None:
            raise ValueError(f"the vector index is set for the whole collection; leave key out. got={key!r}")
        options = _options(config)
        described = {"enabled": True, "config": {**options, "source_key": DOCUMENT_KEY}}
        self.defaults["float_list"] = {"vector_index": {"enabled": False, "config": options}}
        self.keys[EMBEDDING_KEY] = {"float_list": {"vector_index": described}}
        return self

    def _check_sparse(self, config: SparseVectorIndexConfig, key: str | None) -> None:
        if key is None:
            raise ValueError("an index of sparse vectors needs a key")
        if config.source_key is not None and config.embedding_function is None:
            raise ValueError("source_key needs an embedding_function: there is no default one for sparse vectors")
        if any("sparse_vector" in types for other, types in self.keys.items() if other != key):
            raise ValueError(f"there can be one index of sparse vectors only. got={key!r}")


def _options(config: IndexConfig | HnswIndexConfig | SpannIndexConfig) -> JsonObject:
    """The `config` of an index in the JSON form: what is not None."""
    options: JsonObject = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        if isinstance(value, HnswIndexConfig | SpannIndexConfig):
            value = _options(value)
        if value is not None:
            options[entry.name] = value
    if isinstance(config, VectorIndexConfig):
        options["embedding_function"] = describe(config.embedding_function) or dict(LEGACY)
        options.setdefault("space", default_space(config.embedding_function) or "l2")
    elif isinstance(config, SparseVectorIndexConfig):
        options["embedding_function"] = describe(cast("EmbeddingArgument", config.embedding_function)) or {"type": "unknown"}
    return options
