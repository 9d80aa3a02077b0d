"""The engine: opens a data directory, follows its log, answers calls, and compacts when it is asked to."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncGenerator, Callable, Container, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast
from weakref import WeakKeyDictionary

from chroma_async.core.catalog import Catalog
from chroma_async.core.events import DatabaseCreated, TenantCreated
from chroma_async.core.lag import Lag
from chroma_async.engine.backup import BackupResult, back_up
from chroma_async.engine.backup_list import Report
from chroma_async.engine.batch import QueryBatcher
from chroma_async.engine.collection import CollectionReader
from chroma_async.engine.compactor import COLLECTIONS, COMPACTOR_THREADS, Compactor
from chroma_async.engine.directory import prepare_directory
from chroma_async.engine.failures import FailureLog, read_error
from chroma_async.engine.feeds import Feeds
from chroma_async.engine.follower import Follower
from chroma_async.engine.fsync import IntervalFsync
from chroma_async.engine.handlers import HANDLERS
from chroma_async.engine.handlers.registry import Context, require_collection
from chroma_async.engine.here import Here
from chroma_async.engine.lock import FileCompactorLock
from chroma_async.engine.lost_end import LostEnd
from chroma_async.engine.open_readers import OpenReaders
from chroma_async.engine.progress import Progress, vectors_due
from chroma_async.engine.reads import PacedRunner
from chroma_async.engine.row_cache import RowCache
from chroma_async.engine.search_times import SearchTimes
from chroma_async.engine.status import CollectionStatus, DirectoryStatus, status_of
from chroma_async.engine.streams import Queues
from chroma_async.engine.writer import Decision, Proposal, Writer, happened
from chroma_async.errors import DirectoryReplacedError, InternalError, RateLimitError, StorageCorrupt, UnavailableError
from chroma_async.metrics import Metrics
from chroma_async.model import DEFAULT_DATABASE, DEFAULT_DATABASE_ID, DEFAULT_TENANT, CollectionId, Lsn
from chroma_async.protocol import Call
from chroma_async.protocol.records import RecordsCall
from chroma_async.seams import Seams, ThreadWorkers, Workers
from chroma_async.seams.limits import limit_error
from chroma_async.settings import EngineSettings
from chroma_async.wal import LogStore, SqliteLog

R = TypeVar("R")

ROOM_WAIT_SECONDS: Final = 10.0
"""How long a write waits for the compactor before the client is asked to come back later."""

DISPLACED_SECONDS: Final = 5.0
"""Until a compactor whose directory was replaced looks whether it is back."""

UPKEEP_TICKS: Final = 20
"""Looks at the log's end for one upkeep: a second, by default."""

RESTARTED: Final = "compactor.failed restart_seconds=1"

INDEXER_NICENESS: Final = 5
"""Of the threads that build graphs: nobody waits for a graph, while a long tail slows down every read."""

logger = logging.getLogger("chroma_async.engine")


