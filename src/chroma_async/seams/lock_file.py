"""Locks on files among processes, which the operating system gives up for whoever dies.

An `flock` belongs to an open file, and lasts until its last copy is closed; a fork makes copies. So a lock is given up by
name before its descriptor is closed, and a child closes its copies, which would keep what a killed parent held.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path
from typing import Final


class LockFile:
    """An open file with at most one lock, which ends with `close`, with the process, or when the object is forgotten."""

    _fd = -1

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Open the file, or make it; without `create` it is only read, and must be there.

        Raises:
            OSError: it can't be opened.
        """
        self._fd = os.open(path, os.O_CLOEXEC | (os.O_RDWR | os.O_CREAT if create else os.O_RDONLY), 0o644)
        _opened.add(self)

    @property
    def is_open(self) -> bool:
        """Whether it is open; not in a child that was forked since."""
        return self._fd >= 0

    def lock(self, *, shared: bool = False) -> None:
        """Wait for the lock. For threads, not for an event loop."""
        fcntl.flock(self._fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)

    def try_lock(self, *, shared: bool = False) -> bool:
        """Take the lock if it is free."""
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def write(self, text: str) -> None:
        """Replace what is in the file, for people to read."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text.encode(), 0)

    def close(self) -> None:
        """Give up the lock; more than once does no harm."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    __del__ = close

    def _forget(self) -> None:
        """Close a copy, and leave the lock to whoever it was copied from."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


_opened: Final[weakref.WeakSet[LockFile]] = weakref.WeakSet()


def _forget_in_child() -> None:
    for file in list(_opened):
        file._forget()  # pyright: ignore[reportPrivateUsage]


os.register_at_fork(after_in_child=_forget_in_child)


def holder_of(path: Path) -> int | None:
    """Return the id of the process that took the lock of a file; None: nobody, or the system does not tell; Linux does.

    It may be dead by now: a thread that the disk keeps still has the lock.
    """
    try:
        inode = str(path.stat().st_ino)
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    locks = (line.split() for line in lines if "->" not in line)
    return next((int(fields[4]) for fields in locks if fields[5].rpartition(":")[2] == inode), None)
