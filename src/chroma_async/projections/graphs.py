"""One graph file, built from the vectors of a segment: what is ordered, and how it is done, by whatever process.

An order has all that is needed, so that it can be carried out where its memory ends with it (`graph_process.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from msgspec import Struct

from chroma_async.errors import StorageCorrupt
from chroma_async.index.coding import Coding, chosen_coding, keeps_neighbours
from chroma_async.index.hnsw import GraphBuilder, checksum
from chroma_async.model import HnswConfiguration, Vectors
from chroma_async.projections.manifest import GraphRef, SegmentRef
from chroma_async.projections.view import graph_path, map_vectors, vector_guard

GROW_ROWS: Final = 4096
"""Vectors that are copied at a time on their way into a graph."""

ORDER_FORMAT: Final = 1
"""To be raised when an order or a graph's file changes: a server goes on in memory when another release is installed beneath
it, and what builds its graphs is read from the disk."""


class GraphOrder(Struct, frozen=True):
    """A graph to be built over the vectors of a collection's segment, as of its `rows`, and written to a file beside them.

    `sums` has the CRC-32 of each block of these vectors; none: release 0.1.0 wrote them. A graph that was `begun` is grown,
    if it is whole, was built as is asked for, and still suits.
    """

    directory: str
    segment: SegmentRef
    dimension: int
    sums: list[int]
    begun: GraphRef | None
    configuration: HnswConfiguration
    threads: int
    file: str
    format: int = ORDER_FORMAT

    @property
    def path(self) -> Path:
        """Of the file to be written."""
        return graph_path(Path(self.directory), self.segment, self.file)


class WrittenGraph(Struct, frozen=True):
    """A file that was written: its CRC-32, and whether rows of another kind have made the graph begin again."""

    crc: int
    begun_again: bool


WriteGraph: TypeAlias = Callable[[GraphOrder, Callable[[], bool]], WrittenGraph | None]
"""Carries an order out, without syncing the file; None: it was given up, since the function given says that it is not wanted
any more. What is left of a file then, or after an error, the caller removes.

Raises:
    StorageCorrupt: the vectors are damaged or gone.
    OSError: the disk is full, or the directory gone.
    MemoryError: there is not enough.
"""


def write_graph(order: GraphOrder, is_wanted: Callable[[], bool]) -> WrittenGraph | None:
    """Build and write a graph in this thread; `is_wanted` is asked every second or so. See `WriteGraph`."""
    directory, segment, configuration = Path(order.directory), order.segment, order.configuration
    stored = map_vectors(directory, segment, order.dimension)
    guard = vector_guard(directory, segment, stored, order.sums)
    with stored.in_order() as vectors:
        graph, begun_again = _begun(order, vectors), False
        while graph.rows < segment.rows:
            if not is_wanted():
                return None
            start, beyond = graph.rows, min(graph.rows + GROW_ROWS, segment.rows)
            if guard is not None:
                guard.check(np.arange(start, beyond))
            graph.extend(vectors[start:beyond], threads=order.threads)
            if graph.is_odd(segment.rows):
                begun_again = True
                graph = GraphBuilder.empty(vectors.shape[1], configuration, _next_coding(graph, vectors, configuration))
        graph.check(vectors, threads=order.threads)
        graph.save(order.path, vectors)
    return WrittenGraph(checksum(order.path), begun_again)


def _begun(order: GraphOrder, vectors: Vectors) -> GraphBuilder:
    """The graph to be grown: an empty one, when there is none, or it is damaged, or its coding suits no more."""
    ndim, configuration, begun = vectors.shape[1], order.configuration, order.begun
    directory = Path(order.directory)
    if begun is None or not begun.is_built_as(configuration) or not is_whole(directory, order.segment, begun):
        coding = chosen_coding(configuration.space, vectors) if configuration.precision is None else None
        return GraphBuilder.empty(ndim, configuration, coding)
    graph = GraphBuilder.load(graph_path(directory, order.segment, begun.file), configuration, rows=begun.rows)
    if graph.coding is not None and not keeps_neighbours(graph.coding, vectors):
        return GraphBuilder.empty(ndim, configuration, _next_coding(graph, vectors, configuration))
    return graph


def _next_coding(graph: GraphBuilder, vectors: Vectors, configuration: HnswConfiguration) -> Coding | None:
    """How to code the vectors whose graph's coding does not suit."""
    return chosen_coding(configuration.space, vectors, after=graph.coding)


def is_whole(directory: Path, segment: SegmentRef, graph: GraphRef) -> bool:
    """Whether a graph's file is there as it was written.

    Raises:
        OSError: it can't be told now; see `opened`.
    """
    try:
        return checksum(graph_path(directory, segment, graph.file)) == graph.crc
    except (StorageCorrupt, PermissionError):
        return False
