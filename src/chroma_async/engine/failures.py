"""What it means to who reads that a read failed: the machine lacks something, or what it read is damaged."""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path
from typing import Final

from chroma_async.errors import ChromaError, InternalError, LogError, StorageCorrupt
from chroma_async.seams.limits import LimitError, limit_error

SAY_AGAIN_SECONDS: Final = 60.0
"""Until a failure that goes on is logged once more."""


def read_error(error: Exception, directory: Path) -> ChromaError | None:
    """Return what a failed read in a data directory is to the caller; None: it is neither a limit nor damage.

    An `InternalError` is damage, or a file that this process may not read. A file that can't be opened for want of handles
    looks like it, and is a limit.
    """
    limit = limit_error(error, directory)
    if limit is not None:
        return limit
    if isinstance(error, LogError):
        return InternalError(f"the log is damaged. {error}")
    if isinstance(error, StorageCorrupt | sqlite3.DatabaseError | UnicodeDecodeError):
        return InternalError(
            "the collection's files are damaged, the others are served; restore a backup, or see what can be mended: "
            f"chroma-async verify --repair. {error}"
        )
    if isinstance(error, PermissionError):
        return InternalError(f"this process may not read a file of the data directory: see its owner and mode. {error}")
    return None


class FailureLog:
    """Logs what fails again and again: the same failure once in a while, one that is understood without a traceback."""

    def __init__(self, logger: logging.Logger, directory: Path) -> None:
        self._logger = logger
        self._directory = directory
        self._said: dict[tuple[str, str], float] = {}

    def note(self, what: str, error: Exception) -> None:
        """Log that something has failed; `what` names the event, and the collection that it was about."""
        meant = read_error(error, self._directory)
        reason = meant.reason if isinstance(meant, LimitError) else type(error).__name__
        now = time.monotonic()
        if now < self._said.get((what, reason), 0.0):
            return
        self._said = {said: until for said, until in self._said.items() if now < until}
        self._said[what, reason] = now + SAY_AGAIN_SECONDS
        if meant is None:
            self._logger.error("%s reason=%s", what, reason, exc_info=error)
        else:
            level = logging.ERROR if isinstance(meant, InternalError) else logging.WARNING
            self._logger.log(level, "%s reason=%s message=%r", what, reason, meant.message)
