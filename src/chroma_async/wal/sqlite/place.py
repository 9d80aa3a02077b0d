"""Notices that a log is not where it was opened any more."""

from __future__ import annotations

import logging
from pathlib import Path

from chroma_async.errors import DirectoryReplacedError

logger = logging.getLogger("chroma_async.log")


class Place:
    """The place of a file: which one was there when this was made, by device and inode.

    Made before the file is opened: who opens a file, and then sees another one in its place, is to know it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._there = _there(file)
        self._is_displaced = False

    @property
    def is_empty(self) -> bool:
        """Whether there was no file."""
        return self._there is None

    def require(self) -> None:
        """See `LogStore.require_in_place`. That it happened, and that it is over, is logged once."""
        is_displaced = _there(self._file) != self._there
        if is_displaced != self._is_displaced:
            self._is_displaced = is_displaced
            event = "log.replaced path=%s" if is_displaced else "log.is_back path=%s"
            logger.log(logging.ERROR if is_displaced else logging.INFO, event, self._file.parent)
        if is_displaced:
            raise DirectoryReplacedError(
                "the data directory was moved away, removed or restored beneath this process: restart it, and stop a server "
                f"before its directory is restored. file={self._file.name}"
            )


def _there(file: Path) -> tuple[int, int] | None:
    """Which file there is; None: there is none, or it can't be reached."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
