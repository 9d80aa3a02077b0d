"""A collection's files as the compactor changes them: apply, merge, index, rewrite, heal.

Only the holder of the compactor's lock calls it. Two of its threads may: whoever changes the manifest holds `lock`.

Order of every change: new files are written and synced, then their directories, and then one transaction publishes the
manifest that reaches them, together with the rows. What a crash leaves behind is reached by no manifest, and swept.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from chroma_async.checksums import crc32
from chroma_async.core.columns import ColumnPiece, encoded_parts, merge
from chroma_async.core.memtable import Tail
from chroma_async.core.upkeep import SegmentShape, graph_target, is_worth_rewriting, pieces_to_merge
from chroma_async.errors import StorageCorrupt, Superseded
from chroma_async.model import HnswConfiguration, Lsn, Slots, Space, Vectors
from chroma_async.projections.blocks import extended, rows_of_a_block
from chroma_async.projections.graphs import GraphOrder, WriteGraph, is_whole, write_graph
from chroma_async.projections.manifest import GraphRef, Manifest, PieceRef, PurgeRef, SegmentRef
from chroma_async.projections.records import RecordTables
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
    map_segment,
    vector_guard,
)
from chroma_async.seams import Files

RECORDS_FILE: Final = "records.sqlite3"

LEFT_ALONE_FILE: Final = "left-alone"
"""Says why nothing is applied to a collection, as long as that is so. It may be lost: the next attempt writes it again."""
REWRITE_ROWS_MIN: Final = 1_024
"""A segment of fewer vectors is not worth a file of its own again, unless no segment becomes larger."""

CHECK_AT_OPEN_BYTES: Final = 8 * 2**20
"""Tables of up to this size are checked whole when they are opened, some tens of milliseconds; larger ones by `verify`."""

BlockSums: TypeAlias = dict[tuple[int, int], int]
"""CRC-32 of blocks of vectors, by segment and block."""

logger = logging.getLogger("chroma_async.compactor")


class CollectionStore:
    """Writes one collection's directory."""

    def __init__(self, directory: Path, files: Files, write_graph: WriteGraph = write_graph) -> None:
        self.directory = directory
        self._graph_writer = write_graph
        self.lock = threading.RLock()
        self._files = files
        self._closed = False
        self._unpublished = set[str]()
        """Graphs that are built, or wait for others to be: no manifest reaches them yet, and they are not swept."""
        if not (directory / RECORDS_FILE).exists():  # they are made and synced before it is
            for name in (COLUMNS, SEGMENTS):
                files.make_directory(directory / name)
            files.sync_directory(directory)
            files.sync_directory(directory.parent)
        self.tables = RecordTables(directory / RECORDS_FILE, writable=True)
        self.manifest = self.tables.manifest()

    def close(self) -> None:
        """Close the tables, after whoever works with them."""
        with self.lock:
            self._closed = True
            self.tables.close()

    def base(self) -> Base:
        """What readers see now."""
        with self.tables.transaction():
            return load_base(self.directory, self.manifest, EMPTY_BASE, self.tables)

    # ---- apply

    def apply(self, tail: Tail, *, space: Space, segment_rows_max: int) -> None:
        """Make the outcome of folded entries part of the base; nothing happens at or below the applied LSN.

        Raises:
            Superseded: see `_require_newest`.
            RuntimeError: the entries were folded over another base: rows would get the slots of others.
        """
        if tail.through <= self.manifest.applied:
            return
        if tail.first_slot != self.manifest.next_slot:
            next_slot = self.manifest.next_slot
            raise RuntimeError(f"entries were folded over another base. first={tail.first_slot} next={next_slot}")
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
            space=draft.space if draft.rows else space,
        )
        owned = np.flatnonzero(tail.owners >= 0)
        sums: BlockSums = {}
        draft = self._append_vectors(draft, tail.vectors.take(owned), tail.owners[owned], segment_rows_max, sums)
        for piece in tail.pieces:
            draft = self._add_piece(draft, piece)
        self._publish(draft, tail, sums)

    def _append_vectors(self, draft: Manifest, vectors: Vectors, slots: Slots, rows_max: int, sums: BlockSums) -> Manifest:
        """Append to the growing segment and its successors; the checksums that this changes are put into `sums`."""
        while len(vectors):
            draft, segment = self._growing(draft)
            count = min(len(vectors), max(1, rows_max - segment.rows))
            folder = self.directory / SEGMENTS / str(segment.number)
            part = np.ascontiguousarray(vectors[:count], dtype="<f4")
            part_slots = np.ascontiguousarray(slots[:count], dtype="<i8")
            self._append(folder / VECTORS_FILE, segment.rows * part.shape[1] * 4, part)
            self._append(folder / SLOTS_FILE, segment.rows * 8, part_slots)
            self._files.sync_directory(folder)
            rows = segment.rows + count
            grown = msgspec.structs.replace(segment, rows=rows, sealed=rows >= rows_max)
            if segment.block_rows:
                sums |= self._sums_after(segment, part)
                grown = msgspec.structs.replace(grown, slots_crc=_crc(part_slots, segment.slots_crc or 0))
            draft = msgspec.structs.replace(draft, segments=(*draft.segments[:-1], grown))
            vectors, slots = vectors[count:], slots[count:]
        return draft

    def _sums_after(self, segment: SegmentRef, part: Vectors) -> BlockSums:
        """The checksums of blocks that appending changes: of the last one, which was short, and of new ones."""
        block, inside = divmod(segment.rows, segment.block_rows)
        known: dict[int, int] = {}
        if inside:
            last = self.tables.block_sum(segment.number, block)
            if last is None:
                raise StorageCorrupt(f"checksums of vectors are missing. path={self.directory} segment={segment.number}")
            known[block] = last
        changed = extended(known, segment.rows, part, segment.block_rows)
        return {(segment.number, block): crc for block, crc in changed.items()}

    def _append(self, path: Path, offset: int, data: np.ndarray) -> None:
        self._files.write_at(path, offset, data.data.cast("B"))
        self._files.sync(path)

    def _growing(self, draft: Manifest) -> tuple[Manifest, SegmentRef]:
        if draft.segments and not draft.segments[-1].sealed:
            return draft, draft.segments[-1]
        segment = SegmentRef(number=draft.next_file, rows=0, block_rows=rows_of_a_block(draft.dimension or 0), slots_crc=0)
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
        parts, crc = encoded_parts(piece), 0
        for part in parts:
            crc = crc32(part, crc)
        path = self.directory / COLUMNS / f"{number}.columns"
        self._files.write(path, parts)
        self._files.sync(path)
        self._files.sync_directory(path.parent)
        return PieceRef(file=path.name, rows=len(piece.slots) + len(piece.dead), crc=crc)

    def _require_newest(self) -> None:
        """Stop before a file is written: a successor's manifest may reach rows and files of the same places and numbers.

        Raises:
            Superseded: another compactor has published. The lock prevents that wherever `flock` works.
        """
        if self.tables.version() != self.manifest.version:
            raise Superseded(f"another compactor has published meanwhile. collection={self.directory.name}")

    def _publish(self, draft: Manifest, tail: Tail | None = None, sums: BlockSums | None = None) -> None:
        published = msgspec.structs.replace(draft, version=self.manifest.version + 1)
        with self.tables.transaction(write=True):
            self._require_newest()
            if tail is not None:
                self.tables.apply(tail)
            self.tables.put_block_sums(sums or {})
            gone = {item.number for item in self.manifest.segments} - {item.number for item in published.segments}
            self.tables.forget_block_sums(gone)
            self.tables.publish(published)
        before, self.manifest = self.manifest, published
        self._remove(before.files() - published.files())

    def _remove(self, names: Iterable[str]) -> None:
        """Unlink files that no manifest reaches; readers that have them mapped keep them until they let go."""
        for name in names:
            self._files.remove(self.directory / name)

    # ---- full-text index

    def unindexed_documents(self) -> int:
        """About how many documents the full-text index has to look at."""
        with self.lock:
            return self.tables.text_index.lag()

    def index_documents(self, count: int) -> None:
        """Bring the full-text index nearer to the documents, by up to this many."""
        with self.lock, self.tables.transaction(write=True):
            self.tables.text_index.follow(count)

    # ---- merge

    def merge_pieces(self) -> bool:
        """Merge the newest column files when there are too many; say whether something was done."""
        refs = self.manifest.pieces
        count = pieces_to_merge([ref.rows for ref in refs])
        if not count:
            return False
        self._require_newest()
        kept, merged = refs[:-count], refs[-count:]
        try:
            pieces = [load_piece(self.directory, ref) for ref in merged]
        except StorageCorrupt as error:
            self._rebuild_columns(error)
            return True
        piece = merge(pieces, forget_dead=not kept)
        draft = msgspec.structs.replace(self.manifest, pieces=kept)
        self._publish(self._add_piece(draft, piece))
        return True

    # ---- index

    def build_graphs(
        self,
        configuration: HnswConfiguration,
        *,
        rows_min: int,
        threads: int,
        is_wanted: Callable[[], bool] = lambda: True,
        at_rest: bool = False,
    ) -> bool:
        """Build or grow the graph of the first segment that needs one (`graph_target`); say whether something was done.

        When the collection is configured otherwise than its graphs were built, all of them are built anew.

        The work is done aside, without the store's lock: applying goes on, and the graph covers the rows of its start.
        `is_wanted` is asked every second or so; the work is given up when it says no.
        """
        try:
            if self.manifest.is_built_as(configuration):
                segment = self._segment_without_graph(rows_min, at_rest=at_rest)
                return segment is not None and self._build_next_graph(segment, configuration, threads, is_wanted)
            return self._reindex(configuration, rows_min, threads, is_wanted)
        finally:
            self._remove_unpublished()

    def _build_next_graph(
        self, segment: SegmentRef, configuration: HnswConfiguration, threads: int, is_wanted: Callable[[], bool]
    ) -> bool:
        with self.lock:
            self._require_newest()
        graph = self._build_graph(segment, configuration, threads, is_wanted)
        if graph is None:
            return False
        with self.lock:
            self._publish_graph(segment, graph)
        return True

    def _reindex(self, configuration: HnswConfiguration, rows_min: int, threads: int, is_wanted: Callable[[], bool]) -> bool:
        """Build all graphs anew, while queries go on by the old ones in the old space; one manifest swaps all.

        Until then none is published, not even of a segment that is rewritten meanwhile: its graph is one more to build.
        """
        built: dict[int, GraphRef] = {}
        while True:
            with self.lock:
                segment = self._segment_without_graph(rows_min, built)
                if segment is None:
                    self._swap_graphs(built, configuration.space)
                    return True
            graph = self._build_graph(segment, configuration, threads, is_wanted, anew=True)
            if graph is not None:
                built[segment.number] = graph
            elif not is_wanted():
                return False

    def _remove_unpublished(self) -> None:
        """Remove graphs that were given up, unless another compactor's manifest may reach files of the same names."""
        with self.lock:
            if not self._closed and self.tables.version() == self.manifest.version:
                self._remove(self._unpublished - self.manifest.files())
            self._unpublished.clear()

    def _swap_graphs(self, built: Mapping[int, GraphRef], space: Space) -> None:
        segments = tuple(msgspec.structs.replace(item, graph=built.get(item.number)) for item in self.manifest.segments)
        self._publish(msgspec.structs.replace(self.manifest, segments=segments, space=space))
        logger.info("graphs.swapped collection=%s graphs=%d space=%s", self.directory.name, len(built), space)

    def _segment_without_graph(
        self, rows_min: int, built: Mapping[int, GraphRef] | None = None, *, at_rest: bool = False
    ) -> SegmentRef | None:
        """The first segment that needs a graph, beside those that it has; or, given them, beside those that were built."""
        for segment in self.manifest.segments:
            graph = segment.graph if built is None else built.get(segment.number)
            indexed = 0 if graph is None else graph.rows
            shape = SegmentShape(rows=segment.rows, indexed=indexed, live=segment.rows, sealed=segment.sealed)
            if graph_target(shape, rows_min, at_rest=at_rest) is not None:
                return segment
        return None

    def _build_graph(
        self,
        segment: SegmentRef,
        configuration: HnswConfiguration,
        threads: int,
        is_wanted: Callable[[], bool],
        *,
        anew: bool = False,
    ) -> GraphRef | None:
        """Build a graph, and write it; None: it is not wanted any more, or its segment was rewritten and removed."""
        try:
            return self._write_graph(self._order(segment, configuration, threads, anew=anew), is_wanted)
        except (StorageCorrupt, OSError):
            with self.lock:
                if self._position_of(segment) is not None:
                    raise
            self._note_obsolete(segment)
            return None

    def _position_of(self, segment: SegmentRef) -> int | None:
        numbers = [item.number for item in self.manifest.segments]
        return numbers.index(segment.number) if segment.number in numbers else None

    def _note_obsolete(self, segment: SegmentRef) -> None:
        logger.info("graph.obsolete collection=%s segment=%d", self.directory.name, segment.number)

    def _order(self, segment: SegmentRef, configuration: HnswConfiguration, threads: int, *, anew: bool) -> GraphOrder:
        with self.lock:
            return GraphOrder(
                directory=str(self.directory),
                segment=segment,
                dimension=self.manifest.dimension or 0,
                sums=self._sums_of(segment),
                begun=None if anew else segment.graph,
                configuration=configuration,
                threads=threads,
                file=f"{self.manifest.version}-{segment.rows}.building",
            )

    def _write_graph(self, order: GraphOrder, is_wanted: Callable[[], bool]) -> GraphRef | None:
        segment, configuration, aside = order.segment, order.configuration, order.path
        path = aside.with_suffix(".usearch")
        with self.lock:
            self._unpublished |= {str(item.relative_to(self.directory)) for item in (path, aside)}
        try:
            written = self._graph_writer(order, is_wanted)
            if written is not None:
                self._files.sync(aside)
        except BaseException:
            self._files.remove(aside)  # on a full disk it takes the room that others wait for
            raise
        if written is None:
            return None
        if written.begun_again:
            logger.info("graph.begun_again collection=%s segment=%d", self.directory.name, segment.number)
        self._files.replace(aside, path)
        self._files.sync_directory(path.parent)
        how = (configuration.max_neighbors, configuration.ef_construction, configuration.precision)
        return GraphRef(path.name, segment.rows, written.crc, *how)

    def _sums_of(self, segment: SegmentRef) -> list[int]:
        """The checksums of a segment's vectors as of its rows; the last block may have grown meanwhile."""
        if not segment.block_rows:
            return []
        whole, inside = divmod(segment.rows, segment.block_rows)
        sums = self.tables.block_sums(segment.number)
        now = next((item for item in self.manifest.segments if item.number == segment.number), None)
        if now is None or now.rows == segment.rows or not inside:
            return sums[: whole + bool(inside)]
        vectors, _ = map_segment(self.directory, now, self.manifest.dimension or 0)
        guard = vector_guard(self.directory, now, vectors, sums)
        assert guard is not None
        guard.check(np.arange(whole * segment.block_rows, segment.rows))
        return [*sums[:whole], _crc(vectors[whole * segment.block_rows : segment.rows])]

    def _publish_graph(self, built_for: SegmentRef, graph: GraphRef) -> None:
        """Publish a graph, if its segment is still there: it may have been rewritten meanwhile."""
        position = self._position_of(built_for)
        if position is None:
            self._note_obsolete(built_for)
            return
        grown = msgspec.structs.replace(self.manifest.segments[position], graph=graph)
        self._publish(self._with_segment(position, grown, next_file=self.manifest.next_file))
        logger.info("graph.built collection=%s segment=%d rows=%d", self.directory.name, grown.number, graph.rows)

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
                self._rewrite(position, view)
                return True
        return False

    def _rewrite(self, position: int, view: SegmentView) -> None:
        """Write the vectors of a segment that are some record's into one of their own, a part at a time."""
        rows = np.flatnonzero(view.owners >= 0)
        if not len(rows):
            segments = (*self.manifest.segments[:position], *self.manifest.segments[position + 1 :])
            self._publish(msgspec.structs.replace(self.manifest, segments=segments))
            return
        self._require_newest()
        number = self.manifest.next_file
        folder = self.directory / SEGMENTS / str(number)
        self._files.make_directory(folder)
        block_rows = rows_of_a_block(view.vectors.shape[1])
        found: list[int] = []
        self._files.write(folder / VECTORS_FILE, _blocks_of(view, rows, block_rows, found))
        self._files.sync(folder / VECTORS_FILE)
        owners = np.ascontiguousarray(view.owners[rows], dtype="<i8")
        self._append(folder / SLOTS_FILE, 0, owners)
        self._files.sync_directory(folder)
        self._files.sync_directory(folder.parent)
        sums = {(number, block): crc for block, crc in enumerate(found)}
        sealed = self.manifest.segments[position].sealed
        segment = SegmentRef(number, len(rows), sealed=sealed, block_rows=block_rows, slots_crc=_crc(owners))
        self._publish(self._with_segment(position, segment, next_file=number + 1), sums=sums)
        logger.info("segment.rewritten collection=%s segment=%d rows=%d", self.directory.name, number, len(rows))

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
            self._rebuild_columns()
            self.tables.scrub()
            self.sweep()
            return before - self.manifest.rows

    def publish_purge(self, purge: PurgeRef) -> None:
        """Say that a purge is done, the log's part of it too."""
        with self.lock:
            self._publish(msgspec.structs.replace(self.manifest, purge=purge))

    def _rewrite_first_with_traces(self) -> bool:
        """Rewrite the first segment that has vectors of no record, or rows beyond the published ones, which a crash left."""
        for position, view in enumerate(self.base().segments):
            path = self.directory / SEGMENTS / str(view.number) / VECTORS_FILE
            if view.owned is not None or path.stat().st_size > view.vectors.nbytes:
                self._rewrite(position, view)
                return True
        return False

    # ---- heal

    def heal(self) -> None:
        """Make again what is missing or damaged and follows from other files, and remove what nothing reaches.

        Graphs are dropped, and built later; columns are made from the records. What release 0.1.0 wrote gets checksums.

        Raises:
            StorageCorrupt: the only copy of something is damaged.
            sqlite3.DatabaseError: the tables are.
        """
        if self.tables.size_bytes() <= CHECK_AT_OPEN_BYTES:
            self.heal_tables()
        self._heal_graphs()
        self._heal_columns()
        self._add_checksums()
        self.sweep()

    def heal_tables(self) -> bool:
        """Check the tables; make the indexes in them again when they disagree with the records. Say whether that was done.

        Raises:
            StorageCorrupt: records are damaged.
        """
        problem = self.tables.problem()
        if problem is None:
            return False
        logger.warning("tables.damaged collection=%s reason=%s", self.directory.name, problem)
        self.tables.rebuild_indexes()
        problem = self.tables.problem()
        if problem is not None:
            raise StorageCorrupt(f"records are damaged. path={self.directory / RECORDS_FILE} reason={problem}")
        logger.warning("tables.healed collection=%s", self.directory.name)
        return True

    def _heal_columns(self) -> None:
        for ref in self.manifest.pieces:
            try:
                load_piece(self.directory, ref)
            except (StorageCorrupt, PermissionError) as error:
                self._rebuild_columns(error)
                return

    def _rebuild_columns(self, reason: Exception | None = None) -> None:
        """Make one piece of what the records say, in place of all pieces."""
        with self.tables.transaction():
            piece = self.tables.rebuilt_columns()
        self._publish(self._add_piece(msgspec.structs.replace(self.manifest, pieces=()), piece))
        level = logging.INFO if reason is None else logging.WARNING
        logger.log(level, "columns.rebuilt collection=%s reason=%s", self.directory.name, reason or "asked for")

    def _add_checksums(self) -> None:
        """Give checksums to segments that release 0.1.0 wrote. What is there is believed."""
        self.tables.add_row_checksums()
        sums: BlockSums = {}
        segments: list[SegmentRef] = []
        for segment in self.manifest.segments:
            if not segment.block_rows:
                vectors, slots = map_segment(self.directory, segment, self.manifest.dimension or 0)
                block_rows = rows_of_a_block(vectors.shape[1])
                found = extended({}, 0, vectors, block_rows)
                sums |= {(segment.number, block): crc for block, crc in found.items()}
                segment = msgspec.structs.replace(segment, block_rows=block_rows, slots_crc=_crc(slots))
            segments.append(segment)
        if sums:
            self._publish(msgspec.structs.replace(self.manifest, segments=tuple(segments)), sums=sums)

    def rebuild(self) -> None:
        """Make everything anew that follows from records and vectors; graphs are dropped, and built by `build_graphs`.

        Raises:
            StorageCorrupt: records or vectors are damaged. Nothing was published.
        """
        self.tables.rebuild_indexes()
        problem = self.tables.problem()
        if problem is not None:
            raise StorageCorrupt(f"records are damaged. path={self.directory / RECORDS_FILE} reason={problem}")
        for view in self.base().segments:
            view.check(np.arange(view.rows))
        self._rebuild_columns()
        bare = tuple(msgspec.structs.replace(segment, graph=None) for segment in self.manifest.segments)
        self._publish(msgspec.structs.replace(self.manifest, segments=bare))
        self._add_checksums()
        self.sweep()

    def _heal_graphs(self) -> None:
        for position, segment in enumerate(self.manifest.segments):
            if segment.graph is not None and not is_whole(self.directory, segment, segment.graph):
                logger.warning("graph.dropped collection=%s segment=%d", self.directory.name, segment.number)
                bare = msgspec.structs.replace(segment, graph=None)
                self._publish(self._with_segment(position, bare, next_file=self.manifest.next_file))

    def sweep(self) -> None:
        """Remove files that no manifest reaches nor is going to: what a crash left behind."""
        reached = {self.directory / name for name in self.manifest.files() | self._unpublished}
        found = [*(self.directory / COLUMNS).iterdir(), *(self.directory / SEGMENTS).iterdir()]
        graphs = [path for path in (self.directory / SEGMENTS).glob("*/*") if path.name not in (VECTORS_FILE, SLOTS_FILE)]
        for path in [*found, *graphs]:
            if path not in reached:
                self._files.remove(path)

    def tidy(self) -> bool:
        """Give back the disk that the tables hold for the next changes; False: somebody was reading.

        One that was closed meanwhile holds nothing.
        """
        with self.lock:
            return self._closed or self.tables.tidy()

    @property
    def applied(self) -> Lsn:
        return self.manifest.applied


def _blocks_of(view: SegmentView, rows: Slots, block_rows: int, sums: list[int]) -> Generator[memoryview]:
    """The vectors of some rows, block by block; the checksum of each is added to `sums`.

    Raises:
        StorageCorrupt: they are damaged. What is written anew gets a checksum anew.
    """
    for start in range(0, len(rows), block_rows):
        some = rows[start : start + block_rows]
        view.check(some)
        part = np.ascontiguousarray(view.vectors[some], dtype="<f4")
        sums.append(_crc(part))
        yield part.data.cast("B")


def _crc(array: npt.NDArray[Any], before: int = 0) -> int:
    return crc32(array.data.cast("B"), before)
