"""How a directory is doing: how far the log, the tables and the graphs of each collection have come."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from chroma_async.engine.collection import CollectionReader
from chroma_async.errors import ChromaError, FormatError, LogError, StorageCorrupt
from chroma_async.model import Collection, Lsn


class CollectionStatus(Struct, frozen=True):
    """One collection. `problem` says why the rest is not known.

    `committed` is the LSN of its newest entry, `applied` that through which its tables and vector files have come; both are
    0 before the first. `vectors` counts those in its files, the replaced ones too, and `in_graphs` those of them that a
    graph covers; the others are scanned.
    """

    tenant: str
    database: str
    name: str
    id: str
    space: str
    dimension: int | None
    records: int = 0
    committed: Lsn = Lsn(0)
    applied: Lsn = Lsn(0)
    waiting_entries: int = 0
    waiting_bytes: int = 0
    segments: int = 0
    vectors: int = 0
    in_graphs: int = 0
    size_bytes: int = 0
    problem: str | None = None


class DirectoryStatus(Struct, frozen=True):
    """All of it. `oldest` is the oldest entry that the log keeps; `applied` the LSN through which everything is applied."""

    oldest: Lsn
    applied: Lsn
    committed: Lsn
    log_bytes: int
    kept_bytes: int
    """Of payloads in the log: of what waits to be applied, and of what is kept for feeds."""
    collections: Sequence[CollectionStatus]
    empty_databases: Sequence[tuple[str, str]]
    """Tenant and name of those that have no collection."""


UNREADABLE: Final = (
    ChromaError, StorageCorrupt, FormatError, LogError, sqlite3.DatabaseError, UnicodeDecodeError, OSError, MemoryError
)  # fmt: skip
"""What a collection can't be read by: damage, or what the machine lacks."""


def status_of(collection: Collection, reader: CollectionReader, directory: Path) -> CollectionStatus:
    """Look at one collection. For a worker thread."""
    known: dict[str, Any] = {
        "tenant": collection.tenant,
        "database": collection.database,
        "name": collection.name,
        "id": collection.id,
        "space": collection.hnsw.space,
        "dimension": collection.dimension,
        "size_bytes": _size_bytes(directory),
    }
    try:
        with reader.view(newest=True) as view:
            manifest, records = view.image.base.manifest, view.image.live
    except UNREADABLE as error:
        return CollectionStatus(**known, problem=str(error))
    waiting = [len(payload) for lsn, payload in reader.entries.now() if lsn > manifest.applied]
    return CollectionStatus(
        **known,
        records=records,
        committed=max(manifest.applied, reader.entries.newest),
        applied=manifest.applied,
        waiting_entries=len(waiting),
        waiting_bytes=sum(waiting),
        segments=len(manifest.segments),
        vectors=manifest.rows,
        in_graphs=sum(segment.graph.rows for segment in manifest.segments if segment.graph is not None),
    )


def _size_bytes(directory: Path) -> int:
    """What the files of a collection take on the disk; those that go meanwhile take nothing."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total
