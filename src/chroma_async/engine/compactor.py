"""Applies the log to the projections, builds graphs, merges and reclaims, and frees the log: one holder per directory.

Observe, decide by a pure function, perform, record. Everything it does is repeatable: a successor that takes over in the
middle starts from the manifests, and finds at most files that nothing reaches.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from chroma_async.core.memtable import IgnoredUpdates, Memtable
from chroma_async.core.retention import Retention
from chroma_async.core.upkeep import segment_rows
from chroma_async.engine.compaction.backlog import Backlog
from chroma_async.engine.compaction.graphs import Graphs
from chroma_async.engine.compaction.jobs import Jobs
from chroma_async.engine.compaction.log_room import LogRoom
from chroma_async.engine.compaction.purges import Purges
from chroma_async.engine.compaction.stores import OpenStores
from chroma_async.engine.compaction.text_indexes import TextIndexes
from chroma_async.engine.follower import Follower
from chroma_async.engine.lock import CompactorLock
from chroma_async.engine.lost_collections import LOST_SUFFIX, KeptLog, unknown_collections
from chroma_async.model import Collection, CollectionId, HnswConfiguration, Lsn
from chroma_async.projections.fold import fold_entry
from chroma_async.projections.heal import heal
from chroma_async.seams import Seams, Workers
from chroma_async.seams.limits import (
    FULL,
    NO_HANDLES,
    NO_MEMORY,
    LimitError,
    check_room,
    free_bytes,
    is_over,
    limit_error,
)
from chroma_async.settings import EngineSettings
from chroma_async.wal import LOG_FILE, TruncatableLog, check_log

T = TypeVar("T")

IDLE_SECONDS: Final = 0.1
SETTLE_SECONDS: Final = 0.25
"""Entries wait this long for company: a bigger step costs less for each entry, and readers have them anyway."""

PRESSED_SHARE: Final = 2
"""With so much of a step to apply, one part in so many, there is no waiting for company."""

REST_AFTER_STEPS: Final = 10
"""Idle steps after which graphs take what they would else have waited for company with: a second."""

TIDY_AFTER_STEPS: Final = 5
"""Idle steps after which journals are emptied, or tried again when somebody was reading them: half a second."""

TEXT_PAUSE_SECONDS: Final = 0.05
"""Between two chunks of a text index, where nothing else is to be done: documents wait for no company."""

TEXT_LAG_MAX: Final = 262_144
"""Documents that a text index may lack while entries wait to be applied: so many are scanned in some 60 ms."""

PAUSE_SECONDS_MIN: Final = 0.25
PAUSE_SECONDS_MAX: Final = 5.0
"""Waits for room, handles or memory, each twice as long as the one before."""

GIVE_WAY_SECONDS: Final = 30.0
"""After so long without what other processes may have, one of them is to compact."""

DELETIONS_SHARE: Final = 2
"""Of the reserve, one part in so many is left to deletions: what is applied may take the rest."""

APPLY_COST: Final = 4
"""Bytes on the disk that applying a byte may take for a while: vectors, rows, text index, SQLite's journal."""

COMPACTOR_THREADS: Final = 2

COLLECTIONS: Final = "collections"

logger = logging.getLogger("chroma_async.compactor")


