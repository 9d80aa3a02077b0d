"""Files of credentials and roles, read again when they change. A file that can't be read any more opens nothing."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from chroma_async.server.auth.provider import AuthConfigError, CannotDecide

T = TypeVar("T")

LOOK_SECONDS: Final = 1.0
"""How often a file is looked at, at most: a change counts this much later at the latest."""

BYTES_MAX: Final = 16 * 2**20

_SETTLED_NS: Final = 100_000_000
"""A file that changed less than this before it was looked at is read again: clocks of file systems tick coarsely."""

logger = logging.getLogger("chroma_async.auth")

Stamp = tuple[int, ...]


class WatchedFile(Generic[T]):
    """What a file says, parsed. `parse` raises ValueError with what is wrong, without a secret in it.

    While the file is missing, unreadable or wrong, `current` refuses: what it said before may have been revoked.
    """

    def __init__(self, path: str, parse: Callable[[str], T], *, now: Callable[[], float] = time.monotonic) -> None:
        self.path = Path(path)
        self._parse = parse
        self._now = now
        self._looked_at = -LOOK_SECONDS
        self._stamp: Stamp | None = None
        self._digest = b""
        self._value: T | None = None
        self._failure: str | None = "not read yet"
        self.generation = 0

    def check(self) -> None:
        """Read the file.

        Raises:
            AuthConfigError: it can't be used; the message names it.
        """
        self._look()
        if self._failure is not None:
            raise AuthConfigError(self._failure)

    def current(self) -> T:
        """Return what the file says now, or said within the last second.

        Raises:
            CannotDecide: it can't be read, or is wrong.
        """
        now = self._now()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._look()
        if self._failure is not None or self._value is None:
            raise CannotDecide(self._failure)
        return self._value

    def _look(self) -> None:
        try:
            stamp = self._stat()
            if stamp == self._stamp:
                return
            text = self._read()
            digest = hashlib.blake2b(text.encode()).digest()
            if digest == self._digest:
                self._stamp = stamp
                return
            value = self._parse(text)
        except OSError as error:
            self._fail(f"can't read the file: {error.strerror or error}. path={str(self.path)!r}")
        except UnicodeDecodeError:
            self._fail(f"the file is not UTF-8. path={str(self.path)!r}")
        except ValueError as error:
            self._fail(f"{error}. path={str(self.path)!r}")
        else:
            if self.generation:
                logger.info("auth.reload path=%s", self.path)
            self._stamp, self._digest, self._value, self._failure = stamp, digest, value, None
            self.generation += 1

    def _stat(self) -> Stamp:
        found = self.path.stat()
        changed_at = max(found.st_mtime_ns, found.st_ctime_ns)  # whoever writes can set the first one back
        settled = 0 if time.time_ns() - changed_at > _SETTLED_NS else time.monotonic_ns()
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_dev, found.st_ino, settled

    def _read(self) -> str:
        with open(self.path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("not a regular file")
            data = file.read(BYTES_MAX + 1)
        if len(data) > BYTES_MAX:
            raise ValueError(f"the file is larger than {BYTES_MAX} bytes")
        return data.decode("utf-8")

    def _fail(self, failure: str) -> None:
        if failure != self._failure and self.generation:
            logger.error("auth.unreadable refused=all reason=%s", failure)
        self._stamp, self._digest, self._value, self._failure = None, b"", None, failure
        self.generation += 1


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting: that of a pipe would wait for somebody to write into it."""
    return os.open(path, flags | os.O_NONBLOCK)


class FixedValue(Generic[T]):
    """A value that comes from the settings, in the place of a file."""

    def __init__(self, value: T) -> None:
        self._value = value
        self.generation = 0

    def check(self) -> None:
        return

    def current(self) -> T:
        return self._value


Source = WatchedFile[T] | FixedValue[T]


def looks_private(path: Path) -> bool:
    """Whether nobody but its owner and group may read a file."""
    return not os.stat(path).st_mode & 0o004