class Engine:
    """All parts of one process, put together. Made by `open_engine`; belongs to one event loop."""

    def __init__(
        self,
        directory: Path,
        log: LogStore,
        workers: Workers,
        settings: EngineSettings,
        seams: Seams | None = None,
        searches: SearchTimes | None = None,
    ) -> None:
        self.directory = directory
        self._failures = FailureLog(logger, directory)
        self.settings = settings
        self.seams = seams or Seams()
        self.workers = workers
        self.log = log
        self.metrics = Metrics()
        collections = directory / COLLECTIONS
        self.open_readers = OpenReaders()
        row_cache = RowCache(settings.row_cache_bytes)
        self.searches = SearchTimes(clock=self.seams.clock) if searches is None else searches
        self.follower: Follower[CollectionReader] = Follower(
            log,
            lambda name: CollectionReader(
                collections / name,
                self.follower.noted_applied.get(name, Lsn(0)),
                self.open_readers,
                lambda: self.follower.position,
                workers.share,
                row_cache,
                self.searches.of(name),
                self.seams.clock,
            ),
        )
        clock = self.seams.clock
        self._fsync: IntervalFsync | None = None
        if settings.durability == "interval":
            interval = settings.sync_interval_seconds
            self._fsync = IntervalFsync(log, clock, self.metrics, interval, lambda error: self.writer.stop_unsynced(error))
        appended = self._fsync.appended if self._fsync is not None else _nothing
        self.writer = Writer(
            log, self.follower, clock, self.metrics, directory, settings.disk_reserve_bytes, appended=appended
        )
        self._reads: WeakKeyDictionary[CollectionReader, tuple[PacedRunner, QueryBatcher]] = WeakKeyDictionary()
        self.progress = Progress(
            clock,
            workers,
            settings.graph_rows_min,
            lambda name: self.follower.catalog.collection(name),
            self.follower.sink,
        )
        self.streams = Queues()
        self.feeds = Feeds(directory, self.follower, clock, self.metrics)
        self._lost_end = LostEnd(log, self.follower, workers, directory)
        self._lag = Lag()
        self._ready = False
        self.context = Context(
            settings=settings,
            seams=self.seams,
            workers=workers,
            follower=self.follower,
            writer=self.writer,
            log=log,
            progress=self.progress,
            metrics=self.metrics,
            streams=self.streams,
            feeds=self.feeds,
            is_ready=lambda: self._ready,
            runner=self._runner,
            batcher=self._batcher,
            before_write=self._before_write,
            wait_for_room=self.wait_for_room,
        )
        self._here = Here(self.context)
        self._process = os.getpid()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_ready(self) -> bool:
        """Recovered, and not stopping."""
        return self._ready

    @property
    def position(self) -> Lsn:
        """LSN through which this process knows the log."""
        return self.follower.position

    async def start(self) -> None:
        """Know the log, create what every directory has, begin to follow."""
        await self.follower.start()
        self.writer.start()
        if self.follower.catalog.is_empty:
            await self._create_defaults()
        self._tasks.append(asyncio.create_task(self._follow(), name="chroma_async.follower"))
        if self._fsync is not None:
            self._fsync.appended()  # by a process, perhaps, that was killed before it did
            self._tasks.append(asyncio.create_task(self._fsync.run(), name="chroma_async.fsync"))
        self._ready = True

    async def _create_defaults(self) -> None:
        database = DatabaseCreated(DEFAULT_DATABASE_ID, DEFAULT_DATABASE, DEFAULT_TENANT)

        def decide(catalog: Catalog) -> Decision[None]:
            events = (TenantCreated(DEFAULT_TENANT), database) if catalog.is_empty else ()
            return happened(*events)

        await self.writer.submit(Proposal(decide))

    async def close(self) -> None:
        """Append what is waiting, then let go of everything. With durability `interval`, everything is safe after it."""
        self._ready = False
        await self.feeds.close()
        await self.writer.close()
        await self.progress.close()
        await self._stop_tasks()
        if self._fsync is not None:
            await self._fsync.sync()
        self.follower.close()

    async def abandon(self) -> None:
        """Let go of everything at once, as the end of the process would: nothing that waits is appended."""
        self._ready = False
        self.writer.abandon()
        await self.feeds.close()
        await self.progress.close()
        await self._stop_tasks()
        self.follower.close()

    async def _stop_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def dispatch(self, call: Call[R]) -> R:
        """Answer a call.

        Raises:
            ChromaError: the call is refused; its class says whether and how to try again.
        """
        if os.getpid() != self._process:
            raise RuntimeError("this client was opened before a fork; open another one in the child process")
        with self.metrics.timed_call(type(call).__name__):
            return await self._answer(call)

    async def _answer(self, call: Call[R]) -> R:
        call.validate()
        handler = HANDLERS[type(call)]
        try:
            await self.follower.catch_up()
            return cast("R", await handler(self.context, call))
        except (StorageCorrupt, sqlite3.DatabaseError, UnicodeDecodeError, OSError, MemoryError) as error:
            meant = read_error(error, self.directory)
            if meant is None:
                raise
            if isinstance(meant, InternalError):
                await self._check_not_deleted(call)
                collection = getattr(call, "collection_id", "-")
                self._failures.note(f"read.failed call={type(call).__name__} collection={collection}", error)
            raise meant from error

    def answer_here(self, call: Call[R]) -> tuple[R] | None:
        """Answer a read in the thread that asks; None when it takes the event loop, and `dispatch`.

        Raises:
            ChromaError: as `dispatch`.
        """
        return self._here.answer(call)

    async def _check_not_deleted(self, call: Call[Any]) -> None:
        """A collection that was deleted while it was read loses its files."""
        await self.follower.catch_up()
        if isinstance(call, RecordsCall):
            require_collection(self.follower.catalog, call)

    async def backup(self, destination: Path, report: Report | None = None) -> BackupResult:
        """Back up the data directory, as of an LSN at or above all that was acknowledged before, into a new folder.

        Raises:
            BackupError, StorageCorrupt, LogError, OSError: see `back_up`.
        """
        return await back_up(self.directory, self.log, destination, self.workers, self.seams.clock, report)

    async def status(self) -> DirectoryStatus:
        """Look at how far everything has come, collection by collection, in the order of their names."""
        await self.follower.catch_up()
        catalog = self.follower.catalog
        found = [item for name in catalog.collection_ids() if (item := catalog.collection(name)) is not None]
        found.sort(key=lambda item: (item.tenant, item.database, item.name))
        states: list[CollectionStatus] = []
        for item in found:
            reader, directory = self.follower.sink(item.id), self.directory / COLLECTIONS / item.id
            states.append(await self.workers.run(partial(status_of, item, reader, directory)))
        await self._trimmed_bytes()
        return DirectoryStatus(
            oldest=await self.log.oldest(),
            applied=self._applied(self.follower.sinks().values()),
            committed=self.follower.position,
            log_bytes=await self.log.size_bytes(),
            kept_bytes=sum(weight.size_bytes for weight in await self.log.weights()),
            collections=states,
            empty_databases=self._empty_databases(),
        )

    def _empty_databases(self) -> list[tuple[str, str]]:
        catalog = self.follower.catalog
        databases = [database for tenant in catalog.tenants() for database in catalog.databases(tenant.name)]
        return [(item.tenant, item.name) for item in databases if not catalog.collections(item.tenant, item.name)]

    def _applied(self, readers: Iterable[CollectionReader]) -> Lsn:
        """LSN through which these have applied everything, as far as this process has looked."""
        waiting = [lsn for reader in readers if (lsn := reader.entries.oldest) is not None]
        return Lsn(min(waiting) - 1) if waiting else self.follower.position

    def _runner(self, collection_id: CollectionId) -> PacedRunner:
        return self._reads_of(collection_id)[0]

    def _batcher(self, collection_id: CollectionId) -> QueryBatcher:
        return self._reads_of(collection_id)[1]

    def _reads_of(self, collection_id: CollectionId) -> tuple[PacedRunner, QueryBatcher]:
        """Where this collection's reads run, and the queue of its queries."""
        reader = self.follower.sink(collection_id)
        found = self._reads.get(reader)
        if found is None:
            runner = PacedRunner(self.workers, self.settings.brief_seconds)
            found = self._reads[reader] = (runner, QueryBatcher(runner))
        return found

    async def _before_write(self, collection_id: CollectionId, dimension: int | None) -> None:
        try:
            await self._lost_end.before_write(collection_id, dimension)
        except Exception as error:
            limit = limit_error(error, self.directory)
            if limit is not None:
                self.writer.note_limit(limit)
            raise

    # ---- back-pressure

    def _unapplied_bytes(self, besides: Container[CollectionId] = ()) -> int:
        return sum(reader.entries.size_bytes for name, reader in self.follower.sinks().items() if name not in besides)

    def _unapplied_bytes_of(self, collection_id: CollectionId) -> int:
        reader = self.follower.sinks().get(collection_id)
        return 0 if reader is None else reader.entries.size_bytes

    async def wait_for_room(self, collection_id: CollectionId, size_bytes: int) -> None:
        """Wait while too much acknowledged data is not yet applied. What can't be applied counts for its collection only.

        Raises:
            RateLimitError: the compactor did not catch up in time; come back later.
            StorageCorrupt: of this collection too much waits, since it is damaged.
        """
        room = max(0, self.settings.unapplied_bytes_max - size_bytes)  # of one larger than the limit: it goes alone
        if self._unapplied_bytes() <= room:
            return
        deadline = self.seams.clock.monotonic() + ROOM_WAIT_SECONDS
        while True:
            stuck = await self._stuck()
            if collection_id in stuck and self._unapplied_bytes_of(collection_id) > room:
                raise StorageCorrupt(
                    "its writes can't be applied, and no more may wait for a repair. "
                    f"unapplied_bytes_max={self.settings.unapplied_bytes_max} reason={stuck[collection_id]}"
                )
            if self._unapplied_bytes(besides=stuck) <= room:
                return
            if await self._trimmed_bytes(besides=stuck) <= room:
                return
            if not self._ready:
                raise UnavailableError("the engine is stopping")
            if self.seams.clock.monotonic() > deadline:
                raise RateLimitError(
                    "too much acknowledged data waits to be applied; slow down and try again. "
                    f"unapplied_bytes={self._unapplied_bytes()} max={self.settings.unapplied_bytes_max}"
                )
            await self.seams.clock.sleep(0.05)

    async def _stuck(self) -> dict[CollectionId, str]:
        """Collections with entries that are not applied for the time being, and why not."""
        waiting = {name: reader for name, reader in self.follower.sinks().items() if reader.entries}

        def look() -> dict[CollectionId, str]:
            return {name: reason for name, reader in waiting.items() if (reason := reader.left_alone()) is not None}

        return await self.workers.run(look)

    async def _trimmed_bytes(self, besides: Container[CollectionId] = ()) -> int:
        """Bytes of entries that wait, after those were forgotten that the base holds by now."""
        for reader in list(self.follower.sinks().values()):
            if reader.entries.size_bytes:
                await self.workers.run(reader.trim)
        return self._unapplied_bytes(besides)

    # ---- while nobody asks

    async def _follow(self) -> None:
        """Stay near the log's end while nobody asks."""
        ticks = 0
        while True:
            await self.seams.clock.sleep(self.settings.follow_interval_seconds)
            try:
                await self.refresh()
                ticks += 1
                if ticks % UPKEEP_TICKS == 0:
                    await self.upkeep()
            except Exception as error:
                self._failures.note("follow.failed", error)

    async def refresh(self) -> None:
        """Know the log's end, take bases that readers saw published, and fold and pack what the next read would wait for."""
        await self.follower.catch_up()
        for reader in list(self.follower.sinks().values()):
            if reader.is_behind:
                await self.workers.run(reader.refresh)
            if reader.has_much_to_fold:
                await self.workers.run(reader.fold_ahead)
            if reader.is_to_be_packed:
                await self.workers.run(reader.pack)

    async def upkeep(self) -> None:
        """Let go of what nobody reads, forget what was applied, open what other workers are asked, tell the metrics, and
        see that the log does not end before what was applied."""
        _ = self.writer.limit  # looks whether it is over, and says so
        await self._release_stale()
        await self._trimmed_bytes()
        await self._make_ready()
        self._note_watermarks()
        try:
            await self._lost_end.look()
        except Exception as error:
            self._failures.note("log.end_failed", error)

    async def _make_ready(self) -> None:
        for reader in list(self.follower.sinks().values()):
            if reader.is_to_be_ready:
                await self.workers.run(reader.make_ready)

    def _note_watermarks(self) -> None:
        """Tell the metrics how far everything has come."""
        readers = self.follower.sinks().values()
        waiting = [reader for reader in readers if reader.entries]
        opened = [reader.manifest for reader in readers if reader.manifest.version]
        applied = self._applied(waiting)
        self._lag.note(self.follower.position, applied, self.seams.clock.monotonic())
        self.metrics.committed_lsn.set(self.follower.position)
        self.metrics.applied_lsn.set(applied)
        self.metrics.unapplied_entries.set(sum(len(reader.entries) for reader in waiting))
        self.metrics.unapplied_bytes.set(sum(reader.entries.size_bytes for reader in waiting))
        self.metrics.lag_seconds.set(self._lag.seconds)
        due = sum(vectors_due(manifest, self.settings.graph_rows_min) for manifest in opened)
        self.metrics.unindexed_vectors.set(due)

    async def _release_stale(self) -> None:
        idle = self.open_readers.tick()
        if idle:
            await self.workers.run(partial(self.open_readers.release_stale, idle))


