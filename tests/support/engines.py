"""Engines in a temporary directory, their calls as short functions, and a compactor that works when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from chroma_async.engine.compactor import Compactor
from chroma_async.engine.engine import Engine, open_engine
from chroma_async.engine.lock import FileCompactorLock
from chroma_async.engine.search_times import SearchTimes
from chroma_async.model import DEFAULT_DATABASE, DEFAULT_TENANT, Collection
from chroma_async.protocol import (
    AddRecords,
    CountRecords,
    CreateCollection,
    DeleteCollection,
    DeleteRecords,
    GetRecords,
    QueryRecords,
    UpdateRecords,
    UpsertRecords,
)
from chroma_async.protocol.collection_json import ConfigurationInput, HnswInput
from chroma_async.protocol.embeddings import EmbeddingBatch
from chroma_async.protocol.results import GetResult, QueryResult, metadata_object
from chroma_async.seams import Clock, Seams, SystemClock, SystemFiles, ThreadWorkers
from chroma_async.settings import EngineSettings
from chroma_async.wal import SqliteLog

ALL = ("documents", "metadatas", "embeddings", "uris")
WRITES = {"add": AddRecords, "update": UpdateRecords, "upsert": UpsertRecords}

TINY = EngineSettings(
    durability="off",
    allow_reset=True,
    apply_bytes_max=4_000,
    log_retention_bytes=0,
    graph_rows_min=8,
    segment_rows_max=16,
    index_threads=1,
    brief_seconds=0.004,
    follow_interval_seconds=0.01,
    lock_interval_seconds=0.02,
)
"""Thresholds so small that a few dozen records make segments, graphs, merges and rewrites."""


class UnsyncedFiles(SystemFiles):
    """The operating system's files without fsync: for histories in which nobody pulls the plug."""

    def sync(self, path: Path) -> None:
        return None

    def sync_directory(self, path: Path) -> None:
        return None


PATH: dict[str, str] = {"tenant": DEFAULT_TENANT, "database": DEFAULT_DATABASE}


class Records:
    """One collection of an engine."""

    def __init__(self, engine: Engine, collection_id: str) -> None:
        self.engine = engine
        self.id = collection_id
        self._address: dict[str, Any] = {**PATH, "collection_id": collection_id}

    async def write(
        self,
        operation: str,
        ids: Sequence[str],
        vectors: Sequence[Any] | np.ndarray | None,
        *,
        documents: Sequence[str | None] | None = None,
        metadatas: Sequence[Any] | None = None,
        uris: Sequence[str | None] | None = None,
    ) -> None:
        await self.engine.dispatch(
            WRITES[operation](
                **self._address,
                ids=list(ids),
                embeddings=as_batch(vectors),
                documents=_as_list(documents),
                metadatas=_as_list(metadatas),
                uris=_as_list(uris),
            )
        )

    async def add(self, ids: Sequence[str], vectors: Sequence[Any] | np.ndarray, **columns: Any) -> None:
        await self.write("add", ids, vectors, **columns)

    async def upsert(self, ids: Sequence[str], vectors: Sequence[Any] | np.ndarray, **columns: Any) -> None:
        await self.write("upsert", ids, vectors, **columns)

    async def update(self, ids: Sequence[str], vectors: Sequence[Any] | None = None, **columns: Any) -> None:
        await self.write("update", ids, vectors, **columns)

    async def delete(self, ids: Sequence[str] | None = None, **filters: Any) -> int:
        call = DeleteRecords(**self._address, ids=_as_list(ids), **filters)
        return (await self.engine.dispatch(call)).deleted

    async def get(self, ids: Sequence[str] | None = None, **filters: Any) -> GetResult:
        return await self.engine.dispatch(GetRecords(**self._address, ids=_as_list(ids), include=ALL, **filters))

    async def query(self, queries: Sequence[Any] | np.ndarray, n_results: int = 10, **filters: Any) -> QueryResult:
        vectors = np.asarray(queries, dtype=np.float32)
        call = QueryRecords(
            **self._address, query_embeddings=vectors, n_results=n_results, include=("distances", *ALL), **filters
        )
        return await self.engine.dispatch(call)

    async def count(self) -> int:
        return (await self.engine.dispatch(CountRecords(**self._address))).count


def _as_list(values: Sequence[Any] | None) -> list[Any] | None:
    return None if values is None else list(values)


def as_batch(vectors: Sequence[Any] | np.ndarray | None) -> EmbeddingBatch | None:
    """Return vectors as a write carries them; items of None are rows without one."""
    if vectors is None or isinstance(vectors, np.ndarray):
        return None if vectors is None else EmbeddingBatch(np.asarray(vectors, dtype=np.float32))
    rows = [row for row, vector in enumerate(vectors) if vector is not None]
    if not rows:
        return None
    matrix = np.array([vectors[row] for row in rows], dtype=np.float32)
    if len(rows) == len(vectors):
        return EmbeddingBatch(matrix)
    return EmbeddingBatch(matrix, count=len(vectors), rows=np.array(rows, dtype=np.int64))


async def create_collection(engine: Engine, name: str = "things", space: str = "l2") -> Collection:
    configuration = ConfigurationInput(hnsw=HnswInput(space=space))  # type: ignore[arg-type]
    return await engine.dispatch(CreateCollection(**PATH, name=name, configuration=configuration))


async def delete_collection(engine: Engine, name: str = "things") -> None:
    await engine.dispatch(DeleteCollection(**PATH, name=name))


@asynccontextmanager
async def engine_at(
    path: Path, settings: EngineSettings = TINY, *, searches: SearchTimes | None = None, clock: Clock | None = None
) -> AsyncIterator[Engine]:
    """An engine that compacts nothing by itself."""
    seams = Seams(clock or SystemClock())
    async with open_engine(path, settings, compact=False, searches=searches, seams=seams) as engine:
        yield engine


@asynccontextmanager
async def compactor_at(
    path: Path, settings: EngineSettings = TINY, *, apart: bool = False, clock: Clock | None = None
) -> AsyncIterator[Compactor]:
    """A compactor that holds the lock and has taken over; its steps are the caller's."""
    async with AsyncExitStack() as stack:
        seams = Seams(clock or SystemClock(), files=UnsyncedFiles())
        log = await SqliteLog.open(path, durability="off", create=False)
        stack.push_async_callback(log.close)
        workers = ThreadWorkers(2, "compactor")
        stack.callback(workers.close)
        lock = FileCompactorLock(path)
        assert lock.try_acquire()
        compactor = Compactor(path, log, lock, workers, settings, seams, apart=apart)
        stack.push_async_callback(stop, compactor)
        await compactor.take_over()
        yield compactor


async def stop(compactor: Compactor) -> None:
    """End as `run` does when it is cancelled."""
    await compactor._stop()


async def settle(compactor: Compactor) -> None:
    """Compact until nothing is left to do, graphs included."""
    async with asyncio.timeout(30):
        while await compactor.step():
            pass
        await compactor.index_now()


def contents(result: GetResult) -> dict[str, tuple[Any, ...]]:
    """Records of a result in their order: vector (as a tuple), document, metadata, uri by id."""
    columns = result.columns
    assert columns.embeddings is not None
    assert columns.documents is not None
    assert columns.metadatas is not None
    assert columns.uris is not None
    metadatas = [metadata_object(stored) for stored in columns.metadatas]
    vectors = [tuple(row) for row in columns.embeddings.tolist()]
    rows = zip(columns.ids, vectors, columns.documents, metadatas, columns.uris, strict=True)
    return {record_id: values for record_id, *values in rows}  # type: ignore[misc]