class Compactor:
    """The background work of a directory, while it holds the lock."""

    def __init__(
        self,
        directory: Path,
        log: TruncatableLog,
        lock: CompactorLock,
        workers: Workers,
        settings: EngineSettings,
        seams: Seams,
        indexers: Workers | None = None,
        *,
        apart: bool = False,
    ) -> None:
        """`apart`: graphs are built by processes of their own, which this one begins."""
        self._directory = directory
        self._root = directory / COLLECTIONS
        self._log = log
        self.lock = lock
        self._apart = apart
        self._settings = settings
        self._seams = seams
        self._follower: Follower[Backlog] = self._new_follower()
        self._known: frozenset[CollectionId] = frozenset()
        self._deleted: set[CollectionId] = set()
        self._configured: dict[CollectionId, HnswConfiguration] = {}
        self._noticed = Lsn(-1)
        """The LSN as of which the catalog was looked at."""
        self._lacks_only_text = False
        self._limit: LimitError | None = None

        clock = seams.clock
        self._jobs = Jobs(workers)
        self._stores = OpenStores(self._root, seams, self._noted_applied, apart=apart)
        self._room = LogRoom(log, Retention(settings.log_retention_bytes, settings.log_retention_seconds), clock)
        self._graphs = Graphs(
            directory, self._stores, self._jobs, indexers or workers, settings, clock, self._collection, self._note_limit
        )
        self._texts = TextIndexes(self._stores, self._jobs, self._collection)
        self._purges = Purges(self._stores, self._jobs, log, self._room, clock, self._is_applied)

    def _new_follower(self) -> Follower[Backlog]:
        def offered(lsn: Lsn, size_bytes: int) -> None:
            self._room.note(lsn, size_bytes)

        return Follower(self._log, lambda collection_id: Backlog(collection_id, self._deleted.add, offered))

    def _noted_applied(self, collection_id: CollectionId) -> Lsn:
        return self._follower.noted_applied.get(collection_id, Lsn(0))

    def _collection(self, collection_id: CollectionId) -> Collection | None:
        return self._follower.catalog.collection(collection_id)

    # ---- from beginning to end

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
                self._graphs.rest(idle_steps >= REST_AFTER_STEPS)
                if not is_tidy and idle_steps and idle_steps % TIDY_AFTER_STEPS == 0:
                    is_tidy = await self._patiently(self.tidy)
                await self._seams.clock.sleep(self._pause_seconds(busy))
        finally:
            await self._stop()

    async def _try_lock(self) -> bool:
        self._log.require_in_place()
        return self.lock.try_acquire()

    def _pause_seconds(self, busy: bool) -> float:
        """How long to wait for the next step: not at all while entries wait that are a whole one."""
        if not busy:
            return IDLE_SECONDS
        if self._is_pressed():
            return 0.0
        return TEXT_PAUSE_SECONDS if self._lacks_only_text else SETTLE_SECONDS

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do what can be done again from the start; while the machine lacks something, pause, which is logged once.

        Raises:
            Exception: it goes wrong otherwise; or the want lasts, and is this process's own. Who gives up the lock then lets
                another one compact.
        """
        pause, began = PAUSE_SECONDS_MIN, math.inf
        while True:
            try:
                outcome = await work()
            except Exception as error:
                limit = limit_error(error, self._directory)
                if limit is None:
                    raise
                self._note_limit(limit)
                began = min(began, self._seams.clock.monotonic())
                if self._seams.clock.monotonic() - began >= GIVE_WAY_SECONDS and self._is_own(limit, error):
                    raise
                self._stores.close_idle()
                if limit.reason == FULL:
                    await self._room.give_way()
                await self._seams.clock.sleep(pause)
                pause = min(pause * 2, PAUSE_SECONDS_MAX)
            else:
                self._note_limit(None)
                return outcome

    def _is_own(self, limit: LimitError, error: Exception) -> bool:
        """Whether other processes may have what this one lacks: handles, memory, or the right to write longer files.

        What was refused before it was tried, for want of room on the disk, nobody has.
        """
        if limit.reason == FULL:
            return limit is not error and is_over(limit, self._directory, 0, self._settings.disk_reserve_bytes)
        return limit.reason in (NO_HANDLES, NO_MEMORY)

    def _note_limit(self, limit: LimitError | None) -> None:
        before, self._limit = self._limit, limit
        if limit is not None and (before is None or before.reason != limit.reason):
            logger.warning("compactor.paused reason=%s message=%r", limit.reason, limit.message)
        elif limit is None and before is not None:
            logger.info("compactor.resumed after=%s", before.reason)

    async def take_over(self) -> None:
        """Begin as the holder of the lock: know the log, sweep what a predecessor left."""
        self._follower = self._new_follower()
        await self._room.start()
        holding = await self._log.holding()  # before the catalog is read: what is new then is not taken for deleted
        await self._follower.start()
        self._known = self._follower.catalog.collection_ids()
        self._graphs.look_at(self._known)
        self._texts.look_at(sorted(self._known))
        await self._log.sync()  # as before every removal: what is swept was deleted for good
        for collection_id in holding - self._known:
            self._room.erase_later(collection_id, self._follower.position)
        await self._sweep_unknown()
        await self._jobs.run(self._heal_known)

    async def apply_all(self) -> None:
        """With the lock held: do all that there is to do, and let go of everything but the lock."""
        await self.take_over()
        try:
            while await self.step():
                pass
            await self.index_now()
        finally:
            self.abandon()

    async def index_now(self) -> None:
        """Build all graphs that are due, and wait for them."""
        await self._graphs.build_all_now()

    async def tidy(self) -> bool:
        """Give back the disk that was held for the next entries: none have come for a while. False: somebody was reading."""
        done = True
        for store in self._stores.opened():
            done = await self._jobs.run(store.tidy) and done
        return await self._log.tidy() and done

    async def _stop(self) -> None:
        self._jobs.stopping = True
        await self._graphs.stop()
        self.abandon()
        self.lock.release()
        logger.info("compactor.stopped")

    def abandon(self) -> None:
        """Let go of everything at once, as the end of the process would: nothing is finished."""
        self._jobs.stopping = True
        self._graphs.abandon()
        self._stores.close_all()

    async def _sweep_unknown(self) -> None:
        """Remove directories of collections that were deleted. One that the log may have lost is renamed, and stays."""
        self._seams.files.make_directory(self._root)
        unknown = await self._jobs.run(partial(unknown_collections, self._root, self._known))
        if not unknown:
            return
        await self._jobs.run(self._check_log)
        owners = await self._log.owners(applied for applied in unknown.values() if applied)
        kept = KeptLog(self._follower.position, await self._log.first_lost(), owners)
        for collection_id, applied in unknown.items():
            path = self._root / collection_id
            if kept.may_have_lost(collection_id, applied):
                lost = path.with_suffix(LOST_SUFFIX)
                await self._jobs.run(partial(self._seams.files.replace, path, lost))
                logger.error("collection.lost path=%s applied=%s", lost, applied)
            else:
                await self._jobs.run(partial(self._seams.files.remove, path))

    def _heal_known(self) -> None:
        for path in list(self._root.iterdir()):
            collection_id = CollectionId(path.name)
            if collection_id not in self._known:
                continue
            with self._stores.guarded(collection_id):
                store = self._stores.get(collection_id)
                heal(store)
                self._stores.note_sound(collection_id)
                self._pass_over(collection_id, store.applied)

    def _check_log(self) -> None:
        """Before anything is removed because the catalog does not have it: see that the catalog is whole.

        Raises:
            LogError, StorageCorrupt, sqlite3.DatabaseError: it is not.
        """
        if (self._directory / LOG_FILE).exists():
            check_log(self._directory)

    def _pass_over(self, collection_id: CollectionId, applied: Lsn) -> None:
        """Leave out what a predecessor has applied, and the log was not told of."""
        backlog = self._follower.sinks().get(collection_id)
        if backlog is not None and backlog.waits_through(applied):
            backlog.drop(applied)
            self._room.owe(collection_id, applied)

    # ---- steps

    async def step(self) -> bool:
        """Do what there is to do, once; say whether there was something."""
        self._log.require_in_place()  # what it writes and removes, it does by name
        await self._follower.catch_up()
        self._room.begin_step()
        self._notice_catalog()
        busy = await self._delete_collections()  # first: on a full disk it makes the room that the rest needs
        self._room.look()
        if self._lacks_room():
            self._room.keep_nothing()
        if self._is_pressed():
            busy = await self._compact_beside_the_log() or busy
        else:
            busy = await self._room.free() or busy
            busy = await self._compact_all() or busy
        if self._purges or not self._is_pressed():
            busy = await self._room.free() or busy
        purged = await self._purges.step()
        self._graphs.look_at(purged)
        busy = bool(purged) or busy
        self._lacks_only_text = await self._texts.step(lag_max=TEXT_LAG_MAX if busy else 0) and not busy
        self._graphs.start()
        return busy or self._lacks_only_text

    def _is_pressed(self) -> bool:
        """Whether entries wait that are worth a step of their own."""
        backlogs = self._follower.sinks().values()
        return any(backlog.size_bytes >= self._settings.apply_bytes_max // PRESSED_SHARE for backlog in backlogs)

    def _lacks_room(self) -> bool:
        """Whether writes are refused for want of room, or soon will be."""
        free = free_bytes(self._directory)
        return free is not None and free < 2 * self._settings.disk_reserve_bytes

    def _notice_catalog(self) -> None:
        """Note purges that are asked for, and have another look at graphs that are configured otherwise than before."""
        if self._follower.position == self._noticed:
            return
        self._noticed, catalog = self._follower.position, self._follower.catalog
        found = {item: catalog.collection(item) for item in catalog.collection_ids()}
        collections = {item: collection for item, collection in found.items() if collection is not None}
        self._purges.notice(collections, self._noticed)
        now = {item: collection.hnsw for item, collection in collections.items()}
        self._graphs.look_anew_at(item for item, hnsw in now.items() if self._configured.get(item, hnsw) != hnsw)
        self._configured = now

    def _is_applied(self, collection_id: CollectionId, through: Lsn) -> bool:
        """Whether a collection exists and has nothing to be applied up to this LSN."""
        backlog = self._follower.sinks().get(collection_id)
        return self._collection(collection_id) is not None and (backlog is None or not backlog.waits_through(through))

    # ---- deleting

    async def _delete_collections(self) -> bool:
        known = self._follower.catalog.collection_ids()
        self._deleted |= self._known - known  # also those that had no entry waiting
        self._known = known
        gone = sorted(self._deleted)
        if gone:
            await self._log.sync()  # files must not be gone while a power cut can still bring their collection back
        for collection_id in gone:
            await self._graphs.forget(collection_id)
            await self._jobs.run(partial(self._stores.remove, collection_id))
            self._room.erase_later(collection_id, self._follower.position)
            self._purges.forget(collection_id)
            self._deleted.discard(collection_id)
        return bool(gone)

    # ---- applying

    async def _compact_beside_the_log(self) -> bool:
        """Apply what waits, while the log frees what was applied before and the next entries are read from it."""

        async def go_ahead() -> bool:
            busy = await self._room.free()
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

    async def _compact(self, collection_id: CollectionId) -> bool:
        collection = self._collection(collection_id)
        backlog = self._follower.sinks().get(collection_id)
        if collection is None or backlog is None or not backlog.entries or self._stores.is_left_alone(collection_id):
            return False
        entries = self._take(backlog)
        await self._room.sync_entries()
        with self._stores.guarded(collection_id):
            applied = await self._jobs.run(lambda: self._apply(collection, entries))
        if self._stores.is_left_alone(collection_id):
            return False
        self._stores.note_sound(collection_id)
        backlog.drop(applied)
        self._graphs.note_applied(collection_id)
        self._texts.look_at((collection_id,))
        self._room.owe(collection_id, applied)
        return True

    def _take(self, backlog: Backlog) -> list[tuple[Lsn, bytes]]:
        """The next entries. Where room is scarce, few at a time, since freeing them makes some; a part stays for deletions.

        Raises:
            InsufficientStorageError: there is no room for one entry.
        """
        kept = self._settings.disk_reserve_bytes // DELETIONS_SHARE
        free = free_bytes(self._directory)
        if free is None:
            return backlog.take(self._settings.apply_bytes_max)
        room = max(0, free - kept) // APPLY_COST
        entries = backlog.take(min(self._settings.apply_bytes_max, room))
        check_room(self._directory, APPLY_COST * sum(len(payload) for _, payload in entries), kept)
        return entries

    def _apply(self, collection: Collection, entries: list[tuple[Lsn, bytes]]) -> Lsn:
        """Fold entries and publish the outcome; return the LSN through which the collection is applied."""
        store = self._stores.get(collection.id)
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
            while store.rewrite_segments(segment_rows_max=rows_max) and not self._jobs.stopping:
                pass
            self._texts.index_now(store)
            return store.applied

    def _segment_rows_max(self, ndim: int) -> int:
        given = self._settings.segment_rows_max
        return segment_rows(ndim, apart=self._apart) if given is None else given


def _report(collection: Collection, ignored: IgnoredUpdates) -> None:
    """Say which updates named ids that do not exist: here, because every entry is published by one process, once."""
    if ignored.count:
        ids = " ".join(repr(record_id) for record_id in ignored.examples)
        shown = ids if ignored.count == len(ignored.examples) else f"{ids} ..."
        logger.warning("update.ignored collection=%r count=%d ids=[%s]", collection.name, ignored.count, shown)
