"""Feeds of changes: each reads the log page by page, at the pace of whoever listens, and waits for news at its end.

A feed holds a page of entries and no more, and never keeps the log from freeing what it has not read yet: it ends with
`GoneError` then. News are looked for by one task of the process, while somebody waits; that costs a look at a mapped number.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from msgspec import Struct

from chroma_async.core.events import (
    CollectionCreated,
    CollectionDeleted,
    CollectionModified,
    DatabaseDeleted,
    Event,
    EverythingDeleted,
    RecordsDeleted,
    RecordsWritten,
    decode,
)
from chroma_async.core.where import matches
from chroma_async.engine.collection import CollectionReader
from chroma_async.engine.failures import read_error
from chroma_async.engine.follower import Follower
from chroma_async.engine.paging import pages, view_of_now
from chroma_async.engine.read_view import View
from chroma_async.errors import (
    ChromaError,
    GoneError,
    InternalError,
    LogReset,
    LogTruncated,
    StorageCorrupt,
    UnavailableError,
)
from chroma_async.metrics import Metrics
from chroma_async.model import Collection as CollectionModel
from chroma_async.model import CollectionId, Lsn, Slots, Vectors
from chroma_async.protocol.changes import CatalogKind, Change, ChangeKind, Choice, to_cursor
from chroma_async.seams import Clock, Workers
from chroma_async.wal import Entry, History, LogStore

T = TypeVar("T")

PAGE_BYTES_MAX: Final = 2**20
"""Payloads that a feed reads at a time, beyond the first."""

SNAPSHOT_ROWS: Final = 256
DECODE_INLINE_BYTES: Final = 64 * 2**10
LOOK_SECONDS: Final = 0.01

logger = logging.getLogger("chroma_async.feed")


class _Waiter(Struct, eq=False):
    is_news: Callable[[], bool]
    woken: asyncio.Future[None]


class Feeds:
    """The feeds of a process: how many there are, news for them, and their end. Belongs to the event loop."""

    def __init__(self, directory: Path, follower: Follower[CollectionReader], clock: Clock, metrics: Metrics) -> None:
        self.directory = directory
        self._follower = follower
        self._clock = clock
        self._metrics = metrics
        self._waiters: dict[object, _Waiter] = {}
        self._looking: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def is_stopped(self) -> bool:
        return self._stopped

    @property
    def is_anybody_waiting(self) -> bool:
        """Whether a feed has come to the log's end."""
        return bool(self._waiters)

    def begun(self) -> None:
        self._metrics.feeds.inc()

    def sent(self, change: Change) -> None:
        if change.kind != "heartbeat":
            self._metrics.feed_changes.inc()

    def ended(self, why: str) -> None:
        self._metrics.feeds.dec()
        self._metrics.feeds_ended.labels(why).inc()

    async def wait(self, who: object, is_news: Callable[[], bool], seconds: float) -> None:
        """Wait for news, or for so long, or until `who` is woken, or this process is about to end.

        Asked for news again when the log has moved, and only then.
        """
        if self._stopped or is_news():
            return
        waiter = self._waiters[who] = _Waiter(is_news, asyncio.get_running_loop().create_future())
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="chroma_async.feeds")
        timer = asyncio.create_task(self._clock.sleep(seconds))
        try:
            await asyncio.wait({waiter.woken, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            waiter.woken.cancel()
            del self._waiters[who]

    async def _look(self) -> None:
        looked: Lsn | None = None  # those who begin to wait have looked themselves, but the log may have moved since
        try:
            while self._waiters:
                await self._clock.sleep(LOOK_SECONDS)
                await self._follower.catch_up()
                if self._follower.position != looked:
                    looked = self._follower.position
                    self._wake(waiter for waiter in self._waiters.values() if waiter.is_news())
        except Exception:
            logger.exception("feeds.failed")
            self._wake(self._waiters.values())  # they meet it themselves, and end by it
        finally:
            self._looking = None

    def _wake(self, waiters: Iterable[_Waiter]) -> None:
        for waiter in waiters:
            if not waiter.woken.done():
                waiter.woken.set_result(None)

    def wake(self, who: object) -> None:
        """End the waiting of one, if it waits."""
        self._wake([waiter] if (waiter := self._waiters.get(who)) is not None else [])

    def stop(self) -> None:
        """End all feeds, and let none begin: this process is about to end."""
        self._stopped = True
        self._wake(self._waiters.values())

    async def close(self) -> None:
        self.stop()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})


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


