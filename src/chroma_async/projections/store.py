"""A collection's files as the compactor changes them: apply, merge, index, rewrite, heal.

Only the holder of the compactor's lock calls it. Two of its threads may: whoever changes the manifest holds `lock`.

Order of every change: new files are written and synced, then their directories, and then one transaction publishes the
manifest that reaches them, together with the rows. What a crash leaves behind is reached by no manifest, and swept.
"""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import numpy as np

from chroma_async.core.columns import ColumnPiece, encode, merge
from chroma_async.core.memtable import Tail
from chroma_async.core.watermarks import SegmentShape, graph_target, is_worth_rewriting, pieces_to_merge
from chroma_async.errors import StorageCorrupt, Superseded
from chroma_async.index.hnsw import checksum, empty_graph, grow, load_graph
from chroma_async.index.usearch import Index
from chroma_async.model import HnswConfiguration, Lsn, Slots, Space, Vectors
from chroma_async.projections.manifest import GraphRef, Manifest, PieceRef, SegmentRef
from chroma_async.projections.records import RecordTables
from chroma_async.projections.view import (
    COLUMNS,
    EMPTY_BASE,
    SEGMENTS,
    SLOTS_FILE,
    VECTORS_FILE,
    Base,
    graph_path,
    load_base,
    load_piece,
    map_segment,
)
from chroma_async.seams import Files

RECORDS_FILE: Final = "records.sqlite3"
GROW_ROWS: Final = 4096
"""Vectors that are copied at a time on their way into a graph."""

REWRITE_ROWS_MIN: Final = 1_024
"""A segment of fewer vectors is not worth a file of its own again, unless no segment becomes larger."""

logger = logging.getLogger("chroma_async.compactor")


