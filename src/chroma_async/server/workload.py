"""How much a process has to do: what it says of that to those that share its socket, and what it leaves to them."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from chroma_async.engine.search_times import SearchTimes
from chroma_async.server.loads import Loads, Said

STREAM_LOAD: Final = 16
"""An ingest stream keeps a process as busy as so many connections do."""

AFTERWARDS_SECONDS: Final = 10.0
"""So long a process is taken for busy when its last stream has ended: it makes itself ready for what others are asked."""

logger = logging.getLogger("chroma_async.server")


class Workload:
    """What is open in one process. `loads`: what those have to do that share its socket; `searches`: what they are asked.

    An ingest stream keeps the process busy for as long as it lasts, and some seconds more. While it takes one it makes
    itself ready for nothing that others are asked.
    """

    def __init__(self, loads: Loads | None = None, searches: SearchTimes | None = None) -> None:
        self.connections = self.streams = 0
        """Those that are open."""
        self._afterwards: asyncio.TimerHandle | None = None
        self._loads = loads
        self._searches = searches

    def count(self, *, connections: int = 0, streams: int = 0) -> None:
        """Add to what is open, or take from it."""
        self.connections += connections
        self.streams += streams
        if streams:
            self._note_streams()
        if self._loads is not None:
            self._loads.show(self._size)

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
    def _size(self) -> int:
        streams = self.streams or int(self._afterwards is not None)
        return self.connections + STREAM_LOAD * streams

    @property
    def ahead(self) -> int:
        """How much more this process has to do than the one that has least; below 1: none has less."""
        least = self.least
        return 0 if least is None else self._size - least.load

    @property
    def least(self) -> Said | None:
        """What that one has said; None: there is no other one."""
        return None if self._loads is None else self._loads.least()
