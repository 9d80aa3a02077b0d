"""A base that a process has open, and the tail that it has folded over it."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from chroma_async.core.memtable import Memtable
from chroma_async.core.planner import SCAN_BYTES_MAX
from chroma_async.engine.read_view import Image
from chroma_async.engine.row_cache import BaseRows
from chroma_async.index.packing import TailScan
from chroma_async.index.scan import Scan
from chroma_async.model import Lsn
from chroma_async.projections.fold import fold_entry
from chroma_async.projections.manifest import Manifest
from chroma_async.projections.records import RecordTables
from chroma_async.projections.view import Base, SegmentView


class OpenBase:
    """A base, and what is derived of it alone. Whoever has its reader's lock may change it."""

    def __init__(self, base: Base, rows: BaseRows) -> None:
        self.base = base
        self.rows = rows
        """Rows that results had lately."""
        self.gave_up_packing = False
        """Whether packing has failed."""
        self.scans: tuple[Scan | None, ...] = ()
        """What is packed of each segment, its first rows; what is not yet, or won't be, is searched in another way."""
        self.is_packed = True
        """Whether that is all that can be."""
        self._image: Image | None = None
        self.use_packed()

    @property
    def manifest(self) -> Manifest:
        return self.base.manifest

    @property
    def is_open(self) -> bool:
        """Whether there are files; a base of nothing has none."""
        return bool(self.base.manifest.version)

    def use_packed(self) -> None:
        """Have searches use what is packed by now."""
        segments = self.base.segments
        self.scans = tuple(segment.scan.latest if _is_scanned(segment) else None for segment in segments)
        self.is_packed = all(
            not _is_scanned(segment) or segment.is_covered(scan) for segment, scan in zip(segments, self.scans, strict=True)
        )
        self._image = None

    def to_be_packed(self) -> list[SegmentView]:
        """Segments of which rows are to be packed."""
        return [segment for segment in self.base.segments if _is_scanned(segment) and not segment.is_packed]

    def image(self) -> Image:
        """Of what was applied, without a tail."""
        if self._image is None:
            manifest = self.manifest
            nothing = Memtable(applied=manifest.applied, next_slot=manifest.next_slot).tail(columns=True)
            self._image = Image(self.base, nothing, self.scans, TailScan(), has_columns=True, has_tail=False)
        return self._image


class FoldedTail(Struct, frozen=True):
    """Entries that were folded, and their vectors packed."""

    memtable: Memtable
    scan: TailScan

    @staticmethod
    def nothing_over(base: Base) -> FoldedTail:
        manifest = base.manifest
        return FoldedTail(Memtable(applied=manifest.applied, next_slot=manifest.next_slot), TailScan())

    @property
    def through(self) -> Lsn:
        """Entries through this LSN are in it, or in the base below."""
        return self.memtable.through

    @property
    def applied(self) -> Lsn:
        """Entries through this LSN are in the base that it is folded over."""
        return self.memtable.applied

    def fold(self, entries: Iterable[tuple[Lsn, bytes]], tables: RecordTables | None) -> None:
        """Fold those that are not in it; `tables` are those of the base, None: it is empty."""
        for lsn, payload in entries:
            if lsn > self.memtable.through:
                fold_entry(self.memtable, lsn, payload, tables)

    def over(self, newer: Base, older: Base) -> FoldedTail | None:
        """The same over a newer base than the one that it was folded over; None: that one has more."""
        manifest = newer.manifest
        if not self.applied <= manifest.applied <= self.through:
            return None
        rebased = self.memtable.rebased(applied=manifest.applied, next_slot=manifest.next_slot)
        return FoldedTail(rebased, self.scan if manifest.space == older.manifest.space else TailScan())


def _is_scanned(segment: SegmentView) -> bool:
    """Whether a segment's rows are to be packed: there are some beyond its graph, and not too many."""
    ndim = int(segment.vectors.shape[1])
    return 0 < (segment.rows - segment.scan_first) * ndim <= SCAN_BYTES_MAX
