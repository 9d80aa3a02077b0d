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
import fcntl
import mmap
import os
import threading
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import anyio.to_thread
import numpy as np

_WORD_BYTES = 8


class Turn:
    """The right to write, held until `release`, or until the process dies or forgets the object."""

    _fd = -1

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = _open(path)

    def try_take(self) -> bool:
        """Take it if it is free, without waiting."""
        gate = _open(_gate(self._path))
        try:
            fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(gate)
        return True

    def take(self) -> None:
        """Take it, however long that takes. For threads, not for an event loop."""
        gate = _open(_gate(self._path))
        try:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        finally:
            os.close(gate)

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            # Unlocking says more than closing: a forked child may hold a copy of the descriptor.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    __del__ = release


class FileLock:
    """A lock among processes, and among the handles of one process. Not reentrant."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def acquire(self) -> Turn:
        """Wait for the turn. A waiter that is cancelled leaves the queue without holding up the next one."""
        turn = Turn(self._path)
        if not turn.try_take():
            await _wait(turn)
        return turn


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
    descriptor = _open(path)
    try:
        await anyio.to_thread.run_sync(fcntl.flock, descriptor, fcntl.LOCK_SH)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@contextlib.contextmanager
def unpinned(path: Path) -> Generator[bool]:
    """Keep new pins waiting; False when somebody holds one."""
    descriptor = _open(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _gate(path: Path) -> Path:
    return path.with_suffix(".gate")


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


class SharedLsn:
    """A number that all processes see: 8 aligned bytes of a mapped file, read and written by one machine instruction.

    Written only by who holds the turn. It is a cache of what the database says: a power cut may leave any value in the
    file, so who opens the log writes it anew.
    """

    def __init__(self, path: Path) -> None:
        fd = _open(path)
        try:
            if os.fstat(fd).st_size < _WORD_BYTES:
                # Not a hole: on a full disk that would end the process when the map is written to.
                os.pwrite(fd, bytes(_WORD_BYTES), 0)
            self._map = mmap.mmap(fd, _WORD_BYTES)
        finally:
            os.close(fd)
        self._word = np.frombuffer(self._map, dtype=np.uint64)

    def get(self) -> int:
        return int(self._word[0])

    def set(self, value: int) -> None:
        self._word[0] = value

    def close(self) -> None:
        del self._word
        self._map.close()
