"""Applies the log to the projections, builds graphs, merges and reclaims, and frees the log: one holder per directory.

Observe, decide by a pure function, perform, record. Everything it does is repeatable: a successor that takes over in the
middle starts from the manifests, and finds at most files that nothing reaches.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from chroma_async.core.memtable import IgnoredUpdates, Memtable
from chroma_async.core.retention import Ledger, Retention
from chroma_async.core.watermarks import segment_rows
from chroma_async.engine.follower import Follower
from chroma_async.engine.lock import CompactorLock
from chroma_async.errors import DirectoryReplacedError, FormatError, StorageCorrupt, UnavailableError
from chroma_async.model import Collection, CollectionId, HnswConfiguration, Lsn
from chroma_async.projections.fold import fold_entry
from chroma_async.projections.graph_process import write_graph_elsewhere
from chroma_async.projections.graphs import write_graph
from chroma_async.projections.manifest import PurgeRef
from chroma_async.projections.store import RECORDS_FILE, REWRITE_ROWS_MIN, CollectionStore
from chroma_async.seams import Seams, Workers
from chroma_async.seams.limits import FULL, LimitError, check_room, free_bytes, limit_error
from chroma_async.settings import EngineSettings
from chroma_async.wal import LOG_FILE, LogStore, check_log

T = TypeVar("T")

OPEN_STORES_MAX: Final = 64
IDLE_SECONDS: Final = 0.1
SETTLE_SECONDS: Final = 0.25
"""Entries wait this long for company: a bigger step costs less for each entry, and readers have them anyway."""

PRESSED_SHARE: Final = 2
"""With so much of a step to apply, one part in so many, there is no waiting for company."""

REST_AFTER_STEPS: Final = 10
"""Idle steps after which graphs take what they would else have waited for company with: a second."""

GRAPH_AGAIN_SECONDS_MIN: Final = 30.0
GRAPH_AGAIN_SECONDS_MAX: Final = 3_600.0
"""Until a graph that failed, nobody knows why, is tried again, each time twice as long: reads are exact meanwhile."""

TIDY_AFTER_STEPS: Final = 5
"""Idle steps after which journals are emptied, or tried again when somebody was reading them: half a second."""

DAMAGED_SECONDS: Final = 30.0
"""Until a damaged collection is tried again: it may have been repaired meanwhile."""

DAMAGE_CODES: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})

TEXT_CHUNK_DOCUMENTS: Final = 2_048
"""Documents that enter the full-text index at a time: a tenth of a second."""

TEXT_PAUSE_SECONDS: Final = 0.05
"""Between two such chunks, where nothing else is to be done: documents wait for no company."""

TEXT_LAG_MAX: Final = 262_144
"""Documents that the full-text index may lack while entries wait to be applied: so many are scanned in some 60 ms."""

TEXT_STORES_MAX: Final = 16
"""Collections whose full-text index is looked at in one step."""

PURGE_AGAIN_SECONDS_MIN: Final = 1.0
PURGE_AGAIN_SECONDS_MAX: Final = 30.0
"""After a purge that met somebody who reads, each time twice as long."""

PAUSE_SECONDS_MIN: Final = 0.25
PAUSE_SECONDS_MAX: Final = 5.0
"""Waits for room, handles or memory, each twice as long as the one before."""

DELETIONS_SHARE: Final = 2
"""Of the reserve, one part in so many is left to deletions: what is applied may take the rest."""

APPLY_COST: Final = 4
"""Bytes on the disk that applying a byte may take for a while: vectors, rows, text index, SQLite's journal."""

COMPACTOR_THREADS: Final = 2

COLLECTIONS: Final = "collections"

logger = logging.getLogger("chroma_async.compactor")


