"""Following a feed of changes: connecting again where it broke off, each change once."""

from __future__ import annotations

import random
import time
from types import TracebackType
from typing import Final, Self

import msgspec

from chroma_async.client.colours import async_shielded, async_sleep
from chroma_async.client.retry import RetryPolicy
from chroma_async.client.transports.base import AsyncOpenFeed, AsyncTransport
from chroma_async.client.watching import OnGone
from chroma_async.errors import ChromaError, GoneError, ServerUnreachableError
from chroma_async.protocol.changes import Change, WatchCall

RECONNECT: Final = RetryPolicy(retries=2**31, first_wait_seconds=0.05, wait_seconds_max=2.0)
ATTEMPTS_MAX: Final = 30
"""Later ones wait as long as this one."""

LAST: Final = frozenset({"collection_deleted", "database_deleted"})
"""What a feed of what was deleted ends with."""


class AsyncWatch:
    """Changes, one after another, each once, in the order of the log: `async for change in collection.watch(...)`.

    It connects when it is entered (`async with`) or first asked; changes from then on are not missed. When the connection
    breaks it connects again, and goes on after what it gave last; for `reconnect_seconds` without success, then it raises.
    `position` is where another watch can go on (`after=`), in this process or in another one. It is for one task at a time.

    It ends after the change that says that the collection, or the database, was deleted.

    Raises (while iterating):
        GoneError: what follows is not kept any more. With `on_gone="snapshot"` it begins again from a snapshot instead.
        ServerUnreachableError: no connection for so long.
        ChromaError: the server refused.
    """

    def __init__(
        self, transport: AsyncTransport, call: WatchCall, *, on_gone: OnGone, heartbeats: bool, reconnect_seconds: float
    ) -> None:
        self._transport = transport
        self._call = call
        self._on_gone = on_gone
        self._heartbeats = heartbeats
        self._reconnect_seconds = reconnect_seconds
        self._feed: AsyncOpenFeed | None = None
        self._first: Change | None = None
        self._failures = 0
        self._broken_at: float | None = None
        self._ended = False
        self._closed = False

    @property
    def position(self) -> str | None:
        """After what this goes on; None before that is known, and within a snapshot."""
        return self._call.after

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while True:
            change = None if self._ended or self._closed else await self._next()
            if change is None:
                await self._let_go()
                raise StopAsyncIteration
            if change.kind != "heartbeat" or self._heartbeats:
                return change

    async def __aenter__(self) -> Self:
        """Connect, and know where the feed begins: what is written from now on is not missed."""
        try:
            while self._feed is None and not self._closed:
                await self._connect()
        except BaseException:
            await async_shielded(self._let_go())
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End it, and let go of the connection."""
        self._closed = True
        await self._let_go()

    async def _next(self) -> Change | None:
        """The next change or heartbeat; None: it was closed."""
        while not self._closed:
            if self._feed is None:
                await self._connect()
                continue
            try:
                change, self._first = self._first or await self._feed.next(), None
            except ChromaError as error:
                await self._recover(error)
                continue
            if self._closed:
                return None
            if change is None:
                await self._recover(ServerUnreachableError("the server has ended the feed"))
                continue
            self._take(change)
            return change
        return None

    def _take(self, change: Change) -> None:
        """Note how far this has come, so that it can go on from there."""
        self._failures, self._broken_at = 0, None
        if change.cursor is not None:
            self._call = msgspec.structs.replace(self._call, after=change.cursor, snapshot=None)
        elif change.kind == "snapshot_begin":
            self._call = msgspec.structs.replace(self._call, after=None, snapshot="true")
        self._ended = change.kind in LAST and change.collection is None

    async def _connect(self) -> None:
        try:
            feed = await self._transport.open_feed(self._call)
        except ChromaError as error:
            await self._recover(error)
            return
        self._feed = feed
        if feed.log is not None:
            self._call = msgspec.structs.replace(self._call, log=feed.log)
        if self._call.after is None and self._call.snapshot is None:
            await self._begin(feed)

    async def _begin(self, feed: AsyncOpenFeed) -> None:
        """Learn where "from now on" is: the first thing in a feed is a heartbeat that says it."""
        try:
            first = await feed.next()
        except ChromaError as error:
            await self._recover(error)
            return
        if first is None:
            await self._recover(ServerUnreachableError("the server has ended the feed"))
        else:
            self._take(first)
            self._first = first

    async def _recover(self, error: ChromaError) -> None:
        """Be ready to connect again, after a while.

        Raises:
            ChromaError: the error, if that would not help.
        """
        await self._let_go()
        if self._closed:
            return
        if isinstance(error, GoneError) and self._on_gone == "snapshot":
            self._call = msgspec.structs.replace(self._call, after=None, snapshot="true", log=None)
            if self._failures == 0:
                self._failures = 1
                return
        elif not error.retryable:
            raise error
        now = time.monotonic()
        self._broken_at = now if self._broken_at is None else self._broken_at
        wait = RECONNECT.wait_seconds(min(self._failures, ATTEMPTS_MAX), None, random.random())
        if wait is None or now + wait - self._broken_at > self._reconnect_seconds:
            raise error
        self._failures += 1
        await async_sleep(wait)

    async def _let_go(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            await feed.aclose()
