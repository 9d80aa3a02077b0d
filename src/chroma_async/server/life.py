"""Whether a process is alive, whether it is ready for requests, and how it says that it is about to go.

`GET /livez` is answered for as long as the process answers at all. `GET /readyz` is refused before a stop, while everything
else is still answered, so that whoever sends requests here can turn elsewhere first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from chroma_async.engine.lock import is_compacted
from chroma_async.server.workload import Workload

LOOK_SECONDS: Final = 1.0
ABSENCE_SECONDS: Final = 10.0
"""A compactor that died is back sooner; reads and writes go on meanwhile."""

Reason = Callable[[], str | None]
"""Says why a part is not ready, None when it is."""


class Life:
    """The state of one process: whether it is ready, which `reasons` that are asked in turn decide, and its `load`."""

    def __init__(self, *reasons: Reason, draining: asyncio.Event | None = None, load: Workload | None = None) -> None:
        self.draining = draining or asyncio.Event()
        self.load = load or Workload()
        self._reasons = reasons

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
