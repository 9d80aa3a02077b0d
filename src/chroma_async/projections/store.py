"""A collection's files as the compactor changes them: what entries say is applied, columns are merged, segments rewritten.

Graphs are built by `graph_builds.py`, and what is damaged is made again by `heal.py`.

Only the holder of the compactor's lock calls it. Two of its threads may: whoever changes the manifest holds `lock`.

Order of every change: new files are written and synced, then their directories, and then one transaction publishes the
manifest that reaches them, together with the rows. What a crash leaves behind is reached by no manifest, and swept.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from chroma_async.checksums import crc32
from chroma_async.core.columns import ColumnPiece, encoded_parts, merge
from chroma_async.core.memtable import Tail
from chroma_async.core.upkeep import SegmentShape, is_worth_rewriting, pieces_to_merge
from chroma_async.errors import StorageCorrupt, Superseded
from chroma_async.model import Lsn, Space
from chroma_async.projections.graphs import WriteGraph, write_graph
from chroma_async.projections.manifest import Manifest, PieceRef, PurgeRef
from chroma_async.projections.records import RecordTables
from chroma_async.projections.segment_files import BlockSums, SegmentFiles
from chroma_async.projections.view import (
    COLUMNS,
    EMPTY_BASE,
    SEGMENTS,
    SLOTS_FILE,
    VECTORS_FILE,
    Base,
    SegmentView,
    load_base,
    load_piece,
)
from chroma_async.seams import Files

RECORDS_FILE: Final = "records.sqlite3"

LEFT_ALONE_FILE: Final = "left-alone"
"""Says why nothing is applied to a collection, as long as that is so. It may be lost: the next attempt writes it again."""

REWRITE_ROWS_MIN: Final = 1_024
"""Fewer vectors than this, or half a segment, are not worth a file of their own again."""

CHECK_AT_OPEN_BYTES: Final = 8 * 2**20
"""Tables of up to this size are checked whole when they are opened, some tens of milliseconds; larger ones by `verify`."""

logger = logging.getLogger("chroma_async.compactor")


class CollectionStore:
    """One collection's directory, as whoever compacts changes it."""

    def __init__(self, directory: Path, files: Files, write_graph: WriteGraph = write_graph) -> None:
        """Open a collection's tables; make them and its directory when they are absent. `write_graph` is for `build_graphs`.

        Raises:
            FormatError, StorageCorrupt, sqlite3.DatabaseError: the tables or their manifest can't be read.
        """
        self.directory = directory
        self.files = files
        self.write_graph = write_graph
        self.lock = threading.RLock()
        self.is_closed = False
        self.unpublished = set[str]()
        """Graphs that are built, or wait for others to be: no manifest reaches them yet, and they are not swept."""
        if not (directory / RECORDS_FILE).exists():  # they are made and synced before it is
            for name in (COLUMNS, SEGMENTS):
                files.make_directory(directory / name)
            files.sync_directory(directory)
            files.sync_directory(directory.parent)
        self.tables = RecordTables(directory / RECORDS_FILE, writable=True)
        self._segment_files = SegmentFiles(directory, files, self.tables)
        self.manifest = self.tables.manifest()

    def close(self) -> None:
        """Close the tables, after whoever works with them."""
        with self.lock:
            self.is_closed = True
            self.tables.close()

    def base(self) -> Base:
        """What readers see now."""
        with self.tables.transaction():
            return load_base(self.directory, self.manifest, EMPTY_BASE, self.tables)

    # ---- apply

    @property
    def applied(self) -> Lsn:
        return self.manifest.applied

    def apply(self, tail: Tail, *, space: Space, segment_rows_max: int) -> None:
        """Make the outcome of folded entries part of the base; nothing happens at or below the applied LSN.

        Raises:
            Superseded: see `require_newest`.
            StorageCorrupt: the entries have vectors of another dimension than the records: they belong to another state.
            RuntimeError: the entries were folded over another base: rows would get the slots of others.
        """
        if tail.through <= self.manifest.applied:
            return
        if tail.first_slot != self.manifest.next_slot:
            next_slot = self.manifest.next_slot
            raise RuntimeError(f"entries were folded over another base. first={tail.first_slot} next={next_slot}")
        self.require_newest()
        draft = self.manifest
        dimension = draft.dimension if draft.dimension is not None else (tail.vectors.shape[1] or None)
        if len(tail.vectors) and tail.vectors.shape[1] != dimension:
            reason = "entries of the log have vectors of another dimension than the records: restore both from one backup. "
            raise StorageCorrupt(f"{reason}path={self.directory} log={tail.vectors.shape[1]} records={dimension}")
        draft = msgspec.structs.replace(
            draft,
            applied=tail.through,
            next_slot=tail.next_slot,
            live=draft.live + tail.live_delta,
            operations=draft.operations + tail.operations,
            dimension=dimension,
            space=draft.space if draft.rows else space,
        )
        owned = np.flatnonzero(tail.owners >= 0)
        draft, sums = self._segment_files.append(draft, tail.vectors.take(owned), tail.owners[owned], segment_rows_max)
        for piece in tail.pieces:
            draft = self._add_piece(draft, piece)
        self.publish(draft, tail, sums)

    # ---- publish

    def require_newest(self) -> None:
        """Stop before a file is written: a successor's manifest may reach rows and files of the same places and numbers.

        Raises:
            Superseded: another compactor has published. The lock prevents that wherever `flock` works.
        """
        if self.tables.version() != self.manifest.version:
            raise Superseded(f"another compactor has published meanwhile. collection={self.directory.name}")

    def publish(self, draft: Manifest, tail: Tail | None = None, sums: BlockSums | None = None) -> None:
        """Make a draft the manifest, in one transaction with the rows of `tail` and the checksums that change.

        Files that only the manifest before it has reached are removed.

        Raises:
            Superseded: see `require_newest`.
        """
        published = msgspec.structs.replace(draft, version=self.manifest.version + 1)
        with self.tables.transaction(write=True):
            self.require_newest()
            if tail is not None:
                self.tables.apply(tail)
            self.tables.put_block_sums(sums or {})
            gone = {item.number for item in self.manifest.segments} - {item.number for item in published.segments}
            self.tables.forget_block_sums(gone)
            self.tables.publish(published)
        before, self.manifest = self.manifest, published
        self.remove(before.files() - published.files())

    def publish_purge(self, purge: PurgeRef) -> None:
        """Say that a purge is done, the log's part of it too."""
        with self.lock:
            self.publish(msgspec.structs.replace(self.manifest, purge=purge))

    def remove(self, names: Iterable[str]) -> None:
        """Unlink files that no manifest reaches; readers that have them mapped keep them until they let go."""
        for name in names:
            self.files.remove(self.directory / name)

    def sweep(self) -> None:
        """Remove files that no manifest reaches nor is going to: what a crash left behind."""
        reached = {self.directory / name for name in self.manifest.files() | self.unpublished}
        found = [*(self.directory / COLUMNS).iterdir(), *(self.directory / SEGMENTS).iterdir()]
        graphs = [path for path in (self.directory / SEGMENTS).glob("*/*") if path.name not in (VECTORS_FILE, SLOTS_FILE)]
        for path in [*found, *graphs]:
            if path not in reached:
                self.files.remove(path)

    # ---- columns

    def merge_pieces(self) -> bool:
        """Merge the newest column files when there are too many; say whether something was done."""
        refs = self.manifest.pieces
        count = pieces_to_merge([ref.rows for ref in refs])
        if not count:
            return False
        self.require_newest()
        kept, merged = refs[:-count], refs[-count:]
        try:
            pieces = [load_piece(self.directory, ref) for ref in merged]
        except StorageCorrupt as error:
            self.rebuild_columns(error)
            return True
        piece = merge(pieces, forget_dead=not kept)
        draft = msgspec.structs.replace(self.manifest, pieces=kept)
        self.publish(self._add_piece(draft, piece))
        return True

    def rebuild_columns(self, reason: Exception | None = None) -> None:
        """Make one piece of what the records say, in place of all pieces.

        Raises:
            StorageCorrupt: records are damaged.
        """
        with self.tables.transaction():
            piece = self.tables.rebuilt_columns()
        self.publish(self._add_piece(msgspec.structs.replace(self.manifest, pieces=()), piece))
        level = logging.INFO if reason is None else logging.WARNING
        logger.log(level, "columns.rebuilt collection=%s reason=%s", self.directory.name, reason or "asked for")

    def _add_piece(self, draft: Manifest, piece: ColumnPiece) -> Manifest:
        ref = self._write_piece(draft.next_file, piece)
        return msgspec.structs.replace(draft, pieces=(*draft.pieces, ref), next_file=draft.next_file + 1)

    def _write_piece(self, number: int, piece: ColumnPiece) -> PieceRef:
        parts, crc = encoded_parts(piece), 0
        for part in parts:
            crc = crc32(part, crc)
        path = self.directory / COLUMNS / f"{number}.columns"
        self.files.write(path, parts)
        self.files.sync(path)
        self.files.sync_directory(path.parent)
        return PieceRef(file=path.name, rows=len(piece.slots) + len(piece.dead), crc=crc)

    # ---- segments

    def rewrite_segments(self, *, segment_rows_max: int) -> bool:
        """Rewrite the first segment most of whose vectors belong to no record; say whether something was done.

        Few vectors of a sealed one get no file of their own again: the growing one takes them.
        """
        rows_min = min(REWRITE_ROWS_MIN, segment_rows_max // 2)
        candidates = {item.number for item in self.manifest.segments if item.sealed or item.rows >= rows_min}
        dead_max = self.manifest.rows - self.manifest.live
        if all(dead_max * 2 < item.rows for item in self.manifest.segments if item.number in candidates):
            return False
        for ref, view in zip(self.manifest.segments, self.base().segments, strict=True):
            live = int((view.owners >= 0).sum())
            shape = SegmentShape(rows=view.rows, indexed=0, live=live, sealed=ref.sealed)
            if ref.number in candidates and is_worth_rewriting(shape):
                if ref.sealed and 0 < live < rows_min:
                    self._move(view, segment_rows_max)
                else:
                    self._rewrite(view)
                return True
        return False

    def _move(self, view: SegmentView, segment_rows_max: int) -> None:
        """Append the vectors of a sealed segment that are some record's to the growing one, and drop it."""
        self.require_newest()
        rows = np.flatnonzero(view.owners >= 0)
        view.check(rows)
        draft = self.manifest.replacing(view.number)
        draft, sums = self._segment_files.append(draft, view.stored.take(rows), view.owners[rows], segment_rows_max)
        self.publish(draft, sums=sums)
        logger.info("segment.moved collection=%s segment=%d rows=%d", self.directory.name, view.number, len(rows))

    def _rewrite(self, view: SegmentView) -> None:
        """Write the vectors of a segment that are some record's into one of their own, or drop it where none is."""
        if not (view.owners >= 0).any():
            self.publish(self.manifest.replacing(view.number))
            return
        self.require_newest()
        number = self.manifest.next_file
        segment, sums = self._segment_files.write_owned(number, view)
        before = self.manifest.segment(view.number)
        sealed = before is not None and before.sealed
        draft = self.manifest.replacing(view.number, msgspec.structs.replace(segment, sealed=sealed))
        self.publish(msgspec.structs.replace(draft, next_file=number + 1), sums=sums)
        logger.info("segment.rewritten collection=%s segment=%d rows=%d", self.directory.name, number, segment.rows)

    # ---- purge

    def purge(self) -> int:
        """Leave no bytes of deleted or replaced records in any file; return how many vectors belonged to no record.

        Raises:
            StorageCorrupt: records or vectors are damaged.
            UnavailableError: somebody reads the tables, so that their journal can't be emptied. Where somebody did from the
                beginning, nothing was rewritten.
        """
        with self.lock:
            self.tables.check_unread()
            before = self.manifest.rows
            while self._rewrite_first_with_traces():
                pass
            self.rebuild_columns()
            self.tables.scrub()
            self.sweep()
            return before - self.manifest.rows

    def _rewrite_first_with_traces(self) -> bool:
        """Rewrite the first segment that has vectors of no record, or rows beyond the published ones, which a crash left."""
        for view in self.base().segments:
            path = self.directory / SEGMENTS / str(view.number) / VECTORS_FILE
            if view.owned is not None or path.stat().st_size > view.vectors.nbytes:
                self._rewrite(view)
                return True
        return False

    # ---- tables

    def unindexed_documents(self) -> int:
        """About how many documents the full-text index has to look at."""
        with self.lock:
            return self.tables.text_index.lag()

    def index_documents(self, count: int) -> None:
        """Bring the full-text index nearer to the documents, by up to this many."""
        with self.lock, self.tables.transaction(write=True):
            self.tables.text_index.follow(count)

    def tidy(self) -> bool:
        """Give back the disk that the tables hold for the next changes; False: somebody was reading.

        One that was closed meanwhile holds nothing.
        """
        with self.lock:
            return self.is_closed or self.tables.tidy()
