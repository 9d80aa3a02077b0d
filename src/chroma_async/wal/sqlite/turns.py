"""How processes that share a directory take turns, and tell each other how far they came.

Both are hints to SQLite rather than a replacement for it: a transaction is safe without them. The lock gives waiters
a fair queue (SQLite's busy handler sleeps and polls), and the shared number saves readers a query.

An `flock` belongs to an open file, so every acquisition opens its own: what a cancelled waiter left behind can then
never be mistaken for the lock of the next one. The kernel wakes all waiters at a release and lets them race with the
holder that comes back, so there is a second lock, the gate: who waits for the turn waits inside the gate, and nobody
passes who stands in front of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
import threading
import time
from collections.abc import AsyncGenerator, Generator
from functools import partial
from pathlib import Path
from typing import Final

import anyio.to_thread
import numpy as np

from chroma_async.seams.lock_file import LockFile, holder_of

_SHARED_BYTES: Final = 16

SLOW_SECONDS: Final = 5.0
"""After so long somebody who waits for the turn says so: its holder is stuck, or its disk is."""

logger = logging.getLogger("chroma_async.log")


class Turn:
    """The right to write, held until `release`, or until the process dies or forgets the object."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = LockFile(path)

    def try_take(self) -> bool:
        """Take it if it is free, without waiting."""
        gate = LockFile(_gate(self._path))
        try:
            return gate.try_lock() and self._file.try_lock()
        finally:
            gate.close()

    def take(self) -> None:
        """Take it, however long that takes. For threads, not for an event loop."""
        gate = LockFile(_gate(self._path))
        try:
            gate.lock()
            self._file.lock()
        finally:
            gate.close()

    def release(self) -> None:
        self._file.close()


class FileLock:
    """A lock among processes, and among the handles of one process. Not reentrant."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def acquire(self) -> Turn:
        """Wait for the turn. A waiter that is cancelled leaves the queue without holding up the next one."""
        turn = Turn(self._path)
        if not turn.try_take():
            with _telling(self._path):
                await _wait(turn)
        return turn


@contextlib.contextmanager
def _telling(path: Path) -> Generator[None]:
    """Say so when something takes long, and when it is over after all."""
    began, told = time.monotonic(), False

    def tell() -> None:
        nonlocal told
        told = True
        logger.warning("log.turn_slow file=%s seconds=%.1f holder=%s", path, time.monotonic() - began, holder_of(path))

    timer = asyncio.get_running_loop().call_later(SLOW_SECONDS, tell)
    try:
        yield
    finally:
        timer.cancel()
        if told:
            logger.info("log.turn_came file=%s seconds=%.1f", path, time.monotonic() - began)


async def _wait(turn: Turn) -> None:
    """Take the turn in a thread. The thread is a daemon: a process may end while it waits."""
    loop = asyncio.get_running_loop()
    taken: asyncio.Future[None] = loop.create_future()

    def report(error: OSError | None) -> None:
        if taken.cancelled():
            turn.release()
        elif error is not None:
            taken.set_exception(error)
        else:
            taken.set_result(None)

    def run() -> None:
        error: OSError | None = None
        try:
            turn.take()
        except OSError as caught:
            error = caught
        # A loop that is closed has no waiter left; the turn is released with its last reference, at the end of this.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(report, error)

    threading.Thread(target=run, name="log-turn", daemon=True).start()
    try:
        await taken
    except BaseException:
        if taken.done() and not taken.cancelled():
            turn.release()
        raise


@contextlib.asynccontextmanager
async def pinned(path: Path) -> AsyncGenerator[None]:
    """Hold a pin: any number of holders at once, in any process. Waits for an `unpinned` step that is under way."""
    file = LockFile(path)
    try:
        await anyio.to_thread.run_sync(partial(file.lock, shared=True))
        yield
    finally:
        file.close()


@contextlib.contextmanager
def unpinned(path: Path) -> Generator[bool]:
    """Keep new pins waiting; False when somebody holds one."""
    file = LockFile(path)
    try:
        yield file.try_lock()
    finally:
        file.close()


def _gate(path: Path) -> Path:
    return path.with_suffix(".gate")


class SharedLsn:
    """A number that all processes see: 8 aligned bytes of a mapped file, read and written by one machine instruction.

    Written only by who holds the turn. It is a cache of what the database says: a power cut may leave any value in the
    file, so who opens the log writes it anew. A second word says that it is about to change: who finds it set, and has the
    turn, knows that somebody died between a commit and telling of it.

    What this process saw of the database may be ahead of the number, for as long as whoever committed it has not told of it.
    """

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(fd).st_size
            if size < _SHARED_BYTES:
                # Not a hole: on a full disk that would end the process when the map is written to.
                os.pwrite(fd, bytes(_SHARED_BYTES - size), size)
            self._map = mmap.mmap(fd, _SHARED_BYTES)
        finally:
            os.close(fd)
        self._words = np.frombuffer(self._map, dtype=np.uint64)
        self._seen = 0

    def get(self) -> int:
        return int(self._words[0])

    def known(self) -> int:
        """The number, or what this process saw, whichever is greater."""
        return max(self._seen, int(self._words[0]))

    def saw(self, value: int) -> None:
        """Note what this process saw, or was told."""
        self._seen = max(self._seen, value)

    @property
    def is_about_to_change(self) -> bool:
        return bool(self._words[1])

    def begin(self) -> None:
        """Say that the number is about to change."""
        self._words[1] = 1

    def set(self, value: int) -> None:
        """Change the number, or say that it stays."""
        self._words[0] = value
        self._words[1] = 0
        self.saw(value)

    def close(self) -> None:
        del self._words
        self._map.close()
