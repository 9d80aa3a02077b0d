"""The image of the unapplied tail: what entries do to records, folded once, asked by every read.

The compactor folds the same entries with the same code and writes the outcome to the projections: what a reader sees
before and after entries are applied is the same by construction. A record keeps its slot (its place in insertion order)
through updates; deleting and adding it again gives it a new one.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from chroma_async.core.columns import ColumnPiece, build, merge
from chroma_async.core.events import RecordsDeleted, RecordsEvent, RecordsWritten
from chroma_async.core.metadata import merge_metadata
from chroma_async.core.upkeep import pieces_to_merge
from chroma_async.core.vector_run import GrowingVectors, VectorRun
from chroma_async.model import NO_SLOT, Lsn, Metadata, Slots, Vectors

EXAMPLES_MAX = 10


class Row(msgspec.Struct, frozen=True, gc=False):
    """One record, whole, but for its vector: `vector` is its position in the memtable, or NO_SLOT where the base has it.

    Metadata is the JSON that tables store; None where there is none.
    """

    slot: int
    id: str
    document: str | None
    metadata_json: str | None
    uri: str | None
    vector: int = NO_SLOT

    @property
    def metadata(self) -> Metadata | None:
        return _decode_metadata(self.metadata_json)


class IgnoredUpdates(msgspec.Struct):
    """Updates of ids that do not exist: how many, and the first ids of them."""

    count: int = 0
    examples: list[str] = msgspec.field(default_factory=list[str])

    def add(self, record_id: str) -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(record_id)


class Tail(msgspec.Struct, frozen=True, eq=False):
    """A memtable at one instant; it does not change when the memtable goes on.

    `rows[i]` is the record of slot `first_slot + i`, None where it died; `overrides` holds records of the base by slot.
    `dead` are slots of the base that were deleted. `vectors` has shape (m, ndim) and `owners` shape (m,): the slot
    whose current vector it is, or NO_SLOT. `first_vector` says how many vectors went before them, which a base holds by
    now. `revectored` are the slots of the base that `owners` has a newer vector for.
    `operations` counts the records that entries named.
    `known` is the current record of each id that was looked at, None where there is none.
    """

    through: Lsn
    first_slot: int
    rows: Sequence[Row | None]
    overrides: Mapping[int, Row]
    dead: Slots
    first_vector: int
    vectors: VectorRun
    owners: Slots
    revectored: Slots
    live_delta: int
    operations: int
    known: Mapping[str, Row | None]
    pieces: tuple[ColumnPiece, ...]

    @property
    def next_slot(self) -> int:
        return self.first_slot + len(self.rows)

    def row(self, slot: int) -> Row | None:
        """The tail's version of a slot; None when the tail says nothing of it, or it died here."""
        return self.rows[slot - self.first_slot] if slot >= self.first_slot else self.overrides.get(slot)

    @property
    def is_empty(self) -> bool:
        return not self.rows and not self.overrides and not len(self.dead)

    def live_new_slots(self) -> Slots:
        """Slots of the records that the base does not have, ascending."""
        live = [row.slot for row in self.rows if row is not None]
        return np.asarray(live, dtype=np.int64)


class _Mark(NamedTuple):
    """How far a memtable was after an entry: lengths of what only grows, and sums."""

    lsn: Lsn
    ids: Sequence[str]
    are_new: bool
    """Whether the entry made all of its ids records."""
    next_slot: int
    vectors: int
    changed: int
    died: int
    live_delta: int
    operations: int


