"""What it means to who reads that a read failed: the machine lacks something, or what it read is damaged."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from chroma_async.errors import ChromaError, InternalError, LogError, StorageCorrupt
from chroma_async.seams.limits import limit_error


def read_error(error: Exception, directory: Path) -> ChromaError | None:
    """Return what a failed read in a data directory is to the caller; None: it is neither a limit nor damage.

    An `InternalError` is damage. A file that can't be opened for want of handles looks like it, and is a limit.
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
    return None