class Feed:
    """Changes as they happen: a `ChangeFeed`."""

    def __init__(self, source: Source, reader: Changes) -> None:
        self._source = source
        self._reader = reader
        self._changes = reader()
        self._ended = False
        self._is_read = False
        source.feeds.begun()

    @property
    def identity(self) -> str:
        return self._source.log.identity

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        """Return the next change.

        Raises:
            GoneError: what follows is not kept any more.
            ChromaError: why else the feed ends.
        """
        self._is_read = True
        try:
            change = await anext(self._changes)
            if self._reader.is_left:  # by another task, while this one read
                await self._changes.aclose()
                raise StopAsyncIteration
        except StopAsyncIteration:
            self._end("stopped" if self._source.feeds.is_stopped else "over")
            raise
        except Exception as error:
            explained = _explained(error, self._source.feeds.directory)
            self._end(type(explained).__name__)
            if explained is error:
                raise
            raise explained from error
        finally:
            self._is_read = False
        self._source.feeds.sent(change)
        return change

    async def aclose(self) -> None:
        """End it. Who waits for the next change, in another task, learns that there is none."""
        self._end("stopped" if self._source.feeds.is_stopped else "left")
        self._reader.is_left = True
        self._source.feeds.wake(self._reader)
        if not self._is_read:
            await self._changes.aclose()

    def _end(self, why: str) -> None:
        if not self._ended:
            self._ended = True
            self._source.feeds.ended(why)


def _explained(error: Exception, directory: Path) -> Exception:
    if isinstance(error, ChromaError | RuntimeError):
        return error
    if isinstance(error, LogTruncated | LogReset):
        return gone(str(error))
    meant = read_error(error, directory)
    if isinstance(meant, InternalError):
        logger.error("feed.failed reason=%r", meant.message)
    return meant or error


def gone(why: str) -> GoneError:
    return GoneError(f"the changes after this position are not kept any more; begin again from a snapshot. {why}")


class _Left(Exception):
    """Ends a snapshot that nobody wants any more."""


class Changes(ABC):
    """What a feed reads: a snapshot, if it has no position; then entries, heartbeats, and its end."""

    def __init__(self, source: Source, choice: Choice, position: Lsn | None) -> None:
        self.is_left = False
        self._source = source
        self._choice = choice
        self._position = position
        self._last: Change | None = None
        """The change with which it is over."""
        self._sent_at = source.clock.monotonic()

    async def __call__(self) -> AsyncGenerator[Change]:
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
        return self.is_left or self._source.feeds.is_stopped

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

    def _view(self, collection_id: CollectionId) -> AbstractAsyncContextManager[View]:
        return view_of_now(self._source.follower, self._source.workers, collection_id)

    async def _shown(self, view: View) -> AsyncGenerator[Change]:
        """The records of a view, those that pass the filter. One page at least; any may be empty."""
        async for change in pages(self._source.workers, view, SNAPSHOT_ROWS, partial(_snapshot_page, self._choice)):
            if self._source.feeds.is_stopped:
                raise UnavailableError("the server is stopping; begin the snapshot again")
            if self.is_left:
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
        return await _change(self._source.workers, entry, self._choice)

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
        change = await _change(self._source.workers, entry, self._choice)
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
                return _of_catalog("collection_created", entry, event.id, event.name, event.metadata)
            case CollectionModified() if event.id in self._names:
                self._names[event.id] = event.name
                return _of_catalog("collection_modified", entry, event.id, event.name, event.metadata)
            case CollectionDeleted() if event.id in self._names or (event.tenant, event.database) == here:
                name = self._names.pop(event.id, event.name)
                return _of_catalog("collection_deleted", entry, event.id, name, None)
            case DatabaseDeleted() if (event.tenant, event.name) == here:
                return _of_catalog("database_deleted", entry, None, None, None)
            case EverythingDeleted():
                return _of_catalog("database_deleted", entry, None, None, None)
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


