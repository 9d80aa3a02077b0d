"""The feeds of a process: how many there are, news for those that wait, and their end.

News are looked for by one task of the process, while somebody waits; that costs a look at a mapped number.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from msgspec import Struct

from chroma_async.engine.collection import CollectionReader
from chroma_async.engine.follower import Follower
from chroma_async.metrics import Metrics
from chroma_async.model import Lsn
from chroma_async.protocol.changes import Change
from chroma_async.seams import Clock

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
