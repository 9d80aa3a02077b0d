"""How many feeds a worker has open, and that they end when it does."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from chroma_async.errors import RateLimitError, UnavailableError


class FeedHall:
    """The feeds of one worker. From `draining` on there are none."""

    def __init__(self, feeds_max: int | None = None, draining: asyncio.Event | None = None) -> None:
        self.draining = draining or asyncio.Event()
        self._feeds_max = feeds_max
        self._count = 0

    @contextmanager
    def seat(self) -> Generator[None]:
        """Let a feed in.

        Raises:
            RateLimitError: there are as many as there may be.
            UnavailableError: this worker is about to end; another one, or its successor, takes it.
        """
        if self.draining.is_set():
            raise UnavailableError("this server process is stopping; connect again")
        if self._feeds_max is not None and self._count >= self._feeds_max:
            raise RateLimitError(f"too many feeds are open; end some, or raise --feeds-max. feeds_max={self._feeds_max}")
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
