"""What one instant of a collection holds, and the ways to ask it: base and tail seen as one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final

import numpy as np
from msgspec import Struct

from chroma_async.core.memtable import Row, Tail
from chroma_async.core.operators import DOCUMENT_OPERATORS, turned_around
from chroma_async.core.where import DocumentTest, FieldTest, Missing, Where, evaluate, matches
from chroma_async.engine.ranking import Neighbours
from chroma_async.engine.row_cache import BaseRows
from chroma_async.engine.search import SearchTarget, search
from chroma_async.errors import StorageCorrupt
from chroma_async.index.packing import TailScan
from chroma_async.index.scan import Scan
from chroma_async.model import Collection, HnswConfiguration, Lsn, Mask, Slots, Vectors
from chroma_async.projections.records import RecordTables
from chroma_async.projections.text_index import TRIGRAM
from chroma_async.projections.view import Base
from chroma_async.seams import Share, require_wanted, run_in_turn

RECORDS_AT_HAND_MAX: Final = 256
"""A read that must not wait reads no more records; nor are rows of more ids fetched along with their slots."""


class NotAtHand(Exception):
    """A read that must not wait would have to: it belongs into a worker thread."""


class Image:
    """Base and tail as one, without a connection: shared by all reads of one instant. What is derived is kept."""

    def __init__(
        self,
        base: Base,
        tail: Tail,
        scans: tuple[Scan | None, ...],
        tail_scan: TailScan,
        *,
        has_columns: bool,
        has_tail: bool = True,
    ) -> None:
        self.base = base
        self.tail = tail
        self.scans = scans
        self._tail_scan = tail_scan
        self.has_columns = has_columns
        self.has_tail = has_tail
        self._targets: dict[HnswConfiguration, SearchTarget] = {}

    @property
    def size(self) -> int:
        """Number of slots, live or not: the length of every mask."""
        return self.tail.next_slot

    @property
    def live(self) -> int:
        return self.base.live + self.tail.live_delta

    @property
    def through(self) -> Lsn:
        return self.tail.through

    @cached_property
    def alive(self) -> Mask:
        """Which slots hold a record, shape (size,)."""
        alive = np.zeros(self.size, dtype=np.bool_)
        alive[: len(self.base.alive)] = self.base.alive
        alive[self.tail.dead] = False
        alive[self.tail.live_new_slots()] = True
        return alive

    @cached_property
    def hidden(self) -> Mask | None:
        """Slots of the base whose vector there is not the current one, shape (base.next_slot,); None: none."""
        tail = self.tail
        if not len(tail.dead) and not len(tail.revectored):
            return None
        hidden = np.zeros(len(self.base.alive), dtype=np.bool_)
        hidden[tail.dead] = True
        hidden[tail.revectored] = True
        return hidden

    def target(self, hnsw: HnswConfiguration) -> SearchTarget:
        """What queries search; made once for a configuration, and nearly always there is one.

        A new space counts when the base has it: then all distances change at once (`build_graphs`).
        """
        target = self._targets.get(hnsw)
        if target is None:
            space = self.base.manifest.space if self.base.manifest.rows else hnsw.space
            packed = self._tail_scan.of(space, self.tail.first_vector, self.tail.vectors)
            target = self._targets[hnsw] = SearchTarget(
                space, self.base, self.tail, self.scans, self.hidden, hnsw.ef_search, packed
            )
        return target

    @cached_property
    def tail_vectors(self) -> dict[int, int]:
        """Position in the tail's vectors of each slot that has its current vector there."""
        rows = np.flatnonzero(self.tail.owners >= 0)
        return dict(zip(self.tail.owners[rows].tolist(), rows.tolist(), strict=True))


