"""Removes every trace of deleted and replaced records from the files of a data directory.

Deleting a record hides it at once; its bytes leave the disk when files are written anew, which waits until that pays. A
purge does not wait: it applies what is in the log, and writes all anew that holds something of no record.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from chroma_async.engine.compactor import COLLECTIONS, COMPACTOR_THREADS, Compactor
from chroma_async.engine.directory import check_version, check_writable
from chroma_async.engine.engine import open_engine
from chroma_async.engine.lock import FileCompactorLock, is_compacted
from chroma_async.engine.verify import Report, chosen_collections, compacting_alone, size_of
from chroma_async.errors import NotFoundError, UnavailableError
from chroma_async.model import Collection, CollectionId, Lsn
from chroma_async.projections.graph_builds import build_graphs
from chroma_async.projections.store import RECORDS_FILE, CollectionStore
from chroma_async.protocol import PurgeCollection
from chroma_async.seams import Seams, SystemFiles, ThreadWorkers
from chroma_async.settings import EngineSettings
from chroma_async.wal import SqliteLog


class PurgedCollection(msgspec.Struct, frozen=True):
    """What was done to one collection: as of which LSN, how many records it has, how many vectors of no record it had."""

    name: str
    id: str
    applied: int
    records: int
    dropped_vectors: int


class Receipt(msgspec.Struct, frozen=True):
    """What a purge did. `ended_at` is in seconds since 1970; sizes are those of the whole directory."""

    path: str
    ended_at: float
    seconds: float
    lsn: int
    files: int
    bytes_before: int
    bytes_after: int
    collections: tuple[PurgedCollection, ...]


async def purge(
    directory: Path, names: Sequence[str] = (), *, settings: EngineSettings | None = None, report: Report | None = None
) -> Receipt:
    """Leave no bytes of deleted or replaced records in the files of these collections, and none in the log.

    `names` are those of collections, or their ids; without any, all of them are meant. What deleted collections held is
    gone from the log as well. Where a process compacts the directory, it is asked to do so, and waited for.

    Raises:
        FormatError: it is no data directory; or no collection has that name.
        UnavailableError: somebody reads a file whose journal has to be emptied. Nothing is lost; stop that, and try again.
            Or the process that compacts was not done in time.
        StorageCorrupt: the only copy of something is damaged.
        PermissionError: the directory can't be written to.
    """
    check_version(directory)
    check_writable(directory)
    begun, before = time.monotonic(), size_of(directory)
    if is_compacted(directory):
        purged, lsn = await _ask(directory, names, report)
    else:
        purged, lsn = await _purge_alone(directory, names, settings or EngineSettings(), report)
    return Receipt(
        path=str(directory),
        ended_at=time.time(),
        seconds=time.monotonic() - begun,
        lsn=lsn,
        files=sum(path.is_file() for path in directory.rglob("*")),
        bytes_before=before,
        bytes_after=size_of(directory),
        collections=tuple(purged),
    )


async def _ask(directory: Path, names: Sequence[str], report: Report | None) -> tuple[list[PurgedCollection], Lsn]:
    """Let the process that compacts purge the collections, one by one."""
    chosen, purged = chosen_collections(directory, names), list[PurgedCollection]()
    async with open_engine(directory, compact=False) as engine:
        for number, item in enumerate(chosen):
            if report is not None:
                report(f"purging {item.name}", number, len(chosen))
            call = PurgeCollection(tenant=item.tenant, database=item.database, collection_id=item.id)
            try:
                result = await engine.dispatch(call)
            except NotFoundError:
                continue  # it was deleted meanwhile, with all its files
            if not result.done:
                raise UnavailableError(
                    f"the purge was asked for, and is not done yet; it goes on, ask again. collection={item.name!r}"
                )
            done = (result.applied_lsn or 0, result.records or 0, result.dropped_vectors or 0)
            purged.append(PurgedCollection(item.name, item.id, *done))
        return purged, engine.follower.position


async def _purge_alone(
    directory: Path, names: Sequence[str], settings: EngineSettings, report: Report | None
) -> tuple[list[PurgedCollection], Lsn]:
    with compacting_alone(directory) as lock:
        log = await SqliteLog.open(directory, durability="commit", create=False)
        try:
            await _apply_all(directory, log, lock, settings)
            holding = await log.holding()  # before the catalog is read: what is new then is not taken for deleted
            chosen, known = chosen_collections(directory, names), chosen_collections(directory, ())
            purged: list[PurgedCollection] = []
            for number, collection in enumerate(chosen):
                if report is not None:
                    report(f"purging {collection.name}", number, len(chosen))
                purged.append(_purge(directory, collection, settings))
            kept = {CollectionId(item.id): Lsn(item.applied) for item in purged}
            kept |= dict.fromkeys(holding - {item.id for item in known}, log.barrier())
            await _free(log, kept)
            await log.scrub()
            return purged, log.barrier()
        finally:
            await log.close()


async def _free(log: SqliteLog, kept: Mapping[CollectionId, Lsn]) -> None:
    """Free what is kept for feeds: of each collection what is applied, no more, since others may write meanwhile."""
    for collection_id, applied in kept.items():
        if not await log.truncate_collection(collection_id, through=applied, keep_after=Lsn(0)):
            raise UnavailableError("a backup is being made; wait for it, then purge again")


async def _apply_all(directory: Path, log: SqliteLog, lock: FileCompactorLock, settings: EngineSettings) -> None:
    workers = ThreadWorkers(COMPACTOR_THREADS, "chroma_async.purge")
    try:
        await Compactor(directory, log, lock, workers, settings, Seams()).apply_all()
    finally:
        workers.close()


def _purge(directory: Path, collection: Collection, settings: EngineSettings) -> PurgedCollection:
    folder = directory / COLLECTIONS / collection.id
    if not (folder / RECORDS_FILE).exists():
        return PurgedCollection(collection.name, collection.id, applied=0, records=0, dropped_vectors=0)
    with closing(CollectionStore(folder, SystemFiles())) as store:
        dropped = store.purge()
        while build_graphs(store, collection.hnsw, rows_min=settings.graph_rows_min, threads=settings.index_threads):
            pass
        manifest = store.manifest
    return PurgedCollection(collection.name, collection.id, manifest.applied, manifest.live, dropped)
