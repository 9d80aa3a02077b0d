"""Who compacts: a file lock that the operating system releases when its holder dies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Protocol

from chroma_async.seams.lock_file import LockFile

LOCK_FILE: Final = "compactor.lock"


class CompactorLock(Protocol):
    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it; True when it is held now."""
        ...

    def release(self) -> None: ...


class FileCompactorLock:
    """An advisory lock on a file of the data directory; it holds the process id of its holder for people to read."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_FILE
        self._file: LockFile | None = None

    def try_acquire(self) -> bool:
        if self._file is not None and self._file.is_open:
            return True
        file = LockFile(self._path)
        if not file.try_lock():
            file.close()
            return False
        file.write(f"{os.getpid()}\n")
        self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()


def is_compacted(directory: Path) -> bool:
    """Whether a process holds the lock of a directory. A shared lock, held for a moment, finds out."""
    try:
        file = LockFile(directory / LOCK_FILE, create=False)
    except OSError:
        return False
    try:
        return not file.try_lock(shared=True)
    finally:
        file.close()


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
