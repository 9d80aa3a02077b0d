"""Which entries of the log a compactor frees, and when."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from chroma_async.core.retention import Ledger, Retention
from chroma_async.errors import UnavailableError
from chroma_async.model import CollectionId, Lsn
from chroma_async.seams import Clock
from chroma_async.wal import TruncatableLog


class LogRoom:
    """Frees what was applied and is not kept for feeds. What the log does not free now, since a backup pins it, is owed."""

    def __init__(self, log: TruncatableLog, retention: Retention, clock: Clock) -> None:
        self._log = log
        self._retention = retention
        self._clock = clock
        self._ledger = Ledger(retention)
        self._owed: dict[CollectionId, Lsn] = {}
        """Through which LSN collections were applied that the log was not told of."""
        self._erased: dict[CollectionId, Lsn] = {}
        """What is to leave the log whatever is kept there for feeds: of deleted collections."""
        self._truncated = Lsn(0)
        self._may_forget = False
        """Whether the log was told of something applied that it may forget as the window for feeds moves on."""
        self._synced = False

    async def start(self) -> None:
        """Know what the log's entries weigh."""
        self._ledger = Ledger(self._retention)
        for weight in await self._log.weights():
            self._ledger.add(weight.through, weight.time_ns, weight.size_bytes)

    def note(self, lsn: Lsn, size_bytes: int) -> None:
        """Note an entry that was read."""
        self._synced = False
        self._ledger.add(lsn, self._clock.now_ns(), size_bytes)

    def owe(self, collection_id: CollectionId, applied: Lsn) -> None:
        """Note through which LSN a collection was applied."""
        self._owed[collection_id] = max(applied, self._owed.get(collection_id, applied))

    def owes(self, collection_id: CollectionId) -> bool:
        """Whether entries of a collection may still be there that were applied."""
        return collection_id in self._owed

    def erase_later(self, collection_id: CollectionId, through: Lsn) -> None:
        """Note that a collection was deleted: its entries are kept for nobody."""
        self._erased[collection_id] = through

    # ---- before anything is applied

    def begin_step(self) -> None:
        self._synced = False

    async def sync_entries(self) -> None:
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

    # ---- what is kept for feeds

    def look(self) -> None:
        """Move the window on that is kept."""
        self._ledger.look(self._clock.now_ns())

    def keep_nothing(self) -> None:
        """Keep nothing of what there is now."""
        self._ledger.clear()

    async def give_way(self) -> None:
        """On a full disk: what is kept goes first, and the log's journal may hold what frees room."""
        with suppress(Exception):
            await self._log.truncate(through=self._ledger.clear())
            await self._log.tidy()

    # ---- freeing

    async def free(self) -> bool:
        """Free what was applied, or kept for feeds long enough; say whether there is more of it to come."""
        await self._pay_off()
        return await self._end_retention()

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

    async def _truncate(self, collection_id: CollectionId, through: Lsn) -> bool:
        """Free applied entries but for those that are kept for feeds; False while a backup pins the log."""
        if self._ledger.keeps_nothing:
            return await self._log.truncate_collection(collection_id, through=through)
        self._may_forget = True
        return await self._log.note_applied(collection_id, through=through)

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

    async def erase(self, collections: Mapping[CollectionId, Lsn]) -> None:
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
