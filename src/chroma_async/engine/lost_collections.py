"""Directories of collections that the catalog does not know: they were deleted, or the log has lost that they were made."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from chroma_async.engine.connections import Connections
from chroma_async.errors import FormatError, StorageCorrupt
from chroma_async.model import CollectionId, Lsn

LOST_SUFFIX: Final = ".lost"
"""Of directories of collections that the log has lost. Nothing removes them."""


def unknown_collections(root: Path, known: frozenset[CollectionId]) -> dict[CollectionId, Lsn | None]:
    """Through which LSN each collection was applied that has a directory and is not known; None: that is damaged."""
    found = [path for path in root.iterdir() if path.suffix != LOST_SUFFIX and path.name not in known]
    return {CollectionId(path.name): _applied_of(path) for path in found}


def _applied_of(folder: Path) -> Lsn | None:
    try:
        return Connections(folder, noted_applied=Lsn(0)).manifest().applied
    except (StorageCorrupt, FormatError, sqlite3.Error):
        return None


class KeptLog(Struct, frozen=True):
    """What a log has: its newest LSN, the first one that was lost, and whose the entries at some LSNs are that are kept."""

    newest: Lsn
    first_lost: Lsn | None
    owners: Mapping[Lsn, CollectionId | None]

    def may_have_lost(self, collection: CollectionId, applied: Lsn | None) -> bool:
        """Whether it may have lost that a collection was made, which it does not know. Else that was deleted.

        The LSN through which a collection is applied is that of an entry of its own. So the log has lost it if it ends
        before that, or has another entry there. What it has forgotten it had.
        """
        if applied is None:
            return self.first_lost is not None
        return applied > self.newest or self.owners.get(applied, collection) != collection