class Backlog:
    """Entries of one collection that wait to be applied."""

    def __init__(
        self,
        collection_id: CollectionId,
        deleted: Callable[[CollectionId], None],
        offered: Callable[[Lsn, int], None] = lambda lsn, size_bytes: None,
    ) -> None:
        """`offered` is told of every entry, and how many bytes it has."""
        self._id = collection_id
        self._deleted = deleted
        self._offered = offered
        self.entries: deque[tuple[Lsn, bytes]] = deque()
        self.size_bytes = 0
        self._refused = False

    def refuse(self, reason: str) -> None:
        """Nothing behind a damaged entry is applied, so nothing of it is truncated either."""
        self._refused = True

    def offer(self, lsn: Lsn, payload: bytes) -> None:
        self._offered(lsn, len(payload))
        if self._refused:
            return
        self.entries.append((lsn, payload))
        self.size_bytes += len(payload)

    def close(self) -> None:
        self.entries.clear()
        self.size_bytes = 0
        self._deleted(self._id)

    def take(self, bytes_max: int) -> list[tuple[Lsn, bytes]]:
        """The oldest entries, at least one, of up to this many bytes; they stay until `drop`."""
        taken: list[tuple[Lsn, bytes]] = []
        size = 0
        for lsn, payload in self.entries:
            size += len(payload)
            if taken and size > bytes_max:
                break
            taken.append((lsn, payload))
        return taken

    def drop(self, through: Lsn) -> None:
        while self.entries and self.entries[0][0] <= through:
            _, payload = self.entries.popleft()
            self.size_bytes -= len(payload)


