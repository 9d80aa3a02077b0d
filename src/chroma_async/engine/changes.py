"""What a feed reads: the log page by page, at the pace of whoever listens, perhaps after a snapshot of what there is.

A page of entries is held and no more, and the log is never kept from freeing what was not read yet: reading ends with
`GoneError` then.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace
from functools import partial
from typing import Final

from msgspec import Struct

from chroma_async.core.events import (
    CollectionCreated,
    CollectionDeleted,
    CollectionModified,
    DatabaseDeleted,
    Event,
    EverythingDeleted,
    decode,
)
from chroma_async.engine.change_of import change_of_catalog, change_of_entry, snapshot_page
from chroma_async.engine.collection import CollectionReader
from chroma_async.engine.feeds import Feeds
from chroma_async.engine.follower import Follower
from chroma_async.engine.paging import pages, view_of_now
from chroma_async.engine.read_view import View
from chroma_async.errors import GoneError, LogTruncated, StorageCorrupt, UnavailableError
from chroma_async.model import Collection as CollectionModel
from chroma_async.model import CollectionId, Lsn
from chroma_async.protocol.changes import Change, ChangeKind, Choice, to_cursor
from chroma_async.seams import Clock, Workers
from chroma_async.wal import Entry, History, LogStore

PAGE_BYTES_MAX: Final = 2**20
"""Payloads that a feed reads at a time, beyond the first."""

SNAPSHOT_ROWS: Final = 256
DECODE_INLINE_BYTES: Final = 64 * 2**10


class Source(Struct, frozen=True):
    """What feeds read from."""

    log: LogStore
    follower: Follower[CollectionReader]
    workers: Workers
    clock: Clock
    feeds: Feeds

    async def collection(self, collection_id: CollectionId) -> CollectionModel | None:
        """The collection as of now; None when it does not exist any more."""
        await self.follower.catch_up()
        return self.follower.catalog.collection(collection_id)


def gone(why: str) -> GoneError:
    return GoneError(f"the changes after this position are not kept any more; begin again from a snapshot. {why}")


class _Left(Exception):
    """Ends a snapshot that nobody wants any more."""


class Changes(ABC):
    """What a feed reads: a snapshot, if it has no position; then entries, heartbeats, and its end."""

    def __init__(self, source: Source, choice: Choice, position: Lsn | None) -> None:
        self._is_left = False
        self._source = source
        self._choice = choice
        self._position = position
        self._last: Change | None = None
        """The change with which it is over."""
        self._sent_at = source.clock.monotonic()

    @property
    def is_left(self) -> bool:
        return self._is_left

    def leave(self) -> None:
        """End the reading, which another task may be at: where it waits, or before its next page."""
        self._is_left = True
        self._source.feeds.wake(self)

    async def read(self) -> AsyncGenerator[Change]:
        if self._position is None:
            try:
                async with aclosing(self._snapshot()) as snapshot:
                    async for shown in snapshot:
                        self._note_sent()
                        yield shown
            except _Left:
                return
        position = self._position or Lsn(0)
        yield self._at(position, self._mark("heartbeat", position))  # who listens knows where it begins
        while not self._is_over:
            page = await self._page(position)
            for entry in page.entries:
                position = entry.lsn
                change = await self._read(entry)
                if self._last is not None:
                    break
                if change is not None:
                    self._note_sent()
                    yield self._at(position, change)
            if self._last is not None:
                yield self._at(position, self._last)
                return
            position = max(position, page.through)
            if not self._left_seconds:
                self._note_sent()
                yield self._at(position, self._mark("heartbeat", position))
            if not page.entries:
                await self._source.feeds.wait(self, partial(self._is_news_or_over, position), self._left_seconds)

    @abstractmethod
    def _snapshot(self) -> AsyncGenerator[Change]:
        """All records, and before its end the position from which to go on."""

    @abstractmethod
    async def _page(self, position: Lsn) -> History:
        """The next entries."""

    @abstractmethod
    async def _read(self, entry: Entry) -> Change | None:
        """Return the change that an entry means; None: none that was asked for."""

    @abstractmethod
    def _is_news(self, position: Lsn) -> bool:
        """Whether there is something to read after a position."""

    @abstractmethod
    def _at(self, position: Lsn, change: Change) -> Change:
        """With the cursor, where one goes on from. Never 0: who goes on after it means the oldest that is kept then."""

    @property
    def _is_over(self) -> bool:
        return self._is_left or self._source.feeds.is_stopped

    def _is_news_or_over(self, position: Lsn) -> bool:
        return self._is_over or self._is_news(position)

    def _note_sent(self) -> None:
        self._sent_at = self._source.clock.monotonic()

    @property
    def _left_seconds(self) -> float:
        """Until a heartbeat is due, since nothing was sent for so long."""
        return max(0.0, self._sent_at + self._choice.heartbeat_seconds - self._source.clock.monotonic())

    def _mark(self, kind: ChangeKind, lsn: Lsn) -> Change:
        return Change(kind=kind, lsn=lsn, time=self._source.clock.now_ns() / 1e9)

    async def _change_of(self, entry: Entry) -> Change | None:
        assert entry.payload is not None
        if len(entry.payload) <= DECODE_INLINE_BYTES:
            return change_of_entry(entry, self._choice)
        return await self._source.workers.run(partial(change_of_entry, entry, self._choice))

    def _view(self, collection_id: CollectionId) -> AbstractAsyncContextManager[View]:
        return view_of_now(self._source.follower, self._source.workers, collection_id)

    async def _shown(self, view: View) -> AsyncGenerator[Change]:
        """The records of a view, those that pass the filter. One page at least; any may be empty."""
        async for change in pages(self._source.workers, view, SNAPSHOT_ROWS, partial(snapshot_page, self._choice)):
            if self._source.feeds.is_stopped:
                raise UnavailableError("the server is stopping; begin the snapshot again")
            if self._is_left:
                raise _Left
            yield change


class CollectionChanges(Changes):
    """What happens to one collection after `position`, or from a snapshot on."""

    def __init__(self, source: Source, collection: CollectionModel, choice: Choice, position: Lsn | None) -> None:
        super().__init__(source, choice, position)
        self._id = collection.id

    async def _page(self, position: Lsn) -> History:
        source = self._source
        is_there = await source.collection(self._id) is not None
        try:
            page = await source.log.history(self._id, after=position, bytes_max=PAGE_BYTES_MAX)
        except LogTruncated:
            if await source.collection(self._id) is not None:
                raise
            page = History([], position)  # what was to be read went with it
            is_there = False
        if not is_there and not page.entries:
            self._last = Change(kind="collection_deleted", lsn=source.follower.position)
        return page

    async def _read(self, entry: Entry) -> Change | None:
        return await self._change_of(entry)

    def _is_news(self, position: Lsn) -> bool:
        follower = self._source.follower
        return follower.catalog.collection(self._id) is None or follower.newest(self._id) > position

    def _at(self, position: Lsn, change: Change) -> Change:
        at = max(position, change.lsn)
        return replace(change, cursor=str(at)) if at else change

    async def _snapshot(self) -> AsyncGenerator[Change]:
        async with self._view(self._id) as view:
            lsn = view.image.through
            yield self._mark("snapshot_begin", lsn)
            async for change in self._shown(view):
                if change.ids:
                    yield change
        self._position = lsn
        yield self._at(lsn, self._mark("snapshot_end", lsn))


class DatabaseChanges(Changes):
    """What happens to the collections of a database after `position`, or from a snapshot on."""

    def __init__(self, source: Source, tenant: str, database: str, choice: Choice, position: Lsn | None) -> None:
        super().__init__(source, choice, position)
        self._tenant = tenant
        self._database = database
        self._names = {item.id: item.name for item in self._collections()}
        self._seen: dict[CollectionId, Lsn] = {}
        """Through which LSN a snapshot has shown each collection."""

    def _collections(self) -> list[CollectionModel]:
        return self._source.follower.catalog.collections(self._tenant, self._database)

    async def _page(self, position: Lsn) -> History:
        await self._source.follower.catch_up()
        return await self._source.log.history(None, after=position, bytes_max=PAGE_BYTES_MAX)

    def _is_news(self, position: Lsn) -> bool:
        return self._source.follower.position > position

    def _at(self, position: Lsn, change: Change) -> Change:
        """None where it would lead into the middle of a snapshot."""
        if not position or position < max(self._seen.values(), default=0):
            return change
        return replace(change, cursor=to_cursor(position, self._source.log.identity))

    async def _read(self, entry: Entry) -> Change | None:
        if entry.collection is None:
            return None if entry.payload is None else self._read_catalog(entry, decode(entry.payload))
        name = self._names.get(entry.collection)
        if name is None or entry.lsn <= self._seen.get(entry.collection, 0):
            return None
        if entry.payload is None:
            now = await self._source.collection(entry.collection)
            if now is not None:
                raise gone(f"lsn={entry.lsn} collection={now.name!r}")
            return None  # it went with its collection, of whose end an entry tells that is yet to come
        change = await self._change_of(entry)
        return None if change is None else replace(change, collection=entry.collection, name=name)

    def _read_catalog(self, entry: Entry, event: Event) -> Change | None:
        change = self._catalog_change(entry, event)
        if change is not None and change.kind == "database_deleted":
            self._last = change
        return change if change is not None and self._choice.takes(change.kind) else None

    def _catalog_change(self, entry: Entry, event: Event) -> Change | None:
        here = (self._tenant, self._database)
        match event:
            case CollectionCreated() if (event.tenant, event.database) == here:
                self._names[event.id] = event.name
                return change_of_catalog("collection_created", entry, event.id, event.name, event.metadata)
            case CollectionModified() if event.id in self._names:
                self._names[event.id] = event.name
                return change_of_catalog("collection_modified", entry, event.id, event.name, event.metadata)
            case CollectionDeleted() if event.id in self._names or (event.tenant, event.database) == here:
                name = self._names.pop(event.id, event.name)
                return change_of_catalog("collection_deleted", entry, event.id, name, None)
            case DatabaseDeleted() if (event.tenant, event.name) == here:
                return change_of_catalog("database_deleted", entry, None, None, None)
            case EverythingDeleted():
                return change_of_catalog("database_deleted", entry, None, None, None)
            case _:
                return None

    async def _snapshot(self) -> AsyncGenerator[Change]:
        """All collections, one by one, each as of an LSN of its own; what follows leaves out what they have shown."""
        begin = self._position = self._source.follower.position
        self._names = {item.id: item.name for item in self._collections()}  # of that instant: it may have waited for this
        yield self._mark("snapshot_begin", begin)
        for collection in self._collections():
            try:
                async with self._view(collection.id) as view:
                    async for change in self._shown(view):
                        yield replace(change, collection=collection.id, name=collection.name)
                    self._seen[collection.id] = view.image.through
            except (StorageCorrupt, sqlite3.DatabaseError, FileNotFoundError):
                if await self._source.collection(collection.id) is not None:
                    raise
        yield self._at(begin, self._mark("snapshot_end", begin))