class View:
    """One instant of a collection, with the connection that reads its rows."""

    def __init__(
        self,
        image: Image,
        tables: RecordTables | None,
        share: Share = run_in_turn,
        base_rows: BaseRows | None = None,
        *,
        at_hand: bool = False,
    ) -> None:
        self.image = image
        self._tables = tables
        self._share = share
        self._base_rows = base_rows
        self._at_hand = at_hand
        self._fetched: dict[int, Row] = {}
        """By slot: rows that came along when the slots of their ids were looked up."""
        self.lsn = image.through
        """All entries through this LSN were seen; of a view without a tail, all that it holds of this collection."""

    def of_position(self, position: Lsn) -> View:
        """Note through which LSN all entries had been offered when this view was asked for."""
        if self.image.has_tail:
            self.lsn = max(self.lsn, position)
        return self

    def expect(self, records: int) -> None:
        """Say how many records will be read.

        Raises:
            NotAtHand: that takes long, and this view is for a read that must not.
        """
        if self._at_hand and records > RECORDS_AT_HAND_MAX:
            raise NotAtHand

    # ---- which records

    def slots_of(self, ids: Sequence[str], *, with_rows: bool = False) -> Slots:
        """Slots of the ids that exist, ascending, each once. `with_rows`: their rows are wanted next, and come along."""
        known = self.image.tail.known
        asked = [record_id for record_id in ids if record_id not in known]
        found = set[int]()
        if self._tables is not None and asked:
            if with_rows:
                self._fetched = self._tables.rows_of(asked)
                found.update(self._fetched)
            else:
                found.update(self._tables.slots_of(asked).values())
        found.update(row.slot for record_id in ids if (row := known.get(record_id)) is not None)
        return np.asarray(sorted(found), dtype=np.int64)

    def mask(self, ids: Sequence[str] | None, where: Where | None, missing: Missing) -> Mask | None:
        """Which slots hold a record of these ids that passes the filter, shape (size,); None: every live one may."""
        if ids is None and where is None:
            return None
        if ids is None:
            allowed = self.image.alive
        else:
            allowed = np.zeros(self.image.size, dtype=np.bool_)
            allowed[self.slots_of(ids)] = True
        if where is None:
            return allowed
        return allowed & evaluate(where, lambda leaf: self._test(leaf, missing), self.image.size)

    def slots(self, ids: Sequence[str] | None, where: Where | None, missing: Missing, *, with_rows: bool = False) -> Slots:
        """Slots of the records of these ids that pass the filter, ascending.

        `with_rows`: the rows of all of them are wanted next, so those of a few ids come along.
        """
        if ids is not None and where is None:
            return self.slots_of(ids, with_rows=with_rows and len(ids) <= RECORDS_AT_HAND_MAX)
        mask = self.mask(ids, where, missing)
        return np.flatnonzero(self.image.alive if mask is None else mask)

    def _test(self, leaf: FieldTest | DocumentTest, missing: Missing) -> Mask:
        require_wanted()  # of a thousand tests of long documents each may take long
        return self._test_field(leaf, missing) if isinstance(leaf, FieldTest) else self._test_document(leaf, missing)

    def _test_field(self, test: FieldTest, missing: Missing) -> Mask:
        """Newer pieces know their slots' whole metadata, so what they say replaces what older ones said."""
        mask = np.zeros(self.image.size, dtype=np.bool_)
        for piece in (*self.image.base.pieces, *self.image.tail.pieces):
            mask[piece.where] = piece.test(test, missing)
        return mask

    def _test_document(self, test: DocumentTest, missing: Missing) -> Mask:
        mask = np.zeros(self.image.size, dtype=np.bool_)
        if self._tables is not None:
            mask[: len(self.image.base.alive)] = self._test_stored_documents(self._tables, test, missing)
        tail = self.image.tail
        for row in (*tail.overrides.values(), *(row for row in tail.rows if row is not None)):
            mask[row.slot] = matches(test, None, row.document, missing)
        return mask

    def _test_stored_documents(self, tables: RecordTables, test: DocumentTest, missing: Missing) -> Mask:
        if test.operator not in ("$contains", "$not_contains") or len(test.operand) < TRIGRAM:
            self.expect(self.image.live)
        if test.operator in ("$contains", "$not_contains"):
            slots = tables.text_index.slots_containing(test.operand)
        else:
            positive = DocumentTest("$regex", test.operand)
            found = [slot for slot, text in tables.documents() if matches(positive, None, text, missing)]
            slots = np.asarray(found, dtype=np.int64)
        hits = self._stored(slots)
        if DOCUMENT_OPERATORS[test.operator].negates is None:
            return hits
        return turned_around(hits, lambda: self._stored(tables.text_index.slots_containing("")), missing)

    def _stored(self, slots: Slots) -> Mask:
        mask = np.zeros(len(self.image.base.alive), dtype=np.bool_)
        mask[slots[slots < len(mask)]] = True  # the tables may be of a newer base, whose records are the tail's here
        return mask

    # ---- what they hold

    def rows(self, slots: Slots) -> list[Row]:
        """The rows of these slots, in their order; each of them is live."""
        wanted = slots.tolist()
        tail = self.image.tail
        newer = {} if tail.is_empty else {slot: row for slot in wanted if (row := tail.row(slot)) is not None}
        stored = [slot for slot in wanted if slot not in newer] if newer else wanted
        found = self._stored_rows(stored)
        if len(found) < len(set(stored)):
            raise StorageCorrupt(f"records are missing. slots={sorted(set(stored) - found.keys())[:10]}")
        return [newer[slot] if slot in newer else found[slot] for slot in wanted]

    def _stored_rows(self, slots: Sequence[int]) -> dict[int, Row]:
        if all(slot in self._fetched for slot in slots):
            return self._fetched
        if self._tables is None:
            return {}
        if self._base_rows is None or self._tables.unchanging:  # these may turn out to have changed meanwhile
            return self._tables.rows(slots)
        return self._base_rows.rows(slots, self._tables.rows)

    def vectors(self, slots: Slots) -> Vectors:
        """The vectors of these slots, shape (n, ndim); each of them is live."""
        newer = self.image.tail_vectors
        positions = np.asarray([newer.get(slot, -1) for slot in slots.tolist()], dtype=np.int64)
        if not len(slots) or (positions >= 0).all():
            return self.image.tail.vectors.take(positions)
        old = positions < 0
        out = np.empty((len(slots), self.image.base.manifest.dimension or 0), dtype=np.float32)
        out[old] = self.image.base.vectors_of(slots[old])
        if not old.all():  # a tail without vectors has no dimension either
            out[~old] = self.image.tail.vectors.take(positions[~old])
        return out

    # ---- which are nearest

    def nearest(
        self, collection: Collection, queries: Vectors, masks: Sequence[Mask | None], counts: Sequence[int]
    ) -> list[Neighbours]:
        """min(counts[i], matches) nearest records for each query i, shape (queries, ndim)."""
        return search(self.image.target(collection.hnsw), queries, masks, counts, self._share)

    # ---- how far it is

    def indexing_status(self) -> IndexingCounts:
        """Operations that reached the base, and those that still wait in the tail."""
        base = self.image.base.manifest
        return IndexingCounts(indexed=base.operations, unindexed=self.image.tail.operations)


class IndexingCounts(Struct, frozen=True):
    """Written and deleted records, ever: applied, and not yet applied."""

    indexed: int
    unindexed: int
