"""What a machine runs out of, as errors that a caller can act upon.

The kernel's and SQLite's ways of saying it are many; here they become two classes: `InsufficientStorageError` (no room) and
`ResourceLimitError` (read-only file system, no file handles, no memory). Both promise that nothing was done. What is not
known here is unexplained, and None: who asks must not guess.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

from chroma_async.errors import InsufficientStorageError, ResourceLimitError

LimitError: TypeAlias = InsufficientStorageError | ResourceLimitError
"""`reason` is the label of that name in metrics and logs."""

FULL: Final = InsufficientStorageError.reason
READ_ONLY: Final = "read_only"
NO_HANDLES: Final = "file_handles"
NO_MEMORY: Final = "memory"

_BY_ERRNO: Final = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: FULL,
    errno.EROFS: READ_ONLY,
    errno.EMFILE: NO_HANDLES,
    errno.ENFILE: NO_HANDLES,
    errno.ENOMEM: NO_MEMORY,
}
_BY_SQLITE: Final = {
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_READONLY: READ_ONLY,
    sqlite3.SQLITE_NOMEM: NO_MEMORY,
}
_WRITES: Final = (
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMMAP,
)
"""SQLite keeps the kernel's reason to itself: the file system is asked. A failed fsync is not among them, since nobody
knows what of the file is on disk then."""

_SMALL_BYTES: Final = 2**20
"""Free space with which a failed write of SQLite counts as for want of it."""

_CONNECTION_HANDLES: Final = 3
"""Of the database, its journal, and what SQLite shares with other processes."""

_HANDLES_AT_WORK: Final = 32
"""With no more than so many left they may have been lacking a moment ago: other threads open files, and close them."""

_SAID: Final = {
    FULL: "no room on the disk: free some, and try again; reads go on, and nothing of this write was kept",
    READ_ONLY: "the data directory is on a file system that is read-only now: mount it writable, and try again; reads go on",
    NO_HANDLES: "no file handles left: raise the limit (ulimit -n), or close something, and try again",
    NO_MEMORY: "no memory left: try again later, or with less at once",
}


def limit_error(error: BaseException, directory: Path) -> LimitError | None:
    """Return what a failure in a directory means, if it is a limit of the machine; None: it is unexplained."""
    for cause in causes(error):
        if isinstance(cause, InsufficientStorageError | ResourceLimitError):
            return cause
        reason = _reason(cause, directory)
        if reason is not None:
            return _as_error(reason, f"path={directory} cause={type(cause).__name__}({str(cause)!r})")
    return None


def check_room(directory: Path, size_bytes: int, reserve_bytes: int) -> None:
    """Refuse to begin what would leave less than the reserve, which the compactor needs to free anything.

    Raises:
        InsufficientStorageError: there is not that much room.
    """
    free = free_bytes(directory)
    if free is not None and free < size_bytes + reserve_bytes:
        raise _as_error(FULL, f"path={directory} free_bytes={free} reserve_bytes={reserve_bytes} needed_bytes={size_bytes}")


def is_over(error: LimitError, directory: Path, size_bytes: int, reserve_bytes: int) -> bool:
    """Whether what stopped a write of this size seems to be gone, as far as that can be told without writing."""
    if error.reason == FULL:
        free = free_bytes(directory)
        return free is None or free >= size_bytes + reserve_bytes + _SMALL_BYTES
    if error.reason == READ_ONLY:
        return not is_read_only(directory)
    try:
        os.close(os.open(directory, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def free_bytes(directory: Path) -> int | None:
    """Bytes that may still be written; None where the file system does not say."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def is_read_only(directory: Path) -> bool:
    """Whether the file system of a directory takes no writes, from anybody. After an error only a try tells."""
    try:
        if os.statvfs(directory).f_flag & os.ST_RDONLY:
            return True
        flag = getattr(os, "O_TMPFILE", 0)  # a file without a name; Linux has it
        if flag:
            os.close(os.open(directory, flag | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        return error.errno == errno.EROFS
    return False


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it came from, what that came from, ..."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _reason(error: BaseException, directory: Path) -> str | None:
    if isinstance(error, MemoryError):
        return NO_MEMORY
    if isinstance(error, OSError):
        return _BY_ERRNO.get(error.errno or 0)
    code = getattr(error, "sqlite_errorcode", None) if isinstance(error, sqlite3.Error) else None
    if code is None:
        return None
    if code & 0xFF == sqlite3.SQLITE_CANTOPEN:
        return NO_HANDLES if _no_handles() or _few_handles() else None
    if code in _WRITES:
        return _of_a_failed_write(directory)
    return _BY_SQLITE.get(code & 0xFF)


def _of_a_failed_write(directory: Path) -> str | None:
    if is_read_only(directory):
        return READ_ONLY
    if _no_handles():
        return NO_HANDLES
    free = free_bytes(directory)
    return FULL if free is not None and free < _SMALL_BYTES else _at_file_size_limit()


def _at_file_size_limit() -> str | None:
    import resource

    return FULL if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY else None


def _no_handles() -> bool:
    """Whether there are not as many as a connection of SQLite takes."""
    taken: list[int] = []
    try:
        while len(taken) < _CONNECTION_HANDLES:
            taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    finally:
        for descriptor in taken:
            os.close(descriptor)
    return False


def _few_handles() -> bool:
    """Whether this process has come near its limit."""
    import resource

    try:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return limit != resource.RLIM_INFINITY and limit - len(os.listdir("/dev/fd")) <= _HANDLES_AT_WORK
    except OSError:
        return False


def _as_error(reason: str, details: str) -> LimitError:
    message = f"{_SAID[reason]}. {details}"
    return InsufficientStorageError(message) if reason == FULL else ResourceLimitError(message, reason=reason)
