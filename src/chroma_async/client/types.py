"""Names for what users pass and get, as Chroma has them, for annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

ID: TypeAlias = str
IDs: TypeAlias = list[str]
URI: TypeAlias = str
URIs: TypeAlias = list[str]
Document: TypeAlias = str
Documents: TypeAlias = list[str]

Embedding: TypeAlias = npt.NDArray[np.float32] | Sequence[float] | Sequence[int]
"""One vector, shape (ndim,)."""
Embeddings: TypeAlias = npt.NDArray[np.float32] | Sequence[Embedding]
"""n vectors, shape (n, ndim)."""

PyEmbedding: TypeAlias = Sequence[float] | Sequence[int]
PyEmbeddings: TypeAlias = Sequence[PyEmbedding]
Vector: TypeAlias = npt.NDArray[np.float32]

Image: TypeAlias = npt.NDArray[np.generic]
Images: TypeAlias = list[Image]
Embeddable: TypeAlias = Documents | Images
Loadable: TypeAlias = list[Image | None]

T = TypeVar("T")
OneOrMany: TypeAlias = T | list[T]

MetadataScalar: TypeAlias = str | int | float | bool
Metadata: TypeAlias = Mapping[str, MetadataScalar | list[MetadataScalar] | None]
Metadatas: TypeAlias = list[Metadata]
UpdateMetadata: TypeAlias = Metadata
"""A None value deletes that field."""
CollectionMetadata: TypeAlias = dict[str, Any]
UpdateCollectionMetadata: TypeAlias = Metadata

Where: TypeAlias = dict[str, Any]
"""`{field: value}`, `{field: {operator: operand}}`, `{"$and": [...]}` or `{"$or": [...]}`."""
WhereDocument: TypeAlias = dict[str, Any]
"""`{"$contains": text}` and its like, `{"$and": [...]}` or `{"$or": [...]}`."""
Include: TypeAlias = list[Literal["documents", "embeddings", "metadatas", "distances", "uris", "data"]]


class ReadLevel(StrEnum):
    """How fresh a count must be: `INDEX_ONLY` counts what was applied, the others everything that was acknowledged."""

    INDEX_AND_WAL = "index_and_wal"
    INDEX_ONLY = "index_only"
    INDEX_AND_BOUNDED_WAL = "index_and_bounded_wal"


class TokenTransportHeader(StrEnum):
    """Header that carries a token: value of `Settings(chroma_auth_token_transport_header=...)`."""

    AUTHORIZATION = "Authorization"
    X_CHROMA_TOKEN = "X-Chroma-Token"