class CollectionStore:
    """Writes one collection's directory."""

    def __init__(self, directory: Path, files: Files) -> None:
        self.directory = directory
        self.lock = threading.RLock()
        self._files = files
        for name in (COLUMNS, SEGMENTS):
            files.make_directory(directory / name)
        files.sync_directory(directory)
        files.sync_directory(directory.parent)
        self.tables = RecordTables(directory / RECORDS_FILE, writable=True)
        self.manifest = self.tables.manifest()

    def close(self) -> None:
        self.tables.close()

    def base(self) -> Base:
        """What readers see now."""
        return load_base(self.directory, self.manifest, EMPTY_BASE)

    # ---- apply

    def apply(self, tail: Tail, *, space: Space, segment_rows_max: int) -> None:
        """Make the outcome of folded entries part of the base; nothing happens at or below the applied LSN."""
        if tail.through <= self.manifest.applied:
            return
        assert tail.first_slot == self.manifest.next_slot
        self._require_newest()
        draft = self.manifest
        dimension = draft.dimension if draft.dimension is not None else (tail.vectors.shape[1] or None)
        draft = msgspec.structs.replace(
            draft,
            applied=tail.through,
            next_slot=tail.next_slot,
            live=draft.live + tail.live_delta,
            operations=draft.operations + tail.operations,
            dimension=dimension,
            space=space,
        )
        owned = tail.owners >= 0
        draft = self._append_vectors(draft, tail.vectors[owned], tail.owners[owned], segment_rows_max)
        for piece in tail.pieces:
            draft = self._add_piece(draft, piece)
        self._publish(draft, tail)

    def _append_vectors(self, draft: Manifest, vectors: Vectors, slots: Slots, rows_max: int) -> Manifest:
        while len(vectors):
            draft, segment = self._growing(draft)
            count = min(len(vectors), max(1, rows_max - segment.rows))
            folder = self.directory / SEGMENTS / str(segment.number)
            part = np.ascontiguousarray(vectors[:count], dtype="<f4")
            self._append(folder / VECTORS_FILE, segment.rows * part.shape[1] * 4, part)
            self._append(folder / SLOTS_FILE, segment.rows * 8, np.ascontiguousarray(slots[:count], dtype="<i8"))
            self._files.sync_directory(folder)
            rows = segment.rows + count
            grown = msgspec.structs.replace(segment, rows=rows, sealed=rows >= rows_max)
            draft = msgspec.structs.replace(draft, segments=(*draft.segments[:-1], grown))
            vectors, slots = vectors[count:], slots[count:]
        return draft

    def _append(self, path: Path, offset: int, data: np.ndarray) -> None:
        self._files.write_at(path, offset, data.data.cast("B"))
        self._files.sync(path)

    def _growing(self, draft: Manifest) -> tuple[Manifest, SegmentRef]:
        if draft.segments and not draft.segments[-1].sealed:
            return draft, draft.segments[-1]
        segment = SegmentRef(number=draft.next_file, rows=0)
        self._files.make_directory(self.directory / SEGMENTS / str(segment.number))
        self._files.sync_directory(self.directory / SEGMENTS)
        return (
            msgspec.structs.replace(draft, segments=(*draft.segments, segment), next_file=draft.next_file + 1),
            segment,
        )

    def _add_piece(self, draft: Manifest, piece: ColumnPiece) -> Manifest:
        ref = self._write_piece(draft.next_file, piece)
        return msgspec.structs.replace(draft, pieces=(*draft.pieces, ref), next_file=draft.next_file + 1)

    def _write_piece(self, number: int, piece: ColumnPiece) -> PieceRef:
        data = encode(piece)
        path = self.directory / COLUMNS / f"{number}.columns"
        self._files.write(path, [data])
        self._files.sync(path)
        self._files.sync_directory(path.parent)
        return PieceRef(file=path.name, rows=len(piece.slots) + len(piece.dead), crc=zlib.crc32(data))

    def _require_newest(self) -> None:
        """Stop before a file is written: a successor's manifest may reach rows and files of the same places and numbers.

        Raises:
            Superseded: another compactor has published. The lock prevents that wherever `flock` works.
        """
        if self.tables.version() != self.manifest.version:
            raise Superseded(f"another compactor has published meanwhile. collection={self.directory.name}")

    def _publish(self, draft: Manifest, tail: Tail | None = None) -> None:
        published = msgspec.structs.replace(draft, version=self.manifest.version + 1)
        with self.tables.transaction(write=True):
            self._require_newest()
            if tail is not None:
                self.tables.apply(tail)
            self.tables.publish(published)
        before, self.manifest = self.manifest, published
        self._remove(before.files() - published.files())

    def _remove(self, names: Iterable[str]) -> None:
        """Unlink files that no manifest reaches; readers that have them mapped keep them until they let go."""
        for name in names:
            self._files.remove(self.directory / name)

    # ---- merge

    def merge_pieces(self) -> bool:
        """Merge the newest column files when there are too many; say whether something was done."""
        refs = self.manifest.pieces
        count = pieces_to_merge([ref.rows for ref in refs])
        if not count:
            return False
        self._require_newest()
        kept, merged = refs[:-count], refs[-count:]
        piece = merge([load_piece(self.directory, ref) for ref in merged], forget_dead=not kept)
        draft = msgspec.structs.replace(self.manifest, pieces=kept)
        self._publish(self._add_piece(draft, piece))
        return True

    # ---- index

    def build_graphs(
        self, configuration: HnswConfiguration, *, rows_min: int, threads: int, is_wanted: Callable[[], bool] = lambda: True
    ) -> bool:
        """Build or grow the graph of the first segment that needs one; say whether something was done.

        The work is done aside, without the store's lock: applying goes on, and the graph covers the rows of its start.
        `is_wanted` is asked every second or so; the work is given up when it says no.
        """
        segment = self._segment_without_graph(rows_min)
        if segment is None:
            return False
        with self.lock:
            self._require_newest()
        path = self._write_graph(segment, configuration, threads, is_wanted)
        if path is None:
            return False
        with self.lock:
            self._publish_graph(segment, GraphRef(file=path.name, rows=segment.rows, crc=checksum(path)))
        return True

    def _segment_without_graph(self, rows_min: int) -> SegmentRef | None:
        for segment in self.manifest.segments:
            indexed = 0 if segment.graph is None else segment.graph.rows
            shape = SegmentShape(rows=segment.rows, indexed=indexed, live=segment.rows, sealed=segment.sealed)
            if graph_target(shape, rows_min) is not None:
                return segment
        return None

    def _write_graph(
        self, segment: SegmentRef, configuration: HnswConfiguration, threads: int, is_wanted: Callable[[], bool]
    ) -> Path | None:
        vectors, _ = map_segment(self.directory, segment, self.manifest.dimension or 0)
        graph, first = self._begun_graph(segment, vectors.shape[1], configuration)
        for start in range(first, segment.rows, GROW_ROWS):
            if not is_wanted():
                return None
            grow(graph, vectors[start : start + GROW_ROWS], first=start, threads=threads)
        path = self.directory / SEGMENTS / str(segment.number) / f"{self.manifest.version}-{segment.rows}.usearch"
        aside = path.with_suffix(".building")
        cast("Any", graph).save(str(aside))
        self._files.sync(aside)
        self._files.replace(aside, path)
        self._files.sync_directory(path.parent)
        return path

    def _begun_graph(self, segment: SegmentRef, ndim: int, configuration: HnswConfiguration) -> tuple[Index, int]:
        """The graph to be grown, and the rows in it: none, when there is none or it is damaged."""
        if segment.graph is None or not self._is_whole(segment, segment.graph):
            return empty_graph(ndim, configuration), 0
        return load_graph(graph_path(self.directory, segment, segment.graph), configuration), segment.graph.rows

    def _publish_graph(self, built_for: SegmentRef, graph: GraphRef) -> None:
        """Publish a graph, if its segment is still there: it may have been rewritten meanwhile."""
        for position, segment in enumerate(self.manifest.segments):
            if segment.number == built_for.number:
                grown = msgspec.structs.replace(segment, graph=graph)
                self._publish(self._with_segment(position, grown, next_file=self.manifest.next_file))
                logger.info("graph.built collection=%s segment=%d rows=%d", self.directory.name, segment.number, graph.rows)
                return
        logger.info("graph.obsolete collection=%s segment=%d", self.directory.name, built_for.number)

    def _with_segment(self, position: int, segment: SegmentRef, *, next_file: int) -> Manifest:
        segments = (*self.manifest.segments[:position], segment, *self.manifest.segments[position + 1 :])
        return msgspec.structs.replace(self.manifest, segments=segments, next_file=next_file)

    # ---- reclaim

    def rewrite_segments(self, *, rows_min: int = REWRITE_ROWS_MIN) -> bool:
        """Rewrite the first segment most of whose vectors belong to no record; say whether something was done."""
        if all(segment.rows < rows_min for segment in self.manifest.segments):
            return False
        dead_max = self.manifest.rows - self.manifest.live
        if dead_max * 2 < min(segment.rows for segment in self.manifest.segments if segment.rows >= rows_min):
            return False
        base = self.base()
        for position, view in enumerate(base.segments):
            live = int((view.owners >= 0).sum())
            shape = SegmentShape(rows=view.rows, indexed=0, live=live, sealed=False)
            if view.rows >= rows_min and is_worth_rewriting(shape):
                self._rewrite(position, view.vectors[view.owners >= 0], view.owners[view.owners >= 0])
                return True
        return False

    def _rewrite(self, position: int, vectors: Vectors, owners: Slots) -> None:
        if not len(owners):
            segments = (*self.manifest.segments[:position], *self.manifest.segments[position + 1 :])
            self._publish(msgspec.structs.replace(self.manifest, segments=segments))
            return
        self._require_newest()
        number = self.manifest.next_file
        folder = self.directory / SEGMENTS / str(number)
        self._files.make_directory(folder)
        self._append(folder / VECTORS_FILE, 0, np.ascontiguousarray(vectors, dtype="<f4"))
        self._append(folder / SLOTS_FILE, 0, np.ascontiguousarray(owners, dtype="<i8"))
        self._files.sync_directory(folder)
        self._files.sync_directory(folder.parent)
        sealed = self.manifest.segments[position].sealed
        segment = SegmentRef(number=number, rows=len(owners), sealed=sealed)
        self._publish(self._with_segment(position, segment, next_file=number + 1))
        logger.info("segment.rewritten collection=%s segment=%d rows=%d", self.directory.name, number, len(owners))

    # ---- heal

    def heal(self) -> None:
        """Drop graphs that are missing or damaged, so that they are built again, and remove what nothing reaches."""
        for position, segment in enumerate(self.manifest.segments):
            if segment.graph is not None and not self._is_whole(segment, segment.graph):
                logger.warning("graph.dropped collection=%s segment=%d", self.directory.name, segment.number)
                bare = msgspec.structs.replace(segment, graph=None)
                self._publish(self._with_segment(position, bare, next_file=self.manifest.next_file))
        self.sweep()

    def _is_whole(self, segment: SegmentRef, graph: GraphRef) -> bool:
        try:
            return checksum(graph_path(self.directory, segment, graph)) == graph.crc
        except StorageCorrupt:
            return False

    def sweep(self) -> None:
        """Remove files that no manifest reaches: what a crash left behind."""
        reached = {self.directory / name for name in self.manifest.files()}
        found = [*(self.directory / COLUMNS).iterdir(), *(self.directory / SEGMENTS).iterdir()]
        graphs = [path for path in (self.directory / SEGMENTS).glob("*/*") if path.name not in (VECTORS_FILE, SLOTS_FILE)]
        for path in [*found, *graphs]:
            if path not in reached:
                self._files.remove(path)

    def tidy(self) -> None:
        """Give back the disk that the tables hold for the next changes."""
        with self.lock:
            self.tables.tidy()

    @property
    def applied(self) -> Lsn:
        return self.manifest.applied
