"""What the compactor does about segments, graphs and column pieces: pure decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from chroma_async.core.planner import SCAN_BYTES_MAX

PIECES_MAX: Final = 12
"""Column pieces before the newest are merged: a filter visits each piece."""

SEGMENT_ROWS: Final = 262_144
"""Vectors of a segment whose graph is built by a process that does other work too."""

SEGMENT_ROWS_MAX: Final = 524_288
"""Of a segment whose graph has a process of its own: its memory is no more than 300 MB
(docs/decisions/0028-graphs-by-a-process-of-their-own.md)."""


def segment_rows(ndim: int, *, apart: bool) -> int:
    """How many vectors of `ndim` dimensions a segment takes before another one begins.

    Half as many graphs are searched in two thirds of the time, but what builds a graph has all of it in memory. `apart`: it
    is built by a process of its own. Then they are no more than may be packed while there is none.
    """
    if not apart:
        return SEGMENT_ROWS
    return min(max(SCAN_BYTES_MAX // max(1, ndim), SEGMENT_ROWS), SEGMENT_ROWS_MAX)


class SegmentShape(Struct, frozen=True):
    """Counts of one segment: its vectors, how many of them have a graph, how many are still owned by a record."""

    rows: int
    indexed: int
    live: int
    sealed: bool


REST_SHARE: Final = 32
REST_ROWS_SHARE: Final = 8
"""While nothing else is to be done a graph grows by one part in so many, and no fewer rows than so large a part of what a
first graph needs: these are scanned in a tenth of the time of a search."""


def graph_target(segment: SegmentShape, rows_min: int, *, at_rest: bool = False) -> int | None:
    """Return the number of rows that the segment's graph should cover, or None to leave it.

    A first graph is worth its cost from `rows_min` rows on; later the graph grows when the rows without one reach a
    quarter of those with one, so that a vector is inserted about once and a scan beside the graph stays small. `at_rest`:
    nobody writes, so that no more rows would come along.
    """
    waiting = segment.rows - segment.indexed
    threshold = rows_min if segment.indexed == 0 else max(1, min(rows_min, segment.indexed // 4))
    if at_rest and segment.indexed:
        threshold = min(threshold, max(rows_min // REST_ROWS_SHARE, segment.indexed // REST_SHARE, 1))
    return segment.rows if waiting >= threshold else None


def pieces_to_merge(sizes: Sequence[int]) -> int:
    """Return how many of the newest pieces to merge into one (0: none), given sizes from oldest to newest.

    The newest pieces are merged until each remaining one is at least twice as large as the sum of the newer ones, as in
    a binary counter: every row is rewritten a logarithmic number of times.
    """
    if len(sizes) <= 1:
        return 0
    total, count = sizes[-1], 1
    for size in reversed(sizes[:-1]):
        if size >= 2 * total and len(sizes) - count < PIECES_MAX:
            break
        total += size
        count += 1
    return count if count > 1 else 0


def is_worth_rewriting(segment: SegmentShape, dead_share_max: float = 0.5) -> bool:
    """Whether more than this share of the segment's vectors belongs to no record any more."""
    return segment.rows > 0 and (segment.rows - segment.live) / segment.rows > dead_share_max