class Memtable:
    """Folds entries over a base. The caller looks up, before each entry, the ids that the base may have."""

    def __init__(self, *, applied: Lsn, next_slot: int) -> None:
        self.applied = applied
        self.through = applied
        self.first_slot = next_slot
        self._known: dict[str, Row | None] = {}
        self._rows: list[Row | None] = []
        self._overrides: dict[int, Row] = {}
        self._vectors = GrowingVectors()
        self._owners: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._first_vector = 0
        """Positions of vectors count on over bases; those before the first belong to entries that a base holds by now."""
        self._changed: list[int] = []
        self._died: list[int] = []
        """Slots in the order of the log, and how many of either are in pieces already."""
        self._pieces: list[ColumnPiece] = []
        self._changed_pieced = self._died_pieced = 0
        self._live_delta = 0
        self.operations = 0
        self._marks = [_Mark(applied, (), True, next_slot, 0, 0, 0, 0, 0)]
        self.ignored_updates = IgnoredUpdates()

    @property
    def next_slot(self) -> int:
        return self.first_slot + len(self._rows)

    def unknown(self, ids: Sequence[str]) -> list[str]:
        """The ids whose state the base must be asked for before an event with them is folded."""
        return [record_id for record_id in ids if record_id not in self._known]

    def learn(self, asked: Sequence[str], found: Mapping[str, Row]) -> None:
        """Remember what the base said about the ids asked for; those not found do not exist in it."""
        for record_id in asked:
            self._known.setdefault(record_id, found.get(record_id))

    def fold(self, lsn: Lsn, event: RecordsEvent) -> None:
        """Apply one entry; every id in it was learnt before."""
        if lsn <= self.through:
            raise RuntimeError(f"an entry is folded out of order. lsn={lsn} through={self.through}")
        are_new = False
        if isinstance(event, RecordsDeleted):
            for record_id in event.ids:
                self._delete(record_id)
        else:
            are_new = self._write(event)
        self.operations += len(event.ids)
        self.through = lsn
        self._marks.append(
            _Mark(
                lsn,
                event.ids,
                are_new,
                self.next_slot,
                self._vectors.beyond,
                len(self._changed),
                len(self._died),
                self._live_delta,
                self.operations,
            )
        )

    # ---- folding

    def _delete(self, record_id: str) -> None:
        row = self._known[record_id]
        if row is None:
            return
        self._known[record_id] = None
        self._live_delta -= 1
        self._disown(row.vector)
        self._died.append(row.slot)
        if row.slot >= self.first_slot:
            self._rows[row.slot - self.first_slot] = None
        else:
            self._overrides.pop(row.slot, None)

    def _write(self, event: RecordsWritten) -> bool:
        """Return whether all of its ids are new records."""
        first = self._append_vectors(event.vectors)
        operation = event.head.operation
        if operation != "update" and self._are_new(event.ids):
            self._insert_all(event, first)
            return True
        columns = (
            event.ids,
            event.documents or [None] * len(event.ids),
            _patches(event) or cast("list[str | None]", [None] * len(event.ids)),
            event.uris or [None] * len(event.ids),
            _positions(event, first),
        )
        for record_id, document, metadata, uri, position in zip(*columns, strict=True):
            old = self._known[record_id]
            if old is None:
                if operation == "update":
                    self.ignored_updates.add(record_id)
                else:
                    self._insert(record_id, document, metadata, uri, position)
            elif operation != "add":
                self._change(old, document, metadata, uri, position)
        return False

    def _are_new(self, ids: Sequence[str]) -> bool:
        """Whether none of the ids exists, and none comes twice."""
        known = self._known
        return all(known[record_id] is None for record_id in ids) and len(set(ids)) == len(ids)

    def _insert_all(self, event: RecordsWritten, first: int) -> None:
        """Insert records all of which are new, each with a vector: the most frequent case, and several times as fast."""
        count, slot = len(event.ids), self.next_slot
        if len(event.vectors) != count:
            raise RuntimeError(f"new records come without a vector. records={count} vectors={len(event.vectors)}")
        slots = range(slot, slot + count)
        nothing = itertools.repeat(None)
        patches = _patches(event)
        metadatas = nothing if patches is None else map(_merged, itertools.repeat(None), patches)
        columns = (event.documents or nothing, metadatas, event.uris or nothing, range(first, first + count))
        rows = list(map(Row, slots, event.ids, *columns))
        begin = first - self._first_vector
        self._owners[begin : begin + count] = np.arange(slot, slot + count)
        self._rows.extend(rows)
        self._known.update(zip(event.ids, rows, strict=True))
        self._changed.extend(slots)
        self._live_delta += count

    def _insert(self, record_id: str, document: str | None, patch: str | None, uri: str | None, position: int) -> None:
        if position == NO_SLOT:
            raise RuntimeError(f"a new record comes without a vector. id={record_id!r}")
        slot = self.next_slot
        row = Row(slot, record_id, document, _merged(None, patch), uri, position)
        self._owners[position - self._first_vector] = slot
        self._rows.append(row)
        self._known[record_id] = row
        self._changed.append(slot)
        self._live_delta += 1

    def _change(self, old: Row, document: str | None, patch: str | None, uri: str | None, position: int) -> None:
        row = Row(
            old.slot,
            old.id,
            old.document if document is None else document,
            _merged(old.metadata_json, patch),
            old.uri if uri is None else uri,
            old.vector if position == NO_SLOT else position,
        )
        if position != NO_SLOT:
            self._owners[position - self._first_vector] = old.slot
            self._disown(old.vector)
        self._known[old.id] = row
        self._changed.append(row.slot)
        if row.slot >= self.first_slot:
            self._rows[row.slot - self.first_slot] = row
        else:
            self._overrides[row.slot] = row

    def _disown(self, position: int) -> None:
        if position != NO_SLOT:
            self._owners[position - self._first_vector] = NO_SLOT

    def _append_vectors(self, vectors: Vectors) -> int:
        """Take vectors, owned by nobody yet; return the position of the first."""
        first = self._vectors.append(vectors)
        begin, end = first - self._first_vector, self._vectors.beyond - self._first_vector
        if end > len(self._owners):
            owners = np.full(2 * end, NO_SLOT, dtype=np.int64)
            owners[:begin] = self._owners[:begin]
            self._owners = owners
        self._owners[begin:end] = NO_SLOT
        return first

    # ---- a newer base

    def rebased(self, *, applied: Lsn, next_slot: int) -> Memtable:
        """Return this memtable over a newer base, of the entries through `applied` and the slots before `next_slot`.

        It is what folding the later entries over that base would give, but for `ignored_updates`: what they did is known, so
        this costs a fraction of it. This memtable stays what it is. Only one of the two may fold on: what is to come of
        vectors has its place in the room that they share.
        """
        if not self.applied <= applied <= self.through:
            raise RuntimeError(f"entries were applied that are not here. applied={applied} after={self.applied}")
        place = bisect.bisect_right(self._marks, applied, key=lambda mark: mark.lsn) - 1
        before, after = self._marks[place], self._marks[place + 1 :]
        if before.next_slot != next_slot:
            raise RuntimeError(f"other slots were folded than applied. folded={before.next_slot} applied={next_slot}")
        over = Memtable(applied=applied, next_slot=next_slot)
        over.through, over._first_vector = self.through, before.vectors
        over._vectors = self._vectors.from_position(before.vectors)
        over._owners = self._owners[before.vectors - self._first_vector : self._vectors.beyond - self._first_vector].copy()
        over._rows = self._rows[next_slot - self.first_slot :]
        over._changed, over._died = self._changed[before.changed :], self._died[before.died :]
        over._live_delta = self._live_delta - before.live_delta
        over.operations = self.operations - before.operations
        over._marks = [_Mark(applied, (), True, next_slot, before.vectors, 0, 0, 0, 0)]
        for mark in after:
            over._marks.append(_less(mark, before))
            if mark.are_new:  # whatever became of them since, the base has none of them
                over._known.update(zip(mark.ids, map(self._known.__getitem__, mark.ids), strict=True))
                continue
            for record_id in mark.ids:
                row = self._known[record_id]
                over._known[record_id] = row if row is None or row.slot >= next_slot else _over_base(row, before.vectors)
        changed = np.asarray(over._changed, dtype=np.int64)
        for slot in changed[changed < next_slot].tolist():
            row = self._row(slot)
            if row is not None:
                over._overrides[slot] = cast("Row", over._known[row.id])
        return over

    # ---- looking

    @property
    def rows_without_columns(self) -> int:
        """How many changes of rows the next tail with columns has to look at."""
        return len(self._changed) - self._changed_pieced

    def vectors(self) -> tuple[int, VectorRun]:
        """Return how many vectors a base has taken over, and those since, shape (m, ndim)."""
        return self._first_vector, self._vectors.run(self._first_vector)

    def tail(self, *, columns: bool = False) -> Tail:
        """Return the state now. With `columns`, its metadata as pieces too (rows changed since the last time)."""
        if columns:
            self._build_piece()
        first_vector, vectors = self.vectors()
        owners = self._owners[: len(vectors)].copy()
        died = np.asarray(self._died, dtype=np.int64)
        return Tail(
            through=self.through,
            first_slot=self.first_slot,
            rows=self._rows.copy(),
            overrides=self._overrides.copy(),
            dead=died[died < self.first_slot],
            first_vector=first_vector,
            vectors=vectors,
            owners=owners,
            revectored=owners[(owners >= 0) & (owners < self.first_slot)],
            live_delta=self._live_delta,
            operations=self.operations,
            known=self._known.copy(),
            pieces=tuple(self._pieces),
        )

    def _build_piece(self) -> None:
        changed = np.unique(np.asarray(self._changed[self._changed_pieced :], dtype=np.int64))
        died = np.unique(np.asarray(self._died[self._died_pieced :], dtype=np.int64))
        if not len(changed) and not len(died):
            return
        rows = [row for slot in changed.tolist() if (row := self._row(slot)) is not None]
        slots = np.fromiter((row.slot for row in rows), dtype=np.int64, count=len(rows))
        self._pieces.append(build(slots, [row.metadata for row in rows], died))
        self._changed_pieced, self._died_pieced = len(self._changed), len(self._died)
        count = pieces_to_merge([len(piece.slots) for piece in self._pieces])
        if count:
            self._pieces[-count:] = [merge(self._pieces[-count:], forget_dead=False)]

    def _row(self, slot: int) -> Row | None:
        """A record that was changed here; None: it died since."""
        return self._rows[slot - self.first_slot] if slot >= self.first_slot else self._overrides.get(slot)


