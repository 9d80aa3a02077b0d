"""Directories of collections that the catalog does not know: they were deleted, or the log has lost that they were made."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from chroma_async.engine.connections import Connections
from chroma_async.errors import FormatError, StorageCorrupt
from chroma_async.model import Lsn

LOST_SUFFIX: Final = ".lost"
"""Of directories of collections that the log has lost. Nothing removes them."""


def lost_through(folder: Path, newest: Lsn, first_lost: Lsn | None) -> Lsn | None:
    """Through which LSN a collection was applied that the log may have lost; None: it was deleted.

    It was if no more of it was applied than the log had, before the first entry that was lost. `newest`: of the log.
    """
    had = newest if first_lost is None else Lsn(first_lost - 1)
    try:
        applied = Connections(folder, noted_applied=Lsn(0)).manifest().applied
    except (StorageCorrupt, FormatError, sqlite3.Error):
        applied = Lsn(0) if first_lost is None else first_lost
    return applied if applied > had else None
