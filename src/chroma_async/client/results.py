"""Results in the form that Chroma's users know: dictionaries of parallel lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from chroma_async import model
from chroma_async.model import JsonObject, Lsn, Stage, Vectors
from chroma_async.protocol import results as wire


class GetResult(TypedDict):
    """Parallel lists, one item per record; None for what was not asked for. `embeddings`: shape (n, ndim), float32."""

    ids: list[str]
    embeddings: Vectors | None
    documents: list[str | None] | None
    uris: list[str | None] | None
    data: Any
    metadatas: list[JsonObject | None] | None
    included: list[str]


class QueryResult(TypedDict):
    """As GetResult, with one more level: one list per query, nearest first. `embeddings`: one (n, ndim) array per query."""

    ids: list[list[str]]
    embeddings: list[Vectors] | None
    documents: list[list[str | None]] | None
    uris: list[list[str | None]] | None
    data: Any
    metadatas: list[list[JsonObject | None]] | None
    distances: list[list[float]] | None
    included: list[str]


class DeleteResult(dict[str, int]):
    """`deleted`: how many records; given ids count whether they existed or not, as with Chroma.

    Beside what Chroma's dictionary holds, it says as `WriteResult` does where the deletion stands in the log (None: nothing
    was there to delete), and how far it has come.
    """

    def __init__(self, deleted: int, lsn: Lsn | None = None, reached: Stage = "committed") -> None:
        super().__init__(deleted=deleted)
        self.lsn = lsn
        self.reached: Stage = reached


def to_delete_result(result: wire.DeleteResult) -> DeleteResult:
    return DeleteResult(result.deleted, result.lsn, result.reached)


class Tenant(TypedDict):
    name: str


class Database(TypedDict):
    id: str
    name: str
    tenant: str


def to_database(database: model.Database) -> Database:
    return Database(id=database.id, name=database.name, tenant=database.tenant)


def to_get_result(result: wire.GetResult, include: Sequence[str], data: Any) -> GetResult:
    columns = result.columns
    return GetResult(
        ids=columns.ids,
        embeddings=columns.embeddings if "embeddings" in include else None,
        documents=columns.documents if "documents" in include else None,
        uris=columns.uris if "uris" in include else None,
        data=data,
        metadatas=_metadatas(columns) if "metadatas" in include else None,
        included=list(include),
    )


def to_query_result(result: wire.QueryResult, include: Sequence[str], data: Any) -> QueryResult:
    per_query = result.columns

    def wanted(name: str) -> Any:
        return [getattr(columns, name) for columns in per_query] if name in include else None

    return QueryResult(
        ids=[columns.ids for columns in per_query],
        embeddings=wanted("embeddings"),
        documents=wanted("documents"),
        uris=wanted("uris"),
        data=data,
        metadatas=[_metadatas(columns) for columns in per_query] if "metadatas" in include else None,
        distances=_distances(result) if "distances" in include else None,
        included=list(include),
    )


def _metadatas(columns: wire.Columns) -> list[JsonObject | None]:
    return [wire.metadata_object(stored) for stored in columns.metadatas or ()]


def _distances(result: wire.QueryResult) -> list[list[float]]:
    return [row.tolist() for row in result.distances or ()]
