"""Whether a process is alive, whether it is ready for requests, and how it says that it is about to go.

`GET /livez` is answered for as long as the process answers at all. `GET /readyz` is refused before a stop, while everything
else is still answered, so that whoever sends requests here can turn elsewhere first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from chroma_async.engine.lock import is_compacted
from chroma_async.engine.search_times import SearchTimes
from chroma_async.server.loads import Loads, Said

LOOK_SECONDS: Final = 1.0
ABSENCE_SECONDS: Final = 10.0
"""A compactor that died is back sooner; reads and writes go on meanwhile."""

STREAM_LOAD: Final = 16
"""An ingest stream keeps a process as busy as so many connections do."""

AFTERWARDS_SECONDS: Final = 10.0
"""So long a process is taken for busy when its last stream has ended: it makes itself ready for what others are asked."""

logger = logging.getLogger("chroma_async.server")

Reason = Callable[[], str | None]
"""Says why a part is not ready, None when it is."""


class Life:
    """The state of one process. `reasons` are asked in turn; `loads`: what those have to do that share its socket;
    `searches`: what they are asked. While it takes an ingest stream it makes itself ready for none of that.
    """

    def __init__(
        self,
        *reasons: Reason,
        draining: asyncio.Event | None = None,
        loads: Loads | None = None,
        searches: SearchTimes | None = None,
    ) -> None:
        self.draining = draining or asyncio.Event()
        self.connections = self.streams = 0
        """Those that are open. An ingest stream keeps the process busy for as long as it lasts, and some seconds more."""
        self._afterwards: asyncio.TimerHandle | None = None
        self._searches = searches
        self._loads = loads
        self._reasons = reasons

    def count(self, *, connections: int = 0, streams: int = 0) -> None:
        """Add to what is open, or take from it."""
        self.connections += connections
        self.streams += streams
        if streams:
            self._note_streams()
        if self._loads is not None:
            self._loads.show(self._load)

    def _note_streams(self) -> None:
        if self._searches is not None:
            self._searches.heeds_others = not self.streams
        if self._afterwards is not None:
            self._afterwards.cancel()
            self._afterwards = None
        if not self.streams:
            self._afterwards = asyncio.get_running_loop().call_later(AFTERWARDS_SECONDS, self._end_afterwards)

    def _end_afterwards(self) -> None:
        self._afterwards = None
        self.count()

    def leave(self) -> None:
        """Take no more connections."""
        if self._loads is not None:
            self._loads.leave()
            self._loads = None

    def note_wait(self, idle: int, seconds_max: float) -> None:
        """Log what a stop waits for, if there is something: connections that are in the midst of requests."""
        if self.connections > idle:
            logger.info("requests.wait connections=%d seconds_max=%g", self.connections - idle, seconds_max)

    @property
    def _load(self) -> int:
        streams = self.streams or int(self._afterwards is not None)
        return self.connections + STREAM_LOAD * streams

    @property
    def ahead(self) -> int:
        """How much more this process has to do than the one that has least; below 1: none has less."""
        least = self.least
        return 0 if least is None else self._load - least.load

    @property
    def least(self) -> Said | None:
        """What that one has said; None: there is no other one."""
        return None if self._loads is None else self._loads.least()

    def not_ready(self) -> str | None:
        """Why requests should go elsewhere; None while they may come."""
        if self.draining.is_set():
            return "draining"
        return next((reason for ask in self._reasons if (reason := ask()) is not None), None)


class CompactorWatch:
    """Whether some process compacts a directory: it holds the lock on a file there."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._looked_at = -LOOK_SECONDS
        self._seen_at: float | None = None

    def __call__(self) -> str | None:
        now = self._clock()
        if now - self._looked_at >= LOOK_SECONDS or self._seen_at is None:
            self._looked_at = now
            if is_compacted(self._directory):
                self._seen_at = now
        if self._seen_at is None:
            return "the compactor has not begun"
        return "the compactor is gone" if now - self._seen_at > ABSENCE_SECONDS else None