# ---- entries and records as changes


async def _change(workers: Workers, entry: Entry, choice: Choice) -> Change | None:
    assert entry.payload is not None
    if len(entry.payload) <= DECODE_INLINE_BYTES:
        return to_change(entry, choice)
    return await workers.run(partial(to_change, entry, choice))


def to_change(entry: Entry, choice: Choice) -> Change | None:
    """Return what an entry did to records; None: nothing that was asked for."""
    assert entry.payload is not None
    event = decode(entry.payload)
    if isinstance(event, RecordsDeleted):
        if not event.ids or not choice.takes("delete"):
            return None
        return Change(kind="delete", lsn=entry.lsn, time=entry.time_ns / 1e9, ids=event.ids)
    assert isinstance(event, RecordsWritten)
    if not choice.takes(event.head.operation):
        return None
    rows = _matching_rows(event, choice)
    if rows is not None and not rows:
        return None
    include = choice.include
    return Change(
        kind=event.head.operation,
        lsn=entry.lsn,
        time=entry.time_ns / 1e9,
        ids=_chosen(event.ids, rows) or [],
        embeddings=_chosen(_embeddings(event), rows) if "embeddings" in include else None,
        documents=_chosen(event.documents, rows) if "documents" in include else None,
        metadatas=_chosen(event.metadatas, rows) if "metadatas" in include else None,
        uris=_chosen(event.uris, rows) if "uris" in include else None,
    )


def _matching_rows(event: RecordsWritten, choice: Choice) -> list[int] | None:
    """Rows whose metadata, as the write carries it, passes the filter; None: all."""
    if choice.where is None:
        return None
    metadatas: list[Any] = [None] * len(event.ids) if event.metadatas is None else list(event.metadatas)
    where = choice.where
    return [row for row, metadata in enumerate(metadatas) if matches(where, metadata, None, choice.missing)]


def _chosen(values: list[T] | None, rows: list[int] | None) -> list[T] | None:
    return values if values is None or rows is None else [values[row] for row in rows]


def _embeddings(event: RecordsWritten) -> list[Vectors | None] | None:
    if not len(event.vectors):
        return None
    if event.rows is None:
        return list(event.vectors)
    found: list[Vectors | None] = [None] * len(event.ids)
    for row, vector in zip(event.rows.tolist(), event.vectors, strict=True):
        found[row] = vector
    return found


def _of_catalog(kind: CatalogKind, entry: Entry, collection: str | None, name: str | None, metadata: Any) -> Change:
    return Change(
        kind=kind,
        lsn=entry.lsn,
        time=entry.time_ns / 1e9,
        collection=collection,
        name=name,
        metadatas=None if metadata is None else [metadata],
    )


def _snapshot_page(choice: Choice, view: View, slots: Slots) -> Change:
    """Records of a snapshot, those that pass the filter."""
    rows = view.rows(slots)
    metadatas = [row.metadata for row in rows]
    where = choice.where
    if where is not None:
        kept = [number for number, item in enumerate(metadatas) if matches(where, item, None, choice.missing)]
        slots, rows, metadatas = slots[kept], [rows[number] for number in kept], [metadatas[number] for number in kept]
    include = choice.include
    return Change(
        kind="snapshot",
        lsn=view.image.through,
        ids=[row.id for row in rows],
        embeddings=list(view.vectors(slots)) if "embeddings" in include and len(slots) else None,
        documents=[row.document for row in rows] if "documents" in include else None,
        metadatas=list(metadatas) if "metadatas" in include else None,
        uris=[row.uri for row in rows] if "uris" in include else None,
    )
