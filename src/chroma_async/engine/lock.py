"""Who compacts: a file lock that the operating system releases when its holder dies."""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path
from typing import Final, Protocol

LOCK_FILE: Final = "compactor.lock"


class CompactorLock(Protocol):
    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it; True when it is held now."""
        ...

    def release(self) -> None: ...


_held: Final[weakref.WeakSet[FileCompactorLock]] = weakref.WeakSet()


def _forget_in_child() -> None:
    """Close what a fork copied: the lock is the parent's, and must not outlive it in a child that knows nothing of it."""
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_forget_in_child)


class FileCompactorLock:
    """An advisory lock on a file of the data directory; it holds the process id of its holder for people to read."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_FILE
        self._descriptor: int | None = None

    def try_acquire(self) -> bool:
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor
        _held.add(self)
        return True

    def forget(self) -> None:
        """Close the descriptor without giving up the lock, which another process holds by another one."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def release(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # says more than closing: a child may have been forked meanwhile
            os.close(descriptor)


def is_compacted(directory: Path) -> bool:
    """Whether a process holds the lock of a directory. A shared lock, held for a moment, finds out."""
    try:
        descriptor = os.open(directory / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


class MemoryCompactorLock:
    """The same among the engines of one process, which share `holder`."""

    def __init__(self, holder: list[object]) -> None:
        self._holder = holder

    def try_acquire(self) -> bool:
        if not self._holder:
            self._holder.append(self)
        return self._holder[0] is self

    def release(self) -> None:
        if self._holder and self._holder[0] is self:
            self._holder.clear()
