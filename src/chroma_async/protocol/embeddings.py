"""Embeddings between the wire and numpy: base64 or number lists in, one float32 matrix out, no object per number."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from chroma_async.errors import InvalidArgumentError, MalformedRequestError
from chroma_async.model import Vectors
from chroma_async.protocol.explain import PREFIX

NO_VECTORS: Vectors = np.empty((0, 0), dtype=np.float32)


class EmbeddingBatch:
    """The vectors of one write: `vectors` of shape (k, ndim), float32, and which of the call's `count` rows have one.

    `rows` holds the ascending row numbers, shape (k,), or None when every row has a vector (k == count).
    (A plain class: msgspec would decode a dataclass as an object, and hands only foreign types to our decoder.)
    """

    __slots__ = ("count", "rows", "vectors")

    def __init__(self, vectors: Vectors, count: int | None = None, rows: npt.NDArray[np.int64] | None = None) -> None:
        self.vectors = vectors
        self.count = len(vectors) if count is None else count
        self.rows = rows

    def to_wire(self) -> list[str | None]:
        """Base64 of little-endian float32, None for rows without a vector."""
        texts: list[str | None] = [
            binascii.b2a_base64(row.astype("<f4", copy=False).tobytes(), newline=False).decode("ascii")
            for row in self.vectors
        ]
        if self.rows is None:
            return texts
        spread: list[str | None] = [None] * self.count
        for row, text in zip(self.rows.tolist(), texts, strict=True):
            spread[row] = text
        return spread


def decode_embedding_batch(value: object) -> EmbeddingBatch:
    """Return the vectors of an add, upsert or update.

    Raises:
        MalformedRequestError: not a list of number lists or of base64 texts, or a mixture of both.
        InvalidArgumentError: bad base64, vectors of different lengths, or of length 0.
    """
    if not isinstance(value, list):
        raise _wrong_variant("embeddings")
    items = cast("list[object]", value)
    rows = [number for number, item in enumerate(items) if item is not None]
    present = items if len(rows) == len(items) else [items[row] for row in rows]
    vectors = _decode_rows(present)
    return EmbeddingBatch(vectors, len(items), None if len(rows) == len(items) else np.asarray(rows, dtype=np.int64))


def _decode_rows(items: Sequence[object]) -> Vectors:
    if not items:
        return NO_VECTORS
    kinds = {type(item) for item in items}
    if kinds == {str}:
        return _from_base64(cast("Sequence[str]", items))
    if kinds == {list}:
        return from_lists(cast("Sequence[Sequence[object]]", items), "embeddings")
    raise _wrong_variant("embeddings")


def _from_base64(texts: Sequence[str]) -> Vectors:
    try:
        buffers = [binascii.a2b_base64(text, strict_mode=True) for text in texts]
    except (binascii.Error, ValueError) as error:
        raise InvalidArgumentError(f"Invalid base64 string: {error}") from error
    odd = next((buffer for buffer in buffers if len(buffer) % 4), None)
    if odd is not None:
        raise InvalidArgumentError(
            f"Invalid byte length: {len(odd)} bytes cannot be converted to f32 values (must be divisible by 4)"
        )
    _require_equal_lengths([len(buffer) for buffer in buffers])
    flat = np.frombuffer(b"".join(buffers), dtype="<f4").astype(np.float32, copy=False)
    return flat.reshape(len(buffers), -1) if flat.size else np.empty((len(buffers), 0), dtype=np.float32)


def from_lists(rows: Sequence[Sequence[object]], name: str) -> Vectors:
    """Return number lists of equal length as an (n, ndim) float32 matrix; `name` is the field, for messages."""
    if any(not isinstance(row, list) for row in rows):
        raise _wrong_variant(name)
    _require_equal_lengths([len(row) for row in rows])
    try:
        raw = np.asarray(rows)
    except (ValueError, OverflowError) as error:
        raise _wrong_variant(name) from error
    if raw.size == 0:
        return np.empty((len(rows), 0), dtype=np.float32)
    if raw.dtype.kind not in "fiu" or raw.ndim != 2:
        raise _wrong_variant(name)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(raw, dtype=np.float32)


def decode_query_vectors(value: object) -> Vectors:
    """Return the vectors of a query, shape (queries, ndim); base64 is not part of Chroma's query.

    Raises:
        MalformedRequestError: not a list of number lists.
        InvalidArgumentError: the vectors differ in length.
    """
    if not isinstance(value, list):
        raise _wrong_variant("query_embeddings")
    return from_lists(cast("list[list[object]]", value), "query_embeddings")


def _require_equal_lengths(lengths: Sequence[int]) -> None:
    if len(set(lengths)) > 1:
        raise InvalidArgumentError("Inconsistent dimensions in provided embeddings")


def require_finite(vectors: Vectors, name: str) -> None:
    """Refuse NaN and infinity; a sum is finite exactly when its parts are, short of overflow, which is then looked at."""
    if vectors.size and not np.isfinite(vectors.sum(dtype=np.float64)) and not np.isfinite(vectors).all():
        raise InvalidArgumentError(f"Validation error: {name}: Embeddings must not contain NaN or Infinity values")


def _wrong_variant(name: str) -> MalformedRequestError:
    payload = "EmbeddingsPayload" if name == "embeddings" else "Vec<Vec<f32>>"
    return MalformedRequestError(
        f"{PREFIX}{name}: data did not match any variant of untagged enum {payload}: "
        "expected a list of number lists, or for writes a list of base64 texts of little-endian float32, not mixed"
    )
