"""Keeps a process level with the log: its catalog, and the entries that each collection has not applied yet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

import anyio

from chroma_async.core.catalog import Catalog
from chroma_async.core.events import RecordsDeleted, RecordsHead, decode_head
from chroma_async.errors import LogCorrupt, LogReset, LogTruncated
from chroma_async.model import CollectionId, Lsn
from chroma_async.wal import Entry, LogStore

logger = logging.getLogger("chroma_async.follower")


class Sink(Protocol):
    """Takes the entries of one collection, in LSN order."""

    def offer(self, lsn: Lsn, payload: bytes) -> None: ...

    def refuse(self, reason: str) -> None:
        """An entry of the collection is damaged: what follows it can't be applied."""
        ...

    def miss(self, through: Lsn) -> None:
        """Entries through this LSN are applied, some of which this never got; called before any later one is offered."""
        ...

    def close(self) -> None:
        """The collection was deleted, or the process stops."""
        ...


S = TypeVar("S", bound=Sink)


class Follower(Generic[S]):
    """Follows a log. `position` is the LSN through which all is known.

    An entry whose payload was freed before it got here was applied by the compactor; its effect on records is in the
    projections, and its effect on the catalog in the catalog's rows, which are then read again.
    """

    def __init__(self, log: LogStore, make_sink: Callable[[CollectionId], S]) -> None:
        self._log = log
        self._make_sink = make_sink
        self._identity = log.identity
        self._lock = anyio.Lock(fast_acquire=True)
        self._sinks: dict[CollectionId, S] = {}
        self.noted_applied: Mapping[CollectionId, Lsn] = {}
        """See `LogStore.noted_applied`: as it was when this began to follow."""
        self.catalog = Catalog()
        self.position = Lsn(0)
        self._newest: dict[CollectionId, Lsn] = {}
        self._reloaded = Lsn(0)

    async def start(self) -> None:
        """Read the catalog and all entries that are kept."""
        async with self._lock:
            self.noted_applied = await self._log.noted_applied()
            await self._reload()
        await self.catch_up()

    def sink(self, collection_id: CollectionId) -> S:
        """What takes this collection's entries; made when it is first asked for."""
        found = self._sinks.get(collection_id)
        if found is None:
            found = self._sinks[collection_id] = self._make_sink(collection_id)
        return found

    def newest(self, collection_id: CollectionId) -> Lsn:
        """An LSN at or above that of a collection's newest entry, as far as this process knows the log."""
        return max(self._reloaded, self._newest.get(collection_id, Lsn(0)))

    def sinks(self) -> Mapping[CollectionId, S]:
        return self._sinks

    async def catch_up(self) -> None:
        """Know all that was acknowledged before this call, by whichever process.

        Raises:
            LogHole, LogCorrupt: the log is damaged.
            LogReset: it is not the log that was followed so far.
        """
        if self.position >= self._log.barrier():
            return
        async with self._lock:
            target = self._log.barrier()
            while self.position < target:
                await self._advance(target)

    async def _advance(self, target: Lsn) -> None:
        if self._log.identity != self._identity:
            raise LogReset(f"the log was replaced while it was followed; restart. was={self._identity}")
        try:
            async for entry in self._log.read(after=self.position, through=target):
                if entry.lsn <= self.position:
                    continue  # our own: accepted while this read was under way
                if entry.payload is None:
                    await self._reload()
                    return
                self._take(entry.lsn, entry.collection, entry.payload)
        except LogTruncated:
            await self._reload()
        except LogCorrupt as error:
            self.position = self._pass_over(error)

    def _pass_over(self, error: LogCorrupt) -> Lsn:
        """Refuse the one collection whose entry is damaged, and go on behind it; raise what concerns all of them."""
        if error.lsn is None or error.collection is None:
            raise error
        collection_id = CollectionId(error.collection)
        if self.catalog.collection(collection_id) is None:
            raise error
        logger.error("entry.damaged collection=%s lsn=%d refused=collection", collection_id, error.lsn)
        self.sink(collection_id).refuse(str(error))
        return Lsn(error.lsn)

    async def _read_all(self, first: Lsn, through: Lsn) -> list[Entry]:
        entries: list[Entry] = []
        after = Lsn(first - 1)
        while True:
            try:
                async for entry in self._log.read(after=after, through=through):
                    entries.append(entry)  # noqa: PERF401
                return entries
            except LogCorrupt as error:
                after = self._pass_over(error)

    async def _reload(self) -> None:
        """Start again from the catalog's rows and the oldest entry that is not applied."""
        while True:
            kept = await self._log.catalog()
            oldest = await self._log.first_unapplied()  # what is older waits for nobody here
            if not self._sinks:
                self._replace_catalog(Catalog.from_rows(kept.rows))  # damage is filed under what it knows
            try:
                entries = await self._read_all(oldest, kept.lsn)
            except LogTruncated:
                continue
            freed_through = await self._log.freed_through()  # after the entries: of those, what has no payload is among it
            if kept.lsn < self.position:
                continue  # this process appended meanwhile: read a newer instant
            self._replace_catalog(Catalog.from_rows(kept.rows))
            self._miss(freed_through)
            self._offer_all(entries)
            self._drop_deleted()
            self.position = self._reloaded = kept.lsn
            return

    def _miss(self, freed_through: Mapping[CollectionId, Lsn]) -> None:
        """Tell those that lack entries which were applied and freed before they were read here."""
        for collection_id, sink in self._sinks.items():
            through = freed_through.get(collection_id, Lsn(0))
            if through > self.position:
                sink.miss(through)

    def _offer_all(self, entries: Iterable[Entry]) -> None:
        """Those of deleted collections too: their sinks are closed at once, and so learn of the deletion."""
        for entry in entries:
            if entry.collection is not None and entry.payload is not None and entry.lsn > self.position:
                self.sink(entry.collection).offer(entry.lsn, entry.payload)

    def _take(self, lsn: Lsn, collection_id: CollectionId | None, payload: bytes) -> None:
        """Take an entry that was read, unless this process appended it and accepted it while it was read."""
        if lsn <= self.position:
            return
        head = decode_head(payload)
        if isinstance(head, RecordsHead | RecordsDeleted):
            if self.catalog.collection(head.collection) is not None:
                self.catalog.apply(head)
                self.sink(head.collection).offer(lsn, payload)
                self._newest[head.collection] = lsn
        else:
            self.catalog.apply(head)
            self._drop_deleted()
        self.position = lsn

    def accept(self, first: Lsn, entries: Iterable[tuple[CollectionId | None, bytes]], catalog: Catalog) -> None:
        """Take what this process appended itself; `catalog` holds the effect of all of it.

        A read that began between the commit and this call may have taken some of it already.

        Raises:
            RuntimeError: what comes before the first entry was not taken: it would never be seen.
        """
        if first > self.position + 1:
            raise RuntimeError(f"entries before these were not taken. first={first} position={self.position}")
        self._replace_catalog(catalog)
        for lsn, (collection_id, payload) in enumerate(entries, first):
            if lsn <= self.position:
                continue
            if collection_id is not None and self.catalog.collection(collection_id) is not None:
                self.sink(collection_id).offer(Lsn(lsn), payload)
                self._newest[collection_id] = Lsn(lsn)
            self.position = Lsn(lsn)  # after the offer: a thread that sees this position sees the entry too

    def _replace_catalog(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._drop_deleted()

    def _drop_deleted(self) -> None:
        for collection_id in self._sinks.keys() - self.catalog.collection_ids():
            self._sinks.pop(collection_id).close()
            self._newest.pop(collection_id, None)

    def close(self) -> None:
        for sink in self._sinks.values():
            sink.close()
        self._sinks.clear()
