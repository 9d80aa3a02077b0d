"""What must always hold of a data directory, one checker for each, by the names of docs/internals/invariants.md.

A checker yields a sentence for each violation. They are used by simulation and by crash tests; `chroma-async verify` looks
for damage instead, file by file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import numpy as np
from msgspec import Struct

from chroma_async.core.catalog import Catalog
from chroma_async.core.events import RecordsDeleted, RecordsHead, decode_head
from chroma_async.engine.compactor import COLLECTIONS
from chroma_async.errors import LogCorrupt, LogHole, StorageCorrupt
from chroma_async.index.hnsw import checksum
from chroma_async.model import CollectionId, Lsn
from chroma_async.projections.manifest import Manifest
from chroma_async.projections.records import RecordTables
from chroma_async.projections.store import RECORDS_FILE
from chroma_async.projections.view import COLUMNS, EMPTY_BASE, Base, graph_path, load_base
from chroma_async.wal import Entry, LogStore


class CollectionState(Struct, frozen=True):
    """What is on disk of one collection that was applied at least once."""

    collection_id: CollectionId
    directory: Path
    tables: RecordTables
    manifest: Manifest
    base: Base


class DirectoryState(Struct, frozen=True):
    """A directory at rest: its log's kept entries, its catalog, and its collections."""

    oldest: Lsn
    committed: Lsn
    entries: list[Entry]
    catalog: Catalog
    collections: list[CollectionState]


def watermarks_are_ordered(state: DirectoryState) -> Iterator[str]:
    """Invariant 1: truncated <= checkpoint <= applied <= committed."""
    for item in state.collections:
        freed = [entry.lsn for entry in state.entries if entry.collection == item.collection_id and entry.payload is None]
        truncated, applied = max(freed, default=Lsn(0)), item.manifest.applied
        if not truncated <= applied <= state.committed:
            yield f"{item.collection_id}: truncated={truncated} applied={applied} committed={state.committed}"


def lsns_are_dense(state: DirectoryState) -> Iterator[str]:
    """Invariant 2: LSNs strictly increase, without a gap, up to the end of the log."""
    expected = list(range(state.oldest, state.committed + 1))
    found = [entry.lsn for entry in state.entries]
    if found != expected:
        yield f"kept entries are {found[:3]}..{found[-3:]}, expected {state.oldest}..{state.committed}"


def entries_are_of_known_collections(state: DirectoryState) -> Iterator[str]:
    """Part of invariant 4: an entry that waits to be applied can be decoded and belongs to the collection it names."""
    for entry in state.entries:
        if entry.payload is None or entry.collection is None:
            continue
        head = decode_head(entry.payload)
        if not isinstance(head, RecordsHead | RecordsDeleted) or head.collection != entry.collection:
            yield f"entry {entry.lsn} is filed under {entry.collection} but says {head}"


def rows_agree_with_the_manifest(state: DirectoryState) -> Iterator[str]:
    """Invariant 6: rows and applied LSN change in one transaction, so what the manifest counts is what is there."""
    for item in state.collections:
        rows = item.tables.rows(np.flatnonzero(item.base.alive).tolist())
        if len(rows) != item.manifest.live or item.tables.count() != item.manifest.live:
            yield f"{item.collection_id}: live={item.manifest.live} found={len(rows)} stored={item.tables.count()}"


def reachable_files_are_whole(state: DirectoryState) -> Iterator[str]:
    """Invariant 7: what a manifest reaches was written and synced before."""
    for item in state.collections:
        for piece in item.manifest.pieces:
            if checksum(item.directory / COLUMNS / piece.file) != piece.crc:
                yield f"{item.collection_id}: {piece.file} does not match its checksum"
        for segment in item.manifest.segments:
            graph = segment.graph
            if graph is not None and checksum(graph_path(item.directory, segment, graph.file)) != graph.crc:
                yield f"{item.collection_id}: {graph.file} does not match its checksum"


def unapplied_entries_are_kept(state: DirectoryState) -> Iterator[str]:
    """Invariant 8: truncation stops at the checkpoint; what is not applied still has its payload."""
    applied = {item.collection_id: item.manifest.applied for item in state.collections}
    for entry in state.entries:
        waits = entry.collection is not None and state.catalog.collection(entry.collection) is not None
        if entry.collection is not None and waits and entry.lsn > applied.get(entry.collection, 0) and entry.payload is None:
            yield f"entry {entry.lsn} of {entry.collection} was freed before it was applied"


def each_live_record_appears_once(state: DirectoryState) -> Iterator[str]:
    """Invariant 9, of the base: a live slot has one row and one current vector, a dead one has neither."""
    for item in state.collections:
        owned = np.concatenate([view.owners[view.owners >= 0] for view in item.base.segments] or [np.empty(0, np.int64)])
        alive = np.flatnonzero(item.base.alive)
        if not np.array_equal(np.sort(owned), alive):
            yield f"{item.collection_id}: {len(alive)} live slots, {len(owned)} current vectors"


def columns_say_what_the_records_say(state: DirectoryState) -> Iterator[str]:
    """Invariant 10, of the columns: built anew from the records, they give the fields that are there."""
    for item in state.collections:
        fields = dict[str, set[str]]()
        for piece in item.base.pieces:
            for name, kinds in piece.field_types().items():
                fields.setdefault(name, set()).update(kinds)
        for row in item.tables.rows(np.flatnonzero(item.base.alive).tolist()).values():
            missing = set(row.metadata or {}) - fields.keys()
            if missing:
                yield f"{item.collection_id}: no column for {sorted(missing)} of record {row.id!r}"


CHECKERS: Final[tuple[Callable[[DirectoryState], Iterator[str]], ...]] = (
    watermarks_are_ordered,
    lsns_are_dense,
    entries_are_of_known_collections,
    rows_agree_with_the_manifest,
    reachable_files_are_whole,
    unapplied_entries_are_kept,
    each_live_record_appears_once,
    columns_say_what_the_records_say,
)


async def read_state(directory: Path, log: LogStore) -> DirectoryState:
    """Read a directory that nobody changes meanwhile. The caller closes the tables.

    Raises:
        LogHole, LogCorrupt, StorageCorrupt: damage that keeps it from being read at all.
    """
    kept = await log.catalog()
    oldest = await log.oldest()
    entries = [entry async for entry in log.read(after=Lsn(oldest - 1), through=kept.lsn)]
    catalog = Catalog.from_rows(kept.rows)
    with ExitStack() as opened:  # if all can be read, the caller's
        collections = [
            _read_collection(CollectionId(path.name), path, opened)
            for path in sorted((directory / COLLECTIONS).glob("*"))
            if catalog.collection(CollectionId(path.name)) is not None and (path / RECORDS_FILE).exists()
        ]
        opened.pop_all()
    return DirectoryState(oldest, kept.lsn, entries, catalog, collections)


def _read_collection(collection_id: CollectionId, path: Path, opened: ExitStack) -> CollectionState:
    tables = opened.enter_context(closing(RecordTables(path / RECORDS_FILE, writable=False)))
    manifest = tables.manifest()
    return CollectionState(collection_id, path, tables, manifest, load_base(path, manifest, EMPTY_BASE, tables))


async def violations(directory: Path, log: LogStore) -> list[str]:
    """All violations in a directory that nobody changes meanwhile, each with the name of its checker."""
    try:
        state = await read_state(directory, log)
    except (LogHole, LogCorrupt, StorageCorrupt) as error:
        return [f"unreadable: {error}"]
    try:
        return [f"{checker.__name__}: {found}" for checker in CHECKERS for found in checker(state)]
    finally:
        for item in state.collections:
            item.tables.close()