class Compactor:
    """The background work of a directory, while it holds the lock."""

    def __init__(
        self,
        directory: Path,
        log: LogStore,
        lock: CompactorLock,
        workers: Workers,
        settings: EngineSettings,
        seams: Seams,
        indexers: Workers | None = None,
        *,
        apart: bool = False,
    ) -> None:
        """`apart`: graphs are built by processes of their own, which this one begins."""
        self._root = directory / COLLECTIONS
        self._log = log
        self.lock = lock
        self._workers = workers
        self._indexers = indexers or workers
        self._apart = apart
        self._settings = settings
        self._seams = seams
        self._stores: OrderedDict[CollectionId, CollectionStore] = OrderedDict()
        self._stores_lock = threading.Lock()
        self._known: frozenset[CollectionId] = frozenset()
        self._deleted: set[CollectionId] = set()
        self._indexing: dict[CollectionId, asyncio.Task[None]] = {}
        self._unindexed: set[CollectionId] = set()
        self._grown: set[CollectionId] = set()
        """Collections with graphs to which something was applied since the last rest."""
        self._at_rest = False
        self._graph_again: dict[CollectionId, tuple[float, float]] = {}
        """Collections whose graph has failed: when to try again, and after which pause that will be."""
        self._text_behind: dict[CollectionId, None] = {}
        self._lacks_only_text = False
        self._owed: dict[CollectionId, Lsn] = {}
        self._erased: dict[CollectionId, Lsn] = {}
        """What is to leave the log whatever is kept there for feeds: of deleted collections."""
        self._ledger = Ledger(retention_of(settings))
        self._truncated = Lsn(0)
        self._may_forget = False
        self._damaged: dict[CollectionId, float] = {}
        self._configured: dict[CollectionId, HnswConfiguration] = {}
        self._noticed = Lsn(-1)
        self._purges: dict[CollectionId, tuple[int, Lsn]] = {}
        """Asked for, and not known to be done: the number of the newest, and the LSN through which to apply before it."""
        self._purged: dict[CollectionId, int] = {}
        self._purge_again: dict[CollectionId, tuple[float, float]] = {}
        """Collections whose purge met somebody who reads: when to try again, and after which pause that will be."""
        self._synced = False
        self._stopping = False
        self._limit: LimitError | None = None
        self._follower: Follower[Backlog] = self._new_follower()

    def _new_follower(self) -> Follower[Backlog]:
        return Follower(self._log, lambda collection_id: Backlog(collection_id, self._deleted.add, self._note_offered))

    def _note_offered(self, lsn: Lsn, size_bytes: int) -> None:
        self._synced = False
        self._ledger.add(lsn, self._seams.clock.now_ns(), size_bytes)

    async def run(self) -> None:
        """Work until cancelled; wait for the lock first."""
        while not await self._patiently(self._try_lock):
            await self._seams.clock.sleep(self._settings.lock_interval_seconds)
        try:
            logger.info("compactor.started")
            await self._patiently(self.take_over)
            idle_steps, is_tidy = 0, False
            while True:
                busy = await self._patiently(self.step)
                idle_steps, is_tidy = (0, False) if busy else (idle_steps + 1, is_tidy)
                self._rest(idle_steps >= REST_AFTER_STEPS)
                if not is_tidy and idle_steps and idle_steps % TIDY_AFTER_STEPS == 0:
                    is_tidy = await self._patiently(self.tidy)
                await self._seams.clock.sleep(self._pause_seconds(busy))
        finally:
            await self._stop()

    async def _try_lock(self) -> bool:
        self._log.require_in_place()
        return self.lock.try_acquire()

    def _rest(self, at_rest: bool) -> None:
        """Note whether there has been nothing to do for a while; if so, let graphs catch up with what has come."""
        self._at_rest = at_rest
        if at_rest:
            self._unindexed |= self._grown
            self._grown.clear()

    def _pause_seconds(self, busy: bool) -> float:
        """How long to wait for the next step: not at all while entries wait that are a whole one."""
        if not busy:
            return IDLE_SECONDS
        if self._is_pressed():
            return 0.0
        return TEXT_PAUSE_SECONDS if self._lacks_only_text else SETTLE_SECONDS

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do what can be done again from the start; while the machine lacks something, pause, which is logged once."""
        pause = PAUSE_SECONDS_MIN
        while True:
            try:
                outcome = await work()
            except Exception as error:
                limit = limit_error(error, self._root.parent)
                if limit is None:
                    raise
                self._note_limit(limit)
                self._close_stores()
                if limit.reason == FULL:
                    with suppress(Exception):  # what is kept for feeds goes first, and its journal may hold what frees room
                        await self._log.truncate(through=self._ledger.clear())
                        await self._log.tidy()
                await self._seams.clock.sleep(pause)
                pause = min(pause * 2, PAUSE_SECONDS_MAX)
            else:
                self._note_limit(None)
                return outcome

    def _note_limit(self, limit: LimitError | None) -> None:
        before, self._limit = self._limit, limit
        if limit is not None and (before is None or before.reason != limit.reason):
            logger.warning("compactor.paused reason=%s message=%r", limit.reason, limit.message)
        elif limit is None and before is not None:
            logger.info("compactor.resumed after=%s", before.reason)

    async def take_over(self) -> None:
        """Begin as the holder of the lock: know the log, sweep what a predecessor left."""
        self._follower = self._new_follower()
        self._ledger = Ledger(retention_of(self._settings))
        for weight in await self._log.weights():
            self._ledger.add(weight.through, weight.time_ns, weight.size_bytes)
        holding = await self._log.holding()  # before the catalog is read: what is new then is not taken for deleted
        await self._follower.start()
        self._known = self._follower.catalog.collection_ids()
        self._unindexed = set(self._known)
        self._text_behind = dict.fromkeys(sorted(self._known))
        await self._log.sync()  # as before every removal: what is swept was deleted for good
        for collection_id in holding - self._known:
            self._erased[collection_id] = self._follower.position
        await self._work(self._sweep)

    async def apply_all(self) -> None:
        """With the lock held: do all that there is to do, and let go of everything but the lock."""
        await self.take_over()
        try:
            while await self.step():
                pass
            await self.index_now()
        finally:
            self.abandon()

    async def _work(self, function: Callable[[], T], workers: Workers | None = None) -> T:
        """Run a function in a worker thread, to its end: the lock is not given up while a thread may still publish."""
        running = asyncio.ensure_future((workers or self._workers).run(function))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._stopping = self._stopping or workers is None  # a graph is cancelled alone, when its collection is deleted
            await asyncio.wait({running})
            if not running.cancelled():
                running.exception()  # looked at, so that asyncio does not complain that nobody did
            raise

    async def _stop(self) -> None:
        self._stopping = True
        for task in list(self._indexing.values()):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self.abandon()
        self.lock.release()
        logger.info("compactor.stopped")

    def abandon(self) -> None:
        """Let go of everything at once, as the end of the process would: nothing is finished."""
        self._stopping = True
        for task in self._indexing.values():
            task.cancel()
        for store in self._stores.values():
            store.close()
        self._stores.clear()

    def _close_stores(self) -> None:
        """Give back the handles and memory of stores that nobody works on; what is published is read again."""
        with self._stores_lock:
            for collection_id in [name for name in self._stores if name not in self._indexing]:
                self._stores.pop(collection_id).close()

    def _sweep(self) -> None:
        """Remove directories of collections that do not exist, and heal those that do."""
        self._seams.files.make_directory(self._root)
        known = self._follower.catalog.collection_ids()
        unknown = {path.name for path in self._root.iterdir()} - known
        if unknown:
            self._check_log()
        for path in self._root.iterdir():
            if path.name in unknown:
                self._seams.files.remove(path)
            elif path.is_dir():
                with self._guarded(CollectionId(path.name)):
                    store = self._store(CollectionId(path.name))
                    store.heal()
                    self._pass_over(CollectionId(path.name), store.applied)

    def _pass_over(self, collection_id: CollectionId, applied: Lsn) -> None:
        """Leave out what a predecessor has applied, and the log was not told of."""
        backlog = self._follower.sinks().get(collection_id)
        if backlog is not None and backlog.entries and backlog.entries[0][0] <= applied:
            backlog.drop(applied)
            self._owed[collection_id] = applied

    def _check_log(self) -> None:
        """Before anything is removed because the catalog does not have it: see that the catalog is whole.

        Raises:
            LogError, StorageCorrupt, sqlite3.DatabaseError: it is not.
        """
        if (self._root.parent / LOG_FILE).exists():
            check_log(self._root.parent)

    @contextmanager
    def _guarded(self, collection_id: CollectionId) -> Generator[None]:
        """Leave a collection alone for a while that is damaged or may not be read: the others go on. It is tried again."""
        try:
            yield
        except (StorageCorrupt, FormatError, sqlite3.DatabaseError, UnicodeDecodeError, PermissionError) as error:
            if isinstance(error, sqlite3.OperationalError) and _code_of(error) not in DAMAGE_CODES:
                raise
            if limit_error(error, self._root.parent) is not None:
                raise
            self._damaged[collection_id] = self._seams.clock.monotonic() + DAMAGED_SECONDS
            store = self._stores.pop(collection_id, None)
            if store is not None:
                store.close()
            what = "unreadable" if isinstance(error, PermissionError) else "damaged"
            logger.error("collection.%s collection=%s reason=%s", what, collection_id, error)

    def _is_left_alone(self, collection_id: CollectionId) -> bool:
        return self._damaged.get(collection_id, 0.0) > self._seams.clock.monotonic()

    # ---- steps

    async def step(self) -> bool:
        """Do what there is to do, once; say whether there was something."""
        self._log.require_in_place()  # what it writes and removes, it does by name
        await self._follower.catch_up()
        self._synced = False
        self._notice_configurations()
        busy = await self._delete_collections()  # first: on a full disk it makes the room that the rest needs
        self._ledger.look(self._seams.clock.now_ns())
        if self._lacks_room():
            self._ledger.clear()
        if self._is_pressed():
            busy = await self._compact_beside_the_log() or busy
        else:
            busy = await self._free_log() or busy
            busy = await self._compact_all() or busy
        if self._purges or not self._is_pressed():
            busy = await self._free_log() or busy
        busy = await self._purge_collections() or busy
        self._lacks_only_text = await self._index_documents(lag_max=TEXT_LAG_MAX if busy else 0) and not busy
        self._start_indexing()
        return busy or self._lacks_only_text

    def _is_pressed(self) -> bool:
        """Whether entries wait that are worth a step of their own."""
        backlogs = self._follower.sinks().values()
        return any(backlog.size_bytes >= self._settings.apply_bytes_max // PRESSED_SHARE for backlog in backlogs)

    async def _compact_beside_the_log(self) -> bool:
        """Apply what waits, while the log frees what was applied before and the next entries are read from it."""

        async def go_ahead() -> bool:
            busy = await self._free_log()
            await self._follower.catch_up()
            return busy

        ahead = asyncio.create_task(go_ahead())
        try:
            busy = await self._compact_all()
        except BaseException:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)
            raise
        return await ahead or busy

    async def _compact_all(self) -> bool:
        busy = False
        for collection_id in list(self._follower.sinks()):
            busy = await self._compact(collection_id) or busy
        return busy

    async def _free_log(self) -> bool:
        """Free what was applied, or kept for feeds long enough; say whether there is more of it to come."""
        await self._pay_off()
        return await self._end_retention()

    async def _purge_collections(self) -> bool:
        """Do the purges that were asked for, where all is applied that was written before; say whether there was one.

        The manifest says so at last, after the log's part, so that a successor knows what is left to do. While somebody
        reads an old instant of the tables or the log, it is tried again later.
        """
        due = [item for item, (_, asked) in self._purges.items() if self._may_purge(item, asked)]
        if due:
            await self._sync_entries()  # a receipt must not outlive what was asked
        done: dict[CollectionId, PurgeRef] = {}
        for collection_id in due:
            number, _ = self._purges[collection_id]
            try:
                with self._guarded(collection_id):
                    purge = await self._work(partial(self._purge, collection_id, number))
                    if purge is None:
                        self._note_purged(collection_id, number)
                    else:
                        done[collection_id] = purge
            except DirectoryReplacedError:
                raise
            except UnavailableError as error:
                self._purge_later(collection_id, error)
        if not done:
            return False
        try:
            await self._erase({collection_id: purge.applied for collection_id, purge in done.items()})
            await self._log.scrub()
        except DirectoryReplacedError:
            raise
        except UnavailableError as error:
            for collection_id in done:
                self._purge_later(collection_id, error)
            return False
        for collection_id, purge in done.items():
            with self._guarded(collection_id):
                await self._work(partial(self._publish_purge, collection_id, purge))
                self._note_purged(collection_id, purge.number)
                self._unindexed.add(collection_id)
                logger.info("collection.purged collection=%s dropped_vectors=%d", collection_id, purge.dropped_vectors)
        return True

    def _purge_later(self, collection_id: CollectionId, reason: UnavailableError) -> None:
        _, before = self._purge_again.get(collection_id, (0.0, PURGE_AGAIN_SECONDS_MIN / 2))
        pause = min(2 * before, PURGE_AGAIN_SECONDS_MAX)
        self._purge_again[collection_id] = self._seams.clock.monotonic() + pause, pause
        logger.debug("purge.postponed collection=%s again_seconds=%g reason=%s", collection_id, pause, reason)

    def _may_purge(self, collection_id: CollectionId, asked: Lsn) -> bool:
        again_at, _ = self._purge_again.get(collection_id, (0.0, 0.0))
        if self._seams.clock.monotonic() < again_at or self._follower.catalog.collection(collection_id) is None:
            return False
        backlog = self._follower.sinks().get(collection_id)
        waits = backlog is not None and bool(backlog.entries) and backlog.entries[0][0] <= asked
        return not waits and collection_id not in self._owed and not self._is_left_alone(collection_id)

    def _purge(self, collection_id: CollectionId, number: int) -> PurgeRef | None:
        """Purge the files of a collection; None: a predecessor has done it."""
        store = self._store(collection_id)
        done = store.manifest.purge
        if done is not None and done.number >= number:
            return None
        dropped = store.purge()
        manifest = store.manifest
        return PurgeRef(number, manifest.applied, manifest.live, dropped, self._seams.clock.now_ns())

    def _publish_purge(self, collection_id: CollectionId, purge: PurgeRef) -> None:
        self._store(collection_id).publish_purge(purge)

    def _note_purged(self, collection_id: CollectionId, number: int) -> None:
        self._purged[collection_id] = number
        self._purge_again.pop(collection_id, None)
        if self._purges[collection_id][0] <= number:
            del self._purges[collection_id]

    def _notice_configurations(self) -> None:
        """Have another look at the graphs of collections that are configured otherwise than before."""
        if self._follower.position == self._noticed:
            return
        self._noticed, catalog = self._follower.position, self._follower.catalog
        found = {item: catalog.collection(item) for item in catalog.collection_ids()}
        now = {item: collection.hnsw for item, collection in found.items() if collection is not None}
        for item, collection in found.items():
            number = 0 if collection is None else collection.purges
            if number > self._purged.get(item, 0) and self._purges.get(item, (0, 0))[0] < number:
                self._purges[item] = (number, self._noticed)
        changed = {item for item, hnsw in now.items() if self._configured.get(item, hnsw) != hnsw}
        self._unindexed |= changed
        self._graph_again = {item: again for item, again in self._graph_again.items() if item not in changed}
        self._configured = now

    async def tidy(self) -> bool:
        """Give back the disk that was held for the next entries: none have come for a while. False: somebody was reading."""
        done = True
        for store in list(self._stores.values()):
            done = await self._work(store.tidy) and done
        return await self._log.tidy() and done

    async def _delete_collections(self) -> bool:
        known = self._follower.catalog.collection_ids()
        self._deleted |= self._known - known  # also those that had no entry waiting
        self._known = known
        gone = sorted(self._deleted)
        if gone:
            await self._log.sync()  # files must not be gone while a power cut can still bring their collection back
        for collection_id in gone:
            await self._cancel_indexing(collection_id)
            await self._work(partial(self._remove, collection_id))
            self._erased[collection_id] = self._follower.position
            self._deleted.discard(collection_id)
            self._grown.discard(collection_id)
            self._graph_again.pop(collection_id, None)
            self._damaged.pop(collection_id, None)
            self._purges.pop(collection_id, None)
            self._purged.pop(collection_id, None)
            self._purge_again.pop(collection_id, None)
        return bool(gone)

    def _remove(self, collection_id: CollectionId) -> None:
        store = self._stores.pop(collection_id, None)
        if store is not None:
            store.close()
        self._seams.files.remove(self._root / collection_id)
        self._seams.files.sync_directory(self._root)

    async def _compact(self, collection_id: CollectionId) -> bool:
        collection = self._follower.catalog.collection(collection_id)
        backlog = self._follower.sinks().get(collection_id)
        if collection is None or backlog is None or not backlog.entries or self._is_left_alone(collection_id):
            return False
        entries = self._take(backlog)
        await self._sync_entries()
        with self._guarded(collection_id):
            applied = await self._work(lambda: self._apply(collection, entries))
        if self._is_left_alone(collection_id):
            return False
        self._damaged.pop(collection_id, None)
        backlog.drop(applied)
        self._unindexed.add(collection_id)
        if self._has_graphs(collection_id):
            self._grown.add(collection_id)
        self._text_behind[collection_id] = None
        self._owed[collection_id] = max(applied, self._owed.get(collection_id, applied))
        return True

    def _has_graphs(self, collection_id: CollectionId) -> bool:
        """Of a store that is still open."""
        store = self._stores.get(collection_id)
        return store is not None and any(segment.graph is not None for segment in store.manifest.segments)

    async def _sync_entries(self) -> None:
        """Before any is applied: what is applied must not outlive its entry, whose LSN would be given to another one.

        Once for each step, unless more are read meanwhile.
        """
        if not self._synced:
            self._synced = True  # before the sync: what is read beside it is for the next one
            try:
                await self._log.sync()
            except BaseException:
                self._synced = False
                raise

    async def _index_documents(self, *, lag_max: int) -> bool:
        """Bring full-text indexes that lack more documents than that a step nearer; say whether there was one."""
        busy = False
        for collection_id in list(self._text_behind)[:TEXT_STORES_MAX]:
            del self._text_behind[collection_id]
            if self._follower.catalog.collection(collection_id) is None or not (self._root / collection_id).exists():
                continue
            if self._is_left_alone(collection_id):
                continue
            lag = 0
            with self._guarded(collection_id):
                lag = await self._work(partial(self._index_some_documents, collection_id, lag_max))
            if lag:
                self._text_behind[collection_id] = None  # behind the others
            busy = busy or lag > lag_max
        return busy

    def _index_some_documents(self, collection_id: CollectionId, lag_max: int) -> int:
        """Return how many documents the index lacked before."""
        store = self._store(collection_id)
        lag = store.unindexed_documents()
        if lag > lag_max:
            store.index_documents(TEXT_CHUNK_DOCUMENTS)
        return lag

    def _take(self, backlog: Backlog) -> list[tuple[Lsn, bytes]]:
        """The next entries. Where room is scarce, few at a time, since freeing them makes some; a part stays for deletions.

        Raises:
            InsufficientStorageError: there is no room for one entry.
        """
        kept = self._settings.disk_reserve_bytes // DELETIONS_SHARE
        free = free_bytes(self._root.parent)
        if free is None:
            return backlog.take(self._settings.apply_bytes_max)
        room = max(0, free - kept) // APPLY_COST
        entries = backlog.take(min(self._settings.apply_bytes_max, room))
        check_room(self._root.parent, APPLY_COST * sum(len(payload) for _, payload in entries), kept)
        return entries

    async def _truncate(self, collection_id: CollectionId, through: Lsn) -> bool:
        """Free applied entries but for those that are kept for feeds; False while a backup pins the log."""
        if self._ledger.keeps_nothing:
            return await self._log.truncate_collection(collection_id, through=through)
        self._may_forget = True
        return await self._log.note_applied(collection_id, through=through)

    async def _pay_off(self) -> None:
        """Free what is owed; what the log does not free now is tried again by later steps."""
        for collection_id, through in list(self._erased.items()):
            if not await self._free(collection_id, through):
                return
            del self._erased[collection_id]
        for collection_id, through in list(self._owed.items()):
            if not await self._truncate(collection_id, through):
                break
            if self._owed.get(collection_id) == through:  # nothing was applied meanwhile
                del self._owed[collection_id]

    async def _end_retention(self) -> bool:
        """Free what was kept for feeds long enough; say whether there was something."""
        through = self._ledger.begins_after
        if self._ledger.keeps_nothing or not through or not (through > self._truncated or self._may_forget):
            return False
        self._may_forget = False  # what is applied meanwhile is for the next time
        if not await self._log.truncate(through=through):
            self._may_forget = True
            return False
        moved, self._truncated = through > self._truncated, through
        return moved

    async def _erase(self, collections: Mapping[CollectionId, Lsn]) -> None:
        """Free entries whatever was to be kept.

        Raises:
            UnavailableError: a backup pins the log.
        """
        for collection_id, through in collections.items():
            if not await self._free(collection_id, through):
                raise UnavailableError("a backup pins the log")

    async def _free(self, collection_id: CollectionId, through: Lsn) -> bool:
        keep_after = None if self._ledger.keeps_nothing else self._ledger.begins_after
        return await self._log.truncate_collection(collection_id, through=through, keep_after=keep_after)

    def _lacks_room(self) -> bool:
        """Whether writes are refused for want of room, or soon will be."""
        free = free_bytes(self._root.parent)
        return free is not None and free < 2 * self._settings.disk_reserve_bytes

    def _apply(self, collection: Collection, entries: list[tuple[Lsn, bytes]]) -> Lsn:
        """Fold entries and publish the outcome; return the LSN through which the collection is applied."""
        store = self._store(collection.id)
        with store.lock:
            memtable = Memtable(applied=store.applied, next_slot=store.manifest.next_slot)
            for lsn, payload in entries:
                if lsn > store.applied:
                    fold_entry(memtable, lsn, payload, store.tables)
            tail = memtable.tail(columns=True)
            rows_max = self._segment_rows_max(store.manifest.dimension or tail.vectors.shape[1])
            store.apply(tail, space=collection.hnsw.space, segment_rows_max=rows_max)
            _report(collection, memtable.ignored_updates)
            store.merge_pieces()
            rows_min = min(REWRITE_ROWS_MIN, rows_max)
            while store.rewrite_segments(rows_min=rows_min) and not self._stopping:
                pass
            if len(self._text_behind) >= OPEN_STORES_MAX:  # it would be closed before its turn comes
                store.index_documents(TEXT_CHUNK_DOCUMENTS)
            return store.applied

    def _segment_rows_max(self, ndim: int) -> int:
        given = self._settings.segment_rows_max
        return segment_rows(ndim, apart=self._apart) if given is None else given

    def _store(self, collection_id: CollectionId) -> CollectionStore:
        """The open store of a collection; applying and indexing ask from threads of their own."""
        with self._stores_lock:
            store = self._stores.get(collection_id)
            if store is None:
                self._seams.files.make_directory(self._root)
                store = self._stores[collection_id] = self._open_store(collection_id)
            self._stores.move_to_end(collection_id)
            self._close_idle_stores()
            return store

    def _open_store(self, collection_id: CollectionId) -> CollectionStore:
        """Open a store, never one that lacks what the log has freed: it would be made up of what is left."""
        freed, directory = self._follower.freed.get(collection_id, Lsn(0)), self._root / collection_id
        if freed and not (directory / RECORDS_FILE).exists():
            raise StorageCorrupt(f"records are missing, and the only copy. path={directory} freed={freed}")
        store = CollectionStore(directory, self._seams.files, write_graph_elsewhere if self._apart else write_graph)
        if store.applied < freed:
            store.close()
            raise StorageCorrupt(f"the newest records are lost. path={directory} applied={store.applied} freed={freed}")
        return store

    def _close_idle_stores(self) -> None:
        for collection_id in list(self._stores)[: max(0, len(self._stores) - OPEN_STORES_MAX)]:
            if collection_id not in self._indexing:
                self._stores.pop(collection_id).close()

    # ---- indexing, beside the steps

    def _start_indexing(self) -> None:
        """Build graphs one collection at a time, while applying goes on."""
        if self._indexing:
            return
        collection_id = min(self._due_for_graphs(), default=None)
        if collection_id is None:
            return
        collection = self._follower.catalog.collection(collection_id)
        self._unindexed.discard(collection_id)
        if collection is not None and (self._root / collection_id).exists():
            self._indexing[collection_id] = asyncio.create_task(self._index(collection))

    def _due_for_graphs(self) -> set[CollectionId]:
        """Collections whose graphs are to be looked at now."""
        now = self._seams.clock.monotonic()
        return self._unindexed - {item for item, (again, _) in self._graph_again.items() if again > now}

    async def index_now(self) -> None:
        """Build all graphs that are due, and wait for them."""
        while self._indexing or self._due_for_graphs():
            self._start_indexing()
            for task in list(self._indexing.values()):
                await task

    async def _index(self, collection: Collection) -> None:
        try:
            store = await self._work(lambda: self._store(collection.id))
            while await self._work(lambda: self._build_graph(store, collection), self._indexers):
                pass
        except Exception as error:
            limit = limit_error(error, self._root.parent)
            if limit is not None:
                self._note_limit(limit)
                await self._seams.clock.sleep(PAUSE_SECONDS_MAX)  # it is the one that is built: nothing else is meanwhile
                self._unindexed.add(collection.id)
                return
            self._try_again(collection.id, error)
        else:
            self._graph_again.pop(collection.id, None)
        finally:
            self._indexing.pop(collection.id, None)

    def _try_again(self, collection_id: CollectionId, error: Exception) -> None:
        """Say that a graph has failed, and try again later."""
        _, before = self._graph_again.get(collection_id, (0.0, GRAPH_AGAIN_SECONDS_MIN / 2))
        pause = min(2 * before, GRAPH_AGAIN_SECONDS_MAX)
        self._graph_again[collection_id] = self._seams.clock.monotonic() + pause, pause
        self._unindexed.add(collection_id)
        foreseen = isinstance(error, StorageCorrupt | PermissionError)
        message = "graph.failed collection=%s reads=exact again_seconds=%g reason=%s"
        logger.error(message, collection_id, pause, error, exc_info=None if foreseen else error)

    def _build_graph(self, store: CollectionStore, collection: Collection) -> bool:
        def is_wanted() -> bool:
            now = self._follower.catalog.collection(collection.id)
            return not self._stopping and now is not None and now.hnsw == collection.hnsw

        rows_min, threads = self._settings.graph_rows_min, self._settings.index_threads
        return store.build_graphs(
            collection.hnsw, rows_min=rows_min, threads=threads, is_wanted=is_wanted, at_rest=self._at_rest
        )

    async def _cancel_indexing(self, collection_id: CollectionId) -> None:
        task = self._indexing.pop(collection_id, None)
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def retention_of(settings: EngineSettings) -> Retention:
    """How much of the log is to be kept for feeds."""
    return Retention(settings.log_retention_bytes, settings.log_retention_seconds)


def _code_of(error: sqlite3.Error) -> int:
    """SQLite's code; errors of Python's module itself have none: a text that is no UTF-8, which is damage."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)


def _report(collection: Collection, ignored: IgnoredUpdates) -> None:
    """Say which updates named ids that do not exist: here, because every entry is published by one process, once."""
    if ignored.count:
        ids = " ".join(repr(record_id) for record_id in ignored.examples)
        shown = ids if ignored.count == len(ignored.examples) else f"{ids} ..."
        logger.warning("update.ignored collection=%r count=%d ids=[%s]", collection.name, ignored.count, shown)
