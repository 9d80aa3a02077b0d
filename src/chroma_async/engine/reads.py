"""Where a read runs: on the event loop when it is over before a trip to a thread would be, in a worker thread otherwise.

The trip costs two wake-ups, two hand-overs of the interpreter, and caches that another processor has filled: half a
millisecond, more than the whole answer from a collection of some ten thousand records. So reads that are brief run right
where they arrive. Which ones are is measured, and whatever may wait (for a lock, for files to be opened, for many entries to
be folded) says so by `NotAtHand` and goes to a thread (docs/decisions/0009-brief-reads-on-the-loop.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal, Protocol, TypeVar

from chroma_async.engine.read_view import NotAtHand
from chroma_async.seams import Workers

T = TypeVar("T")

Kind = Literal["query", "query by document", "get", "get by document", "count"]

Read = Callable[[bool], T]
"""A read; the argument says whether it must not wait: then it raises `NotAtHand` instead."""

MEMORY: Final = 0.25
"""Weight of the latest duration in the average."""

WAITED: Final = 4.0
"""A read that took so many times its processor time has waited, for the disk or a lock: that counts. Otherwise only its
processor time does: on a busy machine other processes have the rest, and a thread would not have come sooner."""


class ReadRunner(Protocol):
    """Runs the reads of one collection."""

    async def run(self, read: Read[T], kind: Kind | None, count: int = 1) -> T:
        """Return what a read returns. `kind`: reads that take about as long each; this is `count` of them. None: long."""
        ...


class PacedRunner:
    """Runs reads on the event loop while their kind has been taking less than `brief_seconds`, otherwise in threads."""

    def __init__(self, workers: Workers, brief_seconds: float) -> None:
        self._workers = workers
        self._brief_seconds = brief_seconds
        self._seconds: dict[Kind, float] = {}

    async def run(self, read: Read[T], kind: Kind | None, count: int = 1) -> T:
        if kind is None:
            return await self._workers.run(lambda: read(False))
        if self._seconds.get(kind, 0.0) * count < self._brief_seconds:
            try:
                return self._timed(read, kind, count, at_hand=True)
            except NotAtHand:
                pass
        return await self._workers.run(lambda: self._timed(read, kind, count, at_hand=False))

    def _timed(self, read: Read[T], kind: Kind, count: int, *, at_hand: bool) -> T:
        started, started_cpu = time.perf_counter(), time.thread_time()
        result = read(at_hand)
        seconds, cpu_seconds = time.perf_counter() - started, time.thread_time() - started_cpu
        if cpu_seconds * WAITED > seconds:
            seconds = cpu_seconds
        seconds /= count
        before = self._seconds.get(kind, seconds)
        self._seconds[kind] = before + MEMORY * (seconds - before)
        return result


class DirectRunner:
    """Runs reads in the caller's thread, however long they take."""

    async def run(self, read: Read[T], kind: Kind | None, count: int = 1) -> T:
        return read(False)
