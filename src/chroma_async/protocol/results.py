"""What calls return, and its JSON. Stored metadata travels as the bytes it is stored in, and is spliced, not re-encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import orjson
from msgspec import Struct

from chroma_async.model import JsonObject, Lsn, Stage, Vectors
from chroma_async.protocol.call import ENCODE_OPTIONS

StoredMetadata: TypeAlias = "bytes | JsonObject | None"
"""Metadata as JSON bytes (from the engine) or as an object (from the wire)."""

Distances: TypeAlias = npt.NDArray[np.float32]


def page(limit: int | None, offset: int | None = None) -> slice:
    """Return which of the found ones a call gets that gives these."""
    first = offset or 0
    return slice(first, None if limit is None else first + limit)


def metadata_object(stored: StoredMetadata) -> JsonObject | None:
    """Return metadata as a dictionary, whichever way it came."""
    return cast("JsonObject", orjson.loads(stored)) if isinstance(stored, bytes) else stored


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Where a write stands in the log, None from a server that does not say; and how far it has come."""

    lsn: Lsn | None
    reached: Stage = "committed"


@dataclass(frozen=True, slots=True)
class DeleteResult:
    deleted: int
    lsn: Lsn | None
    reached: Stage = "committed"


@dataclass(frozen=True, slots=True)
class FlushResult:
    """How far everything has come that was acknowledged by `lsn`, and the names of the collections that are no further."""

    lsn: Lsn
    reached: Stage
    waiting: list[str]


@dataclass(frozen=True, slots=True)
class PurgeResult:
    """The receipt of a purge that was asked for at `lsn`; `done`: it is over, and the rest is known.

    No file of the data directory holds a byte of what was deleted or replaced through `applied_lsn`; `records` are left,
    `dropped_vectors` belonged to none. `ended_at` is in seconds since 1970.
    """

    lsn: Lsn
    done: bool
    applied_lsn: Lsn | None = None
    records: int | None = None
    dropped_vectors: int | None = None
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class IndexingStatus:
    """How far the indexes have come: an operation is one written or deleted record."""

    num_indexed_ops: int
    num_unindexed_ops: int

    @property
    def total_ops(self) -> int:
        return self.num_indexed_ops + self.num_unindexed_ops

    @property
    def op_indexing_progress(self) -> float:
        """Share of operations that are indexed, 0 to 1."""
        return self.num_indexed_ops / self.total_ops if self.total_ops else 1.0


class Columns(Struct, frozen=True):
    """The asked-for columns of n rows; None where not asked for.

    `embeddings` has shape (n, ndim), float32.
    """

    ids: list[str]
    embeddings: Vectors | None = None
    documents: list[str | None] | None = None
    uris: list[str | None] | None = None
    metadatas: Sequence[StoredMetadata] | None = None


class GetResult(Struct, frozen=True):
    """`lsn`: the read saw all that the log has through it; None from a server that does not say."""

    columns: Columns
    include: tuple[str, ...]
    lsn: Lsn | None = None


class CountResult(Struct, frozen=True):
    """Number of records. `lsn` as in `GetResult`."""

    count: int
    lsn: Lsn | None = None


class QueryResult(Struct, frozen=True):
    """One `Columns` and, where asked for, one array of distances (ascending, float32) for each query vector.

    `lsn` as in `GetResult`.
    """

    columns: list[Columns]
    distances: list[Distances] | None
    include: tuple[str, ...]
    lsn: Lsn | None = None


def spliced(metadatas: Sequence[StoredMetadata] | None) -> list[Any] | None:
    """Return metadata as orjson takes it over: stored bytes as they are."""
    if metadatas is None:
        return None
    return [orjson.Fragment(item) if isinstance(item, bytes) else item for item in metadatas]


def columns_json(columns: Columns) -> JsonObject:
    """Return columns as orjson takes them over."""
    return {
        "ids": columns.ids,
        "embeddings": columns.embeddings,
        "documents": columns.documents,
        "uris": columns.uris,
        "metadatas": spliced(columns.metadatas),
    }


def pages_json(result: QueryResult) -> JsonObject:
    """Return columns, each with one list for each query vector, and the distances; null where not asked for."""
    pages = list(map(columns_json, result.columns))
    found: JsonObject = {
        name: [columns[name] for columns in pages] if name == "ids" or name in result.include else None
        for name in Columns.__struct_fields__
    }
    found["distances"] = result.distances
    return found


def encode_get(result: GetResult) -> bytes:
    fields = columns_json(result.columns)
    fields["include"] = result.include
    return orjson.dumps(fields, option=ENCODE_OPTIONS)


def decode_flush(body: bytes) -> FlushResult:
    fields = cast("dict[str, Any]", orjson.loads(body))
    return FlushResult(lsn=Lsn(fields["lsn"]), reached=fields["reached"], waiting=fields["waiting"])


def decode_get(body: bytes, lsn: Lsn | None) -> GetResult:
    fields = cast("dict[str, Any]", orjson.loads(body))
    return GetResult(columns=_decode_columns(fields), include=tuple(fields["include"]), lsn=lsn)


def _decode_columns(fields: dict[str, Any]) -> Columns:
    return Columns(
        ids=fields["ids"],
        embeddings=_matrix(fields["embeddings"]),
        documents=fields["documents"],
        uris=fields["uris"],
        metadatas=fields["metadatas"],
    )


def _matrix(rows: list[list[float]] | None) -> Vectors | None:
    if rows is None:
        return None
    return np.asarray(rows, dtype=np.float32) if rows else np.empty((0, 0), dtype=np.float32)


def encode_query(result: QueryResult) -> bytes:
    fields = pages_json(result)
    fields["include"] = result.include
    return orjson.dumps(fields, option=ENCODE_OPTIONS)


def decode_query(body: bytes, lsn: Lsn | None) -> QueryResult:
    fields = cast("dict[str, Any]", orjson.loads(body))

    def of_query(number: int) -> dict[str, Any]:
        return {name: None if fields[name] is None else fields[name][number] for name in Columns.__struct_fields__}

    distances = fields["distances"]
    return QueryResult(
        columns=[_decode_columns(of_query(number)) for number in range(len(fields["ids"]))],
        distances=None if distances is None else [_distances(row) for row in distances],
        include=tuple(fields["include"]),
        lsn=lsn,
    )


def _distances(row: list[float | None]) -> Distances:
    return np.asarray([np.nan if value is None else value for value in row], dtype=np.float32)
