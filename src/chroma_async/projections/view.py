"""The base of a read view: everything that a manifest reaches, mapped and ready to be searched. It never changes.

A newer base is made from the one before it: columns, packed rows and graphs that both reach are shared.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol, cast

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from chroma_async.checksums import crc32
from chroma_async.core.columns import ColumnPiece, decode
from chroma_async.core.planner import SCAN_BESIDE_GRAPH_ROWS_MAX
from chroma_async.errors import StorageCorrupt
from chroma_async.index.hnsw import GraphFile
from chroma_async.index.packing import BLOCK_ROWS, ScanBuilder
from chroma_async.index.scan import Scan
from chroma_async.model import NO_SLOT, Mask, Slots, Vectors
from chroma_async.projections.blocks import VectorGuard
from chroma_async.projections.manifest import Manifest, PieceRef, SegmentRef
from chroma_async.projections.stored_vectors import StoredVectors
from chroma_async.seams.files import opened

SPARE_SHARE: Final = 4
"""What grows gets room for one part in so many more."""

COLUMNS, SEGMENTS = "columns", "segments"
VECTORS_FILE, SLOTS_FILE = "vectors.f32", "slots.i64"

SPARED: Final = frozenset({errno.EACCES, errno.EPERM, errno.ENOMEM})
"""A graph that can't be opened for one of these is done without."""

logger = logging.getLogger("chroma_async.projections")


