"""What a compactor does in worker threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from chroma_async.seams import Workers

T = TypeVar("T")


class Jobs:
    """Runs functions in worker threads, each to its end: the lock is not given up while a thread may still publish."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.stopping = False
        """Whether functions should come to their end soon."""

    async def run(self, function: Callable[[], T], workers: Workers | None = None) -> T:
        """Return what the function returns. `workers`: others than usual, whose functions are cancelled alone."""
        running = asyncio.ensure_future((workers or self._workers).run(function))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self.stopping = self.stopping or workers is None
            await asyncio.wait({running})
            if not running.cancelled():
                running.exception()  # looked at, so that asyncio does not complain that nobody did
            raise
