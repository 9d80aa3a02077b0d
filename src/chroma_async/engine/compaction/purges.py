"""Purges that were asked for: deleted and replaced records leave the disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from chroma_async.engine.compaction.jobs import Jobs
from chroma_async.engine.compaction.log_room import LogRoom
from chroma_async.engine.compaction.retries import Retries
from chroma_async.engine.compaction.stores import OpenStores
from chroma_async.errors import DirectoryReplacedError, UnavailableError
from chroma_async.model import Collection, CollectionId, Lsn
from chroma_async.projections.manifest import PurgeRef
from chroma_async.seams import Clock
from chroma_async.wal import TruncatableLog

PURGE_AGAIN_SECONDS_MIN: Final = 1.0
PURGE_AGAIN_SECONDS_MAX: Final = 30.0
"""After a purge that met somebody who reads, each time twice as long."""

logger = logging.getLogger("chroma_async.compactor")


class Purges:
    """Each collection's newest purge that was asked for, until the manifest says that it is done."""

    def __init__(
        self,
        stores: OpenStores,
        jobs: Jobs,
        log: TruncatableLog,
        room: LogRoom,
        clock: Clock,
        is_applied: Callable[[CollectionId, Lsn], bool],
    ) -> None:
        """`is_applied`: whether a collection exists, and has nothing to be applied up to an LSN."""
        self._stores = stores
        self._jobs = jobs
        self._log = log
        self._room = room
        self._clock = clock
        self._is_applied = is_applied
        self._asked: dict[CollectionId, tuple[int, Lsn]] = {}
        """Not known to be done: the number of the newest, and the LSN through which to apply before it."""
        self._done: dict[CollectionId, int] = {}
        self.retries = Retries(clock, PURGE_AGAIN_SECONDS_MIN, PURGE_AGAIN_SECONDS_MAX)
        """Of purges that met somebody who reads."""

    def __len__(self) -> int:
        """Collections for which one is asked."""
        return len(self._asked)

    def notice(self, collections: Mapping[CollectionId, Collection], position: Lsn) -> None:
        """Take note of what was asked for, in the catalog as of this LSN."""
        for collection_id, collection in collections.items():
            number = collection.purges
            if number > self._done.get(collection_id, 0) and self._asked.get(collection_id, (0, 0))[0] < number:
                self._asked[collection_id] = (number, position)

    def forget(self, collection_id: CollectionId) -> None:
        """Note that a collection was deleted."""
        self._asked.pop(collection_id, None)
        self._done.pop(collection_id, None)
        self.retries.forget(collection_id)

    async def step(self) -> Sequence[CollectionId]:
        """Do the purges where all is applied that was written before; return the collections of which one is done.

        The manifest says so at last, after the log's part, so that a successor knows what is left to do. While somebody
        reads an old instant of the tables or the log, it is tried again later.
        """
        due = [collection_id for collection_id in self._asked if self._is_due(collection_id)]
        if due:
            await self._room.sync_entries()  # a receipt must not outlive what was asked
        purged: dict[CollectionId, PurgeRef] = {}
        for collection_id in due:
            purge = await self._purge_files(collection_id)
            if purge is not None:
                purged[collection_id] = purge
        if not purged or not await self._purge_log(purged):
            return ()
        for collection_id, purge in purged.items():
            with self._stores.guarded(collection_id):
                await self._jobs.run(partial(self._publish, collection_id, purge))
                self._note_done(collection_id, purge.number)
                logger.info("collection.purged collection=%s dropped_vectors=%d", collection_id, purge.dropped_vectors)
        return tuple(purged)

    def _is_due(self, collection_id: CollectionId) -> bool:
        _, through = self._asked[collection_id]
        return (
            self.retries.is_due(collection_id)
            and self._is_applied(collection_id, through)
            and not self._room.owes(collection_id)
            and not self._stores.is_left_alone(collection_id)
        )

    async def _purge_files(self, collection_id: CollectionId) -> PurgeRef | None:
        """None: a predecessor has done it, or it is tried again later."""
        number, _ = self._asked[collection_id]
        try:
            with self._stores.guarded(collection_id):
                purge = await self._jobs.run(partial(self._purge_store, collection_id, number))
                if purge is None:
                    self._note_done(collection_id, number)
                return purge
        except DirectoryReplacedError:
            raise
        except UnavailableError as error:
            self._try_again(collection_id, error)
        return None

    async def _purge_log(self, purged: Mapping[CollectionId, PurgeRef]) -> bool:
        """False: it is tried again later."""
        try:
            await self._room.erase({collection_id: purge.applied for collection_id, purge in purged.items()})
            await self._log.scrub()
        except DirectoryReplacedError:
            raise
        except UnavailableError as error:
            for collection_id in purged:
                self._try_again(collection_id, error)
            return False
        return True

    def _purge_store(self, collection_id: CollectionId, number: int) -> PurgeRef | None:
        """Purge the files of a collection; None: a predecessor has done it."""
        store = self._stores.get(collection_id)
        done = store.manifest.purge
        if done is not None and done.number >= number:
            return None
        dropped = store.purge()
        manifest = store.manifest
        return PurgeRef(number, manifest.applied, manifest.live, dropped, self._clock.now_ns())

    def _publish(self, collection_id: CollectionId, purge: PurgeRef) -> None:
        self._stores.get(collection_id).publish_purge(purge)

    def _note_done(self, collection_id: CollectionId, number: int) -> None:
        self._done[collection_id] = number
        self.retries.forget(collection_id)
        if self._asked[collection_id][0] <= number:
            del self._asked[collection_id]

    def _try_again(self, collection_id: CollectionId, reason: UnavailableError) -> None:
        pause = self.retries.later(collection_id)
        logger.debug("purge.postponed collection=%s again_seconds=%g reason=%s", collection_id, pause, reason)
