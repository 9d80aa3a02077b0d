"""Durability `interval`: what a process has appended is fsynced soon after, not before it is acknowledged.

The oldest write that is not safe yet decides when, so none waits longer than the interval and the time that its fsync takes.
A process that appends nothing fsyncs nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from chroma_async.errors import InsufficientStorageError, ResourceLimitError
from chroma_async.metrics import Metrics
from chroma_async.seams import Clock
from chroma_async.wal import LogStore

logger = logging.getLogger("chroma_async.writer")


class IntervalFsync:
    """Makes the appends of one process durable, each at most `interval_seconds` after it was acknowledged."""

    def __init__(
        self,
        log: LogStore,
        clock: Clock,
        metrics: Metrics,
        interval_seconds: float,
        failed: Callable[[BaseException], None],
    ) -> None:
        """`failed` is told of an fsync that failed: nobody knows then what of the log is on disk, or ever will be."""
        if not 0 < interval_seconds < math.inf:
            raise ValueError(f"sync_interval_seconds must be more than 0, and finite. got={interval_seconds}")
        self._log = log
        self._clock = clock
        self._metrics = metrics
        self._interval_seconds = interval_seconds
        self._failed = failed
        self._oldest: float | None = None
        self._work = asyncio.Event()
        self._is_broken = False

    def appended(self) -> None:
        """Something was appended, and is about to be acknowledged."""
        if self._oldest is None:
            self._oldest = self._clock.monotonic()
            self._work.set()

    async def run(self) -> None:
        """Fsync when it is due, until cancelled or an fsync fails."""
        while not self._is_broken:
            await self._work.wait()
            assert self._oldest is not None
            wait_seconds = self._oldest + self._interval_seconds - self._clock.monotonic()
            if wait_seconds > 0:
                await self._clock.sleep(wait_seconds)
            await self.sync()

    async def sync(self) -> None:
        """Make durable what was appended so far, if that is not done yet."""
        begun, self._oldest = self._oldest, None  # what is appended from here on may miss this fsync
        self._work.clear()
        if begun is None or self._is_broken:
            return
        try:
            with self._metrics.sync_seconds.time():
                await self._log.sync()
        except asyncio.CancelledError:
            self._oldest = begun
            raise
        except (InsufficientStorageError, ResourceLimitError) as limit:  # the file was not even opened
            logger.warning("sync.postponed reason=%s", limit.reason)
            self.appended()
        except Exception as error:
            self._is_broken = True
            self._failed(error)