class GrownSlots:
    """An array of slots or rows that never changes, of which a longer version shares the room with a shorter one.

    For that it has to be made of the longest so far: one base after the other, by one thread at a time.
    """

    __slots__ = ("_room", "array")

    def __init__(self, room: _Room, length: int) -> None:
        self._room = room
        self.array: Slots = room.array[:length]

    @classmethod
    def of(cls, array: Slots) -> GrownSlots:
        """What an array holds, which nobody writes to any more."""
        room = _Room(array)
        room.used = len(array)
        return cls(room, len(array))

    @classmethod
    def empty(cls, *shape: int) -> GrownSlots:
        """One without items, each of which has this shape."""
        return cls.of(np.empty((0, *shape), dtype=np.int64))

    def grown(self, length: int) -> GrownSlots:
        """A longer version, with NO_SLOT in what is new; that may be written to before anybody else sees it."""
        known, room = len(self.array), self._room
        if room.used != known or length > len(room.array):
            return self.copied(length)
        room.array[known:length] = NO_SLOT
        room.used = length
        return GrownSlots(room, length)

    def copied(self, length: int) -> GrownSlots:
        """The same in a room of its own: all of it may be written to."""
        known = len(self.array)
        room = _Room(np.empty((length + length // SPARE_SHARE, *self.array.shape[1:]), dtype=np.int64))
        room.array[:known] = self.array
        room.array[known:length] = NO_SLOT
        room.used = length
        return GrownSlots(room, length)


class _Room:
    """`used` of its items belong to a version. Of pages that nobody wrote to there is only the address."""

    __slots__ = ("array", "used")

    def __init__(self, array: Slots) -> None:
        self.array = array
        self.used = 0


class SegmentView(Struct, frozen=True, eq=False, dict=True):
    """One segment. `vectors` has shape (rows, ndim); `owners`, shape (rows,): the slot whose vector it is, or NO_SLOT.

    Rows from `scan_first` on are packed for scans.
    """

    number: int
    stored: StoredVectors
    slots: Slots
    owned_slots: GrownSlots
    scan: ScanBuilder
    graph: GraphFile | None
    scan_first: int = 0
    guard: VectorGuard | None = None

    @property
    def vectors(self) -> Vectors:
        return self.stored.vectors

    @property
    def owners(self) -> Slots:
        return self.owned_slots.array

    @property
    def rows(self) -> int:
        return len(self.slots)

    @cached_property
    def owned(self) -> Mask | None:
        """Which rows belong to a record, shape (rows,); None: all of them."""
        owned = self.owners >= 0
        return None if owned.all() else owned

    @cached_property
    def first_slot(self) -> int | None:
        """The slot of row 0 where slots follow one another as the rows do: rows that were only ever added. Else None."""
        first = int(self.slots[0]) if self.rows else 0
        return first if np.array_equal(self.slots, np.arange(first, first + self.rows)) else None

    def of_slots(self, mask: Mask) -> Mask:
        """What a mask over slots says of the rows, shape (rows,); of rows without an owner it says nothing useful."""
        if self.first_slot is not None:
            return mask[self.first_slot : self.first_slot + self.rows]
        return mask[np.maximum(self.owners, 0)]

    def check(self, rows: Slots) -> None:
        """Check the vectors of these rows before they are read.

        Raises:
            StorageCorrupt: they are not what was written.
        """
        if self.guard is not None:
            self.guard.check(rows)

    def check_from(self, first: int, beyond: int | None = None) -> None:
        """The same of the rows from `first` on, those before `beyond` or all."""
        if self.guard is not None:
            self.guard.check_from(first, beyond)

    @property
    def is_packed(self) -> bool:
        """Whether the rows from `scan_first` on are packed, all of them."""
        return self.is_covered(self.scan.latest)

    def is_covered(self, scan: Scan | None) -> bool:
        """Whether a scan of this segment has all of them."""
        return scan is not None and scan.rows >= self.rows - self.scan_first

    def scanned(self, more: int | None = None) -> Scan:
        """Pack the rows from `scan_first` on, or so many more of them, if they are not. For one thread at a time."""
        rows = self.rows - self.scan_first
        if more is not None:
            rows = min(rows, self.scan.rows + more)
        self.check_from(self.scan_first + self.scan.rows, self.scan_first + rows)
        with self.stored.in_order() as vectors:
            return self.scan.extend(vectors[self.scan_first :], beyond=rows)


class Base(Struct, frozen=True, eq=False):
    """Collection state as of `manifest.applied`. `alive`, shape (next_slot,), says which slots hold a record.

    `locations`, shape (next_slot, 2): segment position and row of each slot's vector, NO_SLOT where there is none.
    """

    manifest: Manifest
    pieces: tuple[ColumnPiece, ...]
    alive: Mask
    placed: GrownSlots
    segments: tuple[SegmentView, ...]

    @property
    def locations(self) -> Slots:
        return self.placed.array

    @property
    def live(self) -> int:
        return self.manifest.live

    def vectors_of(self, slots: Slots) -> Vectors:
        """The vectors of these slots, shape (n, ndim); each of them has one."""
        out = np.empty((len(slots), self.manifest.dimension or 0), dtype=np.float32)
        where = self.locations[slots]
        for position, segment in enumerate(self.segments):
            here = where[:, 0] == position
            if here.any():
                segment.check(where[here, 1])
                out[here] = segment.stored.take(where[here, 1])
        return out


EMPTY_BASE: Final = Base(
    manifest=Manifest(),
    pieces=(),
    alive=np.empty(0, dtype=np.bool_),
    placed=GrownSlots.empty(2),
    segments=(),
)


class StoredRecords(Protocol):
    """What a base needs of the tables that its manifest was read from, as of the same instant."""

    def block_sums(self, segment: int) -> Sequence[int]:
        """The CRC-32 of each block of a segment's vectors."""
        ...

    def rebuilt_columns(self) -> ColumnPiece:
        """The metadata of all records."""
        ...

    def newest_manifest(self) -> Manifest:
        """The manifest as of now. What it does not reach any more was replaced, and is no loss."""
        ...


def load_base(directory: Path, manifest: Manifest, before: Base, tables: StoredRecords) -> Base:
    """Return the base that a manifest reaches, sharing what it can with the one before.

    A damaged graph is left out, and columns that are damaged are made from the records; both are logged.

    Raises:
        StorageCorrupt: a vector file is missing or damaged, or so are records that columns must be made from; or another
            file is gone since it was replaced meanwhile: there is a newer manifest.
        OSError: a file can't be opened or mapped now, whatever is in it.
        sqlite3.OperationalError: a file is missing, and the tables are gone by now.
    """
    before = before if len(before.pieces) == len(before.manifest.pieces) else EMPTY_BASE
    pieces = _load_pieces(directory, manifest.pieces, before, tables)
    kept = _common_prefix(before.manifest.pieces, manifest.pieces) if len(pieces) == len(manifest.pieces) else 0
    # What was merged with the very first piece may have forgotten deaths.
    alive = _alive(before if kept else EMPTY_BASE, pieces[kept:], manifest.next_slot)
    segments = [_load_segment(directory, ref, manifest, before, tables) for ref in manifest.segments]
    placed, owners = _assign(before, segments, alive, manifest)
    return Base(
        manifest=manifest,
        pieces=pieces,
        alive=alive,
        placed=placed,
        segments=tuple(replace(view, owned_slots=owned) for view, owned in zip(segments, owners, strict=True)),
    )


def _common_prefix(old: Sequence[PieceRef], new: Sequence[PieceRef]) -> int:
    count = 0
    while count < min(len(old), len(new)) and old[count].file == new[count].file:
        count += 1
    return count


def _rows_only_grew(old: Sequence[SegmentRef], new: Sequence[SegmentRef]) -> bool:
    return len(old) <= len(new) and all(
        mine.number == theirs.number and mine.rows <= theirs.rows for mine, theirs in zip(old, new, strict=False)
    )


def map_file(path: Path) -> memoryview:
    """Return the bytes of a file, mapped, not read.

    Raises:
        StorageCorrupt, OSError: see `opened`.
    """
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _load_pieces(directory: Path, refs: Sequence[PieceRef], before: Base, tables: StoredRecords) -> tuple[ColumnPiece, ...]:
    """The pieces of a manifest; one that says the same, where one of them is damaged."""
    loaded: Mapping[str, ColumnPiece] = dict(zip((ref.file for ref in before.manifest.pieces), before.pieces, strict=True))
    pieces: list[ColumnPiece] = []
    for ref in refs:
        try:
            pieces.append(loaded.get(ref.file) or load_piece(directory, ref))
        except (StorageCorrupt, PermissionError) as error:
            if all(ref.file != item.file for item in tables.newest_manifest().pieces):
                raise
            logger.warning("columns.damaged collection=%s reason=%s reads=from_records", directory.name, error)
            return (tables.rebuilt_columns(),)
    return tuple(pieces)


def load_piece(directory: Path, ref: PieceRef) -> ColumnPiece:
    """Return a column file after a check of its checksums.

    Raises:
        StorageCorrupt: it is missing or damaged, or not the one that the manifest means.
        OSError: see `opened`.
    """
    path = directory / COLUMNS / ref.file
    buffer = map_file(path)
    if crc32(buffer) != ref.crc:
        raise StorageCorrupt(f"metadata columns do not match their checksum. path={path}")
    return decode(buffer)


def _alive(fresh: Base, news: Sequence[ColumnPiece], next_slot: int) -> Mask:
    alive = np.zeros(next_slot, dtype=np.bool_)
    alive[: len(fresh.alive)] = fresh.alive
    for piece in news:
        alive[piece.where] = True
        alive[piece.dead] = False
    return alive


def map_vectors(directory: Path, ref: SegmentRef, dimension: int) -> StoredVectors:
    """Map the published vectors of a segment, shape (rows, dimension); raises as `map_slots`."""
    file = map_file(directory / SEGMENTS / str(ref.number) / VECTORS_FILE)
    if len(file) < ref.rows * dimension * 4:
        raise _is_short(directory, ref)
    vectors = np.frombuffer(file, dtype="<f4", count=ref.rows * dimension).reshape(ref.rows, dimension)
    return StoredVectors(cast("Vectors", vectors), file.obj if isinstance(file.obj, mmap.mmap) else None)


def map_slots(directory: Path, ref: SegmentRef) -> Slots:
    """Map the published slots of a segment, shape (rows,).

    Raises:
        StorageCorrupt: the file is missing, or shorter than the manifest says.
        OSError: see `opened`.
    """
    slots = map_file(directory / SEGMENTS / str(ref.number) / SLOTS_FILE)
    if len(slots) < ref.rows * 8:
        raise _is_short(directory, ref)
    return np.frombuffer(slots, dtype="<i8", count=ref.rows)


def _is_short(directory: Path, ref: SegmentRef) -> StorageCorrupt:
    folder = directory / SEGMENTS / str(ref.number)
    return StorageCorrupt(f"vector file is shorter than its manifest says. path={folder} rows={ref.rows}")


def _load_segment(directory: Path, ref: SegmentRef, manifest: Manifest, before: Base, tables: StoredRecords) -> SegmentView:
    old = next((view for view in before.segments if view.number == ref.number), None)
    stored, slots = map_vectors(directory, ref, manifest.dimension or 0), map_slots(directory, ref)
    check_slots(directory, ref, slots, manifest.next_slot)
    guard = vector_guard(directory, ref, stored, tables.block_sums(ref.number))
    if guard is not None and old is not None and old.guard is not None:
        guard.inherit(old.guard)
    graph = _load_graph(directory, ref, None if old is None else old.graph, tables)
    first = 0 if graph is None or ref.rows <= SCAN_BESIDE_GRAPH_ROWS_MAX else graph.rows // BLOCK_ROWS * BLOCK_ROWS
    return SegmentView(
        number=ref.number,
        stored=stored,
        slots=slots,
        owned_slots=GrownSlots.empty(),
        scan=_scan_of(first, old if before.manifest.space == manifest.space else None) or ScanBuilder(manifest.space),
        graph=graph,
        scan_first=first,
        guard=guard,
    )


def _scan_of(first: int, old: SegmentView | None) -> ScanBuilder | None:
    """What goes on with the packed rows of an older view, now from row `first` on, since a graph has the others."""
    if old is None or old.scan_first == first:
        return None if old is None else old.scan
    packed = old.scan.latest
    return None if packed is None or first < old.scan_first else ScanBuilder.behind(packed, first - old.scan_first)


def check_slots(directory: Path, ref: SegmentRef, slots: Slots, next_slot: int) -> None:
    """Compare a segment's slots with their checksum.

    Raises:
        StorageCorrupt: they are not what was written.
    """
    damaged = ref.slots_crc is not None and crc32(slots.data.cast("B")) != ref.slots_crc
    if damaged or (len(slots) and not 0 <= slots.min() <= slots.max() < next_slot):
        path = directory / SEGMENTS / str(ref.number) / SLOTS_FILE
        raise StorageCorrupt(f"slots do not match their checksum. path={path}")


def vector_guard(directory: Path, ref: SegmentRef, vectors: StoredVectors, sums: Sequence[int]) -> VectorGuard | None:
    """What checks a segment's vectors; None: release 0.1.0 wrote them, without checksums."""
    if not ref.block_rows:
        return None
    return VectorGuard(directory / SEGMENTS / str(ref.number) / VECTORS_FILE, vectors, ref.block_rows, sums)


def _load_graph(directory: Path, ref: SegmentRef, old: GraphFile | None, tables: StoredRecords) -> GraphFile | None:
    if ref.graph is None:
        return None
    path = graph_path(directory, ref, ref.graph.file)
    if old is not None and old.path == path:
        return old
    try:
        return GraphFile(path, rows=ref.graph.rows, crc=ref.graph.crc)
    except (StorageCorrupt, OSError) as error:
        if isinstance(error, OSError) and error.errno not in SPARED:
            raise
        if all(ref.graph != item.graph for item in tables.newest_manifest().segments if item.number == ref.number):
            raise
        logger.warning("graph.damaged path=%s reason=%s reads=exact", path, error)
        return None


def graph_path(directory: Path, segment: SegmentRef, file: str) -> Path:
    return directory / SEGMENTS / str(segment.number) / file


def _assign(
    before: Base, segments: Sequence[SegmentView], alive: Mask, manifest: Manifest
) -> tuple[GrownSlots, list[GrownSlots]]:
    """Say where each slot's vector is, and which slot owns each vector: the newest vector of a live slot.

    Beside a stream of new records only these are looked at. Where anything else has changed, all is written anew, since
    older bases go on being read.
    """
    fresh = before if _rows_only_grew(before.manifest.segments, manifest.segments) else EMPTY_BASE
    known = len(fresh.alive)
    old = [view.owned_slots for view in fresh.segments]
    old += [GrownSlots.empty()] * (len(segments) - len(old))
    firsts = [len(slots.array) for slots in old]
    news = [view.slots[first:] for view, first in zip(segments, firsts, strict=True)]
    are_old_kept = not (fresh.alive & ~alive[:known]).any() and all(not len(slots) or slots.min() >= known for slots in news)
    grow = GrownSlots.grown if are_old_kept else GrownSlots.copied
    placed = grow(fresh.placed, manifest.next_slot)
    owned = [grow(slots, view.rows) for slots, view in zip(old, segments, strict=True)]
    locations, owners = placed.array, [slots.array for slots in owned]
    for position, (view, first) in enumerate(zip(segments, firsts, strict=True)):
        _take_rows(locations, owners, position, view.slots, first)
    changed = known if are_old_kept else 0
    dead = changed + np.flatnonzero((locations[changed:, 0] != NO_SLOT) & ~alive[changed:])
    for position, slots in enumerate(owners):
        here = dead[locations[dead, 0] == position]
        slots[locations[here, 1]] = NO_SLOT
    locations[dead] = NO_SLOT
    return placed, owned


def _take_rows(locations: Slots, owners: list[Slots], position: int, slots: Slots, first: int) -> None:
    """Let rows from `first` on own their slots, newest last; owners that lose a slot are told."""
    rows = np.arange(first, len(slots))
    if not len(rows):
        return
    slots_new = slots[first:]
    if not (slots_new[1:] > slots_new[:-1]).all():
        _, last = np.unique(slots_new[::-1], return_index=True)
        keep = np.sort(len(slots_new) - 1 - last)
        rows, slots_new = rows[keep], slots_new[keep]
    old = locations[slots_new]
    for earlier in range(position + 1):
        lost = old[:, 0] == earlier
        if lost.any():
            owners[earlier][old[lost, 1]] = NO_SLOT
    owners[position][rows] = slots_new
    locations[slots_new, 0] = position
    locations[slots_new, 1] = rows
