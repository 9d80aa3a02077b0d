"""Graphs of a store's segments: which one is due, built aside while applying goes on, then published by one manifest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from chroma_async.core.upkeep import SegmentShape, graph_target
from chroma_async.errors import StorageCorrupt
from chroma_async.model import HnswConfiguration
from chroma_async.projections.graphs import GraphOrder
from chroma_async.projections.manifest import GraphRef, SegmentRef
from chroma_async.projections.segment_files import crc_of
from chroma_async.projections.store import CollectionStore
from chroma_async.projections.view import map_vectors, vector_guard

logger = logging.getLogger("chroma_async.compactor")


def build_graphs(
    store: CollectionStore,
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
    builds = _Builds(store, configuration, rows_min, threads, is_wanted)
    try:
        if store.manifest.is_built_as(configuration):
            return builds.build_next(at_rest=at_rest)
        return builds.build_all_anew()
    finally:
        builds.remove_what_was_given_up()


class _Builds(msgspec.Struct, frozen=True):
    """Graphs as one configuration asks for them."""

    store: CollectionStore
    configuration: HnswConfiguration
    rows_min: int
    threads: int
    is_wanted: Callable[[], bool]

    def build_next(self, *, at_rest: bool) -> bool:
        """Build or grow one graph, and publish it."""
        graphs = {item.number: item.graph for item in self.store.manifest.segments if item.graph is not None}
        segment = self._segment_due(graphs, at_rest=at_rest)
        if segment is None:
            return False
        with self.store.lock:
            self.store.require_newest()
        graph = self._build(segment, begun=segment.graph)
        if graph is None:
            return False
        with self.store.lock:
            self._publish(segment, graph)
        return True

    def build_all_anew(self) -> bool:
        """Build all graphs anew, while queries go on by the old ones in the old space; one manifest swaps all.

        Until then none is published, not even of a segment that is rewritten meanwhile: its graph is one more to build.
        """
        built: dict[int, GraphRef] = {}
        while True:
            with self.store.lock:
                segment = self._segment_due(built)
                if segment is None:
                    self._swap(built)
                    return True
            graph = self._build(segment, begun=None)
            if graph is not None:
                built[segment.number] = graph
            elif not self.is_wanted():
                return False

    def remove_what_was_given_up(self) -> None:
        """Remove graphs that no manifest reaches, unless another compactor's may reach files of the same names."""
        store = self.store
        with store.lock:
            if not store.is_closed and store.tables.version() == store.manifest.version:
                store.remove(store.unpublished - store.manifest.files())
            store.unpublished.clear()

    def _segment_due(self, graphs: Mapping[int, GraphRef], *, at_rest: bool = False) -> SegmentRef | None:
        """The first segment that needs a graph beside these, by segment, or a larger one than it has there."""
        for segment in self.store.manifest.segments:
            graph = graphs.get(segment.number)
            indexed = 0 if graph is None else graph.rows
            shape = SegmentShape(rows=segment.rows, indexed=indexed, live=segment.rows, sealed=segment.sealed)
            if graph_target(shape, self.rows_min, at_rest=at_rest) is not None:
                return segment
        return None

    # ---- building, without the store's lock

    def _build(self, segment: SegmentRef, begun: GraphRef | None) -> GraphRef | None:
        """Build a graph, and write it; None: it is not wanted any more, or its segment was rewritten and removed."""
        try:
            return self._write(self._order(segment, begun))
        except (StorageCorrupt, OSError):
            with self.store.lock:
                if self.store.manifest.segment(segment.number) is not None:
                    raise
            self._note_obsolete(segment)
            return None

    def _order(self, segment: SegmentRef, begun: GraphRef | None) -> GraphOrder:
        with self.store.lock:
            return GraphOrder(
                directory=str(self.store.directory),
                segment=segment,
                dimension=self.store.manifest.dimension or 0,
                sums=self._sums_of(segment),
                begun=begun,
                configuration=self.configuration,
                threads=self.threads,
                file=f"{self.store.manifest.version}-{segment.rows}.building",
            )

    def _sums_of(self, segment: SegmentRef) -> list[int]:
        """The checksums of a segment's vectors as of its rows; the last block may have grown meanwhile."""
        if not segment.block_rows:
            return []
        directory, manifest = self.store.directory, self.store.manifest
        whole, inside = divmod(segment.rows, segment.block_rows)
        sums = self.store.tables.block_sums(segment.number)
        now = manifest.segment(segment.number)
        if now is None or now.rows == segment.rows or not inside:
            return sums[: whole + bool(inside)]
        vectors = map_vectors(directory, now, manifest.dimension or 0)
        guard = vector_guard(directory, now, vectors, sums)
        assert guard is not None
        guard.check(np.arange(whole * segment.block_rows, segment.rows))
        return [*sums[:whole], crc_of(vectors.vectors[whole * segment.block_rows : segment.rows])]

    def _write(self, order: GraphOrder) -> GraphRef | None:
        files, aside = self.store.files, order.path
        path = aside.with_suffix(".usearch")
        with self.store.lock:
            self.store.unpublished |= {str(item.relative_to(self.store.directory)) for item in (path, aside)}
        try:
            written = self.store.write_graph(order, self.is_wanted)
            if written is not None:
                files.sync(aside)
        except BaseException:
            files.remove(aside)  # on a full disk it takes the room that others wait for
            raise
        if written is None:
            return None
        if written.begun_again:
            logger.info("graph.begun_again collection=%s segment=%d", self.store.directory.name, order.segment.number)
        files.replace(aside, path)
        files.sync_directory(path.parent)
        how = (self.configuration.max_neighbors, self.configuration.ef_construction, self.configuration.precision)
        return GraphRef(path.name, order.segment.rows, written.crc, *how)

    # ---- publishing, with it

    def _publish(self, built_for: SegmentRef, graph: GraphRef) -> None:
        """Publish a graph, if its segment is still there: it may have been rewritten meanwhile."""
        segment = self.store.manifest.segment(built_for.number)
        if segment is None:
            self._note_obsolete(built_for)
            return
        grown = msgspec.structs.replace(segment, graph=graph)
        self.store.publish(self.store.manifest.replacing(segment.number, grown))
        logger.info("graph.built collection=%s segment=%d rows=%d", self.store.directory.name, segment.number, graph.rows)

    def _swap(self, built: Mapping[int, GraphRef]) -> None:
        """Publish these graphs in place of all that there are, and the space that they were built for."""
        manifest, space = self.store.manifest, self.configuration.space
        segments = tuple(msgspec.structs.replace(item, graph=built.get(item.number)) for item in manifest.segments)
        self.store.publish(msgspec.structs.replace(manifest, segments=segments, space=space))
        logger.info("graphs.swapped collection=%s graphs=%d space=%s", self.store.directory.name, len(built), space)

    def _note_obsolete(self, segment: SegmentRef) -> None:
        logger.info("graph.obsolete collection=%s segment=%d", self.store.directory.name, segment.number)