def _less(mark: _Mark, before: _Mark) -> _Mark:
    """A mark as it is where counting began at another one."""
    return mark._replace(
        changed=mark.changed - before.changed,
        died=mark.died - before.died,
        live_delta=mark.live_delta - before.live_delta,
        operations=mark.operations - before.operations,
    )


def _over_base(row: Row, first_vector: int) -> Row:
    """A record of a base, whose vector is there unless the memtable has a newer one."""
    return row if row.vector == NO_SLOT or row.vector >= first_vector else msgspec.structs.replace(row, vector=NO_SLOT)


def _positions(event: RecordsWritten, first: int) -> list[int]:
    """Position in the memtable's vectors for each id of the event; NO_SLOT where it carries none."""
    if event.rows is None:
        count = len(event.vectors)
        return list(range(first, first + count)) if count else [NO_SLOT] * len(event.ids)
    positions = np.full(len(event.ids), NO_SLOT, dtype=np.int64)
    positions[event.rows] = np.arange(first, first + len(event.rows))
    return positions.tolist()


def _decode_metadata(stored: str | None) -> Metadata | None:
    """Metadata of a row as tables store it."""
    return None if stored is None else cast("Metadata", orjson.loads(stored))


def _patches(event: RecordsWritten) -> list[str] | None:
    """The metadata of each id as JSON; None: the event carries none."""
    if event.metadatas is None:
        return event.metadatas_json
    return [orjson.dumps(patch).decode() for patch in event.metadatas]


def _merged(old: str | None, patch: str | None) -> str | None:
    """`merge_metadata` of JSON. Whatever has no null is the metadata of a new record as it stands."""
    if patch is None or patch == "null":
        return old
    if old is None and "null" not in patch:
        return None if patch == "{}" else patch
    merged = merge_metadata(_decode_metadata(old), orjson.loads(patch))
    return None if merged is None else orjson.dumps(merged).decode()
