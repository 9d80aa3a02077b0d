"""Invariants 5 and 10: folding all entries there ever were, from nothing, gives what the compactor made of them in steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from chroma_async.core.memtable import Memtable
from chroma_async.engine.invariants import CollectionState, DirectoryState
from chroma_async.model import CollectionId, Lsn
from chroma_async.projections.fold import fold_entry


@dataclass
class Rebuild:
    """Keeps every entry, also those that the log has freed, and each collection as they say that it is."""

    entries: dict[CollectionId, dict[Lsn, bytes]] = field(default_factory=dict[CollectionId, dict[Lsn, bytes]])
    _folded: dict[CollectionId, Memtable] = field(default_factory=dict[CollectionId, Memtable])

    def forget_after(self, lsn: int) -> None:
        """The log has lost what is behind this LSN, which will be given to other entries."""
        for entries in self.entries.values():
            for gone in [known for known in entries if known > lsn]:
                del entries[gone]
        self._folded.clear()

    def differences(self, state: DirectoryState) -> Iterator[str]:
        """Note new entries, and say where a collection is not what its entries come to."""
        for entry in state.entries:
            if entry.collection is not None and entry.payload is not None:
                self.entries.setdefault(entry.collection, {})[entry.lsn] = entry.payload
        for item in state.collections:
            applied = item.manifest.applied
            memtable = self._folded.setdefault(item.collection_id, Memtable(applied=Lsn(0), next_slot=0))
            if memtable.through < applied:
                self._fold(item.collection_id, memtable, applied)
                yield from _differences(item, memtable)

    def _fold(self, collection_id: CollectionId, memtable: Memtable, applied: Lsn) -> None:
        for lsn, payload in sorted(self.entries.get(collection_id, {}).items()):
            if memtable.through < lsn <= applied:
                fold_entry(memtable, lsn, payload, None)


def _differences(item: CollectionState, memtable: Memtable) -> Iterator[str]:
    tail, manifest = memtable.tail(), item.manifest
    counts = (tail.next_slot, tail.live_delta, tail.operations)
    if counts != (manifest.next_slot, manifest.live, manifest.operations):
        yield f"{item.collection_id}: slots, live, operations are {manifest}, rebuilt {counts}"
        return
    live = [row for row in tail.rows if row is not None]
    slots = np.asarray([row.slot for row in live], dtype=np.int64)
    if not np.array_equal(slots, np.flatnonzero(item.base.alive)):
        yield f"{item.collection_id}: other slots are alive"
        return
    stored = item.tables.rows(slots.tolist())
    for row in live:
        found = stored.get(row.slot)
        if found is None or (found.id, found.document, found.metadata) != (row.id, row.document, row.metadata):
            yield f"{item.collection_id}: stored {found}, rebuilt {row}"
    if live and not np.array_equal(item.base.vectors_of(slots), tail.vectors.take(np.asarray([row.vector for row in live]))):
        yield f"{item.collection_id}: other vectors"