def _nothing() -> None:
    pass


@asynccontextmanager
async def open_engine(
    path: Path | None,
    settings: EngineSettings | None = None,
    *,
    compact: bool = True,
    searches: SearchTimes | None = None,
    seams: Seams | None = None,
) -> AsyncGenerator[Engine]:
    """Open a data directory; None: a temporary one that is gone afterwards. Any number of processes may have it open.

    With `compact`, this process compacts in the background whenever no other one does. `searches` is shared by processes
    among which nobody chooses, so that what one of them is asked the others are ready for. `seams`: the world it acts on.

    Raises:
        FormatError: the directory is not ours, or of a newer release.
        OSError: it can't be made or written to.
    """
    settings = settings or EngineSettings()
    if path is None:
        settings = replace(settings, durability="off")
    async with AsyncExitStack() as stack:
        directory = path.absolute() if path is not None else _temporary(stack)
        seams = seams or Seams()
        prepare_directory(directory, seams.files, allow_network=path is None or settings.allow_network_file_system)
        log = await SqliteLog.open(directory, durability=settings.durability)
        stack.push_async_callback(log.close)
        workers = ThreadWorkers(settings.reader_threads, "chroma_async.reader")
        stack.callback(workers.close)
        engine = Engine(directory, log, workers, settings, seams, searches)
        stack.push_async_callback(engine.close)
        await engine.start()
        if compact:
            await stack.enter_async_context(_background_compactor(directory, settings, seams))
        yield engine


def _temporary(stack: AsyncExitStack) -> Path:
    """A directory that is gone afterwards: by this process, not by a fork of it, which may end earlier."""
    path, process = tempfile.mkdtemp(prefix="chroma_async-"), os.getpid()

    def remove() -> None:
        if os.getpid() == process:
            shutil.rmtree(path, ignore_errors=True)

    def remove_at_exit() -> None:
        remove()

    atexit.register(remove_at_exit)
    stack.callback(atexit.unregister, remove_at_exit)
    stack.callback(remove)
    return Path(path)


@asynccontextmanager
async def _background_compactor(directory: Path, settings: EngineSettings, seams: Seams) -> AsyncGenerator[None]:
    task = asyncio.create_task(_compact(directory, settings, seams), name="chroma_async.compactor")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _compact(directory: Path, settings: EngineSettings, seams: Seams, *, apart: bool = False) -> None:
    """Compact until cancelled; after an unexpected error, start over from what is on disk."""
    async with AsyncExitStack() as stack:
        failures = FailureLog(logger, directory)
        log = await _opened_log(directory, settings, seams, failures)
        stack.push_async_callback(log.close)
        workers = ThreadWorkers(COMPACTOR_THREADS, "chroma_async.compactor")
        stack.callback(workers.close)
        indexers = ThreadWorkers(1, "chroma_async.indexer", niceness=INDEXER_NICENESS)
        stack.callback(indexers.close)
        while True:
            lock = FileCompactorLock(directory)
            try:
                await Compactor(directory, log, lock, workers, settings, seams, indexers, apart=apart).run()
            except DirectoryReplacedError:  # the log has said so
                await seams.clock.sleep(DISPLACED_SECONDS)
            except Exception as error:
                failures.note(RESTARTED, error)
                await seams.clock.sleep(1.0)


async def _opened_log(directory: Path, settings: EngineSettings, seams: Seams, failures: FailureLog) -> SqliteLog:
    """Open the log of a compactor, once the machine has what that takes."""
    while True:
        try:
            return await SqliteLog.open(directory, durability=settings.durability, create=False)
        except Exception as error:
            if limit_error(error, directory) is None:
                raise
            failures.note(RESTARTED, error)
            await seams.clock.sleep(1.0)


async def run_compactor(
    path: Path, settings: EngineSettings | None = None, opened: Callable[[], None] = lambda: None
) -> None:
    """Compact a directory in this process until cancelled; waits for the lock while another process holds it.

    Graphs are built by processes that it begins (`projections.graph_process`).
    `opened` is called when the directory has turned out to be usable.

    Raises:
        FormatError, OSError: as `open_engine`.
    """
    seams = Seams()
    directory = path.absolute()
    settings = settings or EngineSettings()
    prepare_directory(directory, seams.files, allow_network=settings.allow_network_file_system)
    opened()
    await _compact(directory, settings, seams, apart=True)
