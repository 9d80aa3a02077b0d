"""The nearest records of a read view: segments and tail searched apart, ranked together by exact distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Final

import numpy as np
from msgspec import Struct

from chroma_async.core.memtable import Tail
from chroma_async.core.planner import candidates
from chroma_async.engine.ranking import Neighbours, Ranking, Scored, in_parts, masked, merged, rank, scored_by_scan
from chroma_async.engine.segment_search import SHARED_ROWS_MIN, SegmentSearch
from chroma_async.index.distance import Distances, ranking_scores, ranking_slope, ranking_weights
from chroma_async.index.packing import PackedTail
from chroma_async.index.scan import Scan
from chroma_async.model import Mask, Slots, Space, Vectors
from chroma_async.projections.view import Base, SegmentView
from chroma_async.seams import Share, run_in_turn

TAIL_QUERIES: Final = 32
"""Queries that are compared with the tail by one matrix product."""

TAIL_GATHER_SHARE: Final = 8
"""A filter that leaves less than this part of the tail is answered by copying the rows it leaves."""


class SearchTarget(Struct, frozen=True, eq=False, dict=True):
    """What is searched. `scans` has the scan of each segment that has one, of its first rows or all; `tail_scan` that of the
    tail's first rows, if they are many.

    `hidden`, shape (base.next_slot,), marks slots whose vector in the base is not the current one. What follows from these
    is kept: a target serves all queries of one instant.
    """

    space: Space
    base: Base
    tail: Tail
    scans: Sequence[Scan | None]
    hidden: Mask | None
    ef_search: int
    tail_scan: PackedTail | None = None

    @cached_property
    def segments(self) -> tuple[SegmentSearch, ...]:
        hidden = None if self.hidden is None else self.base.locations[np.flatnonzero(self.hidden)]
        return tuple(
            SegmentSearch(self.space, self.ef_search, segment, scan, self._owned(segment, position, hidden))
            for position, (segment, scan) in enumerate(zip(self.base.segments, self.scans, strict=True))
        )

    def _owned(self, segment: SegmentView, position: int, hidden: Slots | None) -> Mask | None:
        """Rows of a segment that hold the current vector of a record, shape (rows,); None: all of them."""
        rows = None if hidden is None else hidden[hidden[:, 0] == position, 1]
        if rows is None or not len(rows):
            return segment.owned
        owned = np.ones(segment.rows, dtype=np.bool_) if segment.owned is None else segment.owned.copy()
        owned[rows] = False
        return owned

    @cached_property
    def tail_rest(self) -> _TailRest:
        """What is not packed of the tail: fewer rows than a block, nearly always."""
        first = 0 if self.tail_scan is None else self.tail_scan.rows
        rows = self.tail.vectors[first:]
        return _TailRest(first, rows, ranking_weights(self.space, rows))

    @cached_property
    def tail_owned(self) -> Mask | None:
        """Vectors of the tail that are some record's current one; None: the tail has no such vector."""
        owned = self.tail.owners >= 0
        return owned if owned.any() else None


def search(
    target: SearchTarget,
    queries: Vectors,
    masks: Sequence[Mask | None],
    counts: Sequence[int],
    share: Share = run_in_turn,
) -> list[Neighbours]:
    """Return min(counts[i], matches) nearest records for each query i, shape (queries, ndim).

    `masks[i]`, shape (next_slot,), says which slots may be returned; None: all. Each segment is a part of the search, and so
    is the tail; `share` runs them where more than one takes long.
    """
    pieces: list[Callable[[], list[Neighbours]]] = []
    long = 0
    for segment in target.segments:
        chosen = segment.choose(masks, counts)
        long += segment.takes_long(chosen)
        pieces.append(partial(segment.run, queries, counts, chosen))
    if target.tail_owned is not None:
        long += len(target.tail_owned) >= SHARED_ROWS_MIN
        pieces.append(partial(_search_tail, target, target.tail_owned, queries, masks, counts))
    parts = share(pieces) if long > 1 else run_in_turn(pieces)
    return [merged([part[number] for part in parts], count) for number, count in enumerate(counts)]


def _search_tail(
    target: SearchTarget, owned: Mask, queries: Vectors, masks: Sequence[Mask | None], counts: Sequence[int]
) -> list[Neighbours]:
    """Scan the packed rows, and compare with all others where they are: copying those that count would cost more."""
    owners, fetch = target.tail.owners, target.tail.vectors.take
    found: dict[int, Neighbours] = {}
    alike: dict[int, tuple[Mask, Slots]] = {}
    scanned: list[int] = []
    for number, (query, mask, count) in enumerate(zip(queries, masks, counts, strict=True)):
        if id(mask) not in alike:  # the queries of one call have one mask
            allowed = owned if mask is None else owned & mask[np.maximum(owners, 0)]
            alike[id(mask)] = allowed, np.flatnonzero(allowed)
        rows = alike[id(mask)][1]
        if len(rows) <= max(4 * candidates(count), len(owned) // TAIL_GATHER_SHARE):
            found[number] = rank(target.space, query, fetch, rows, owners, count)
        else:
            scanned.append(number)
    for numbers in in_parts(scanned, TAIL_QUERIES):
        allowed_by = [alike[id(masks[number])][0] for number in numbers]
        its_counts = [counts[number] for number in numbers]
        found.update(zip(numbers, _scan_tail(target, queries[numbers], allowed_by, its_counts), strict=True))
    return [found[number] for number in range(len(queries))]


def _scan_tail(target: SearchTarget, queries: Vectors, allowed: Sequence[Mask], counts: Sequence[int]) -> list[Neighbours]:
    """The nearest of a tail's rows that are allowed: of those that are packed, and of the rest."""
    space, owners, packed, rest = target.space, target.tail.owners, target.tail_scan, target.tail_rest
    parts: list[list[Neighbours]] = []
    if packed is not None:
        masks = [mask[: packed.rows] for mask in allowed]
        scored = scored_by_scan(packed.scan.judged(queries), masks, rows=packed.rows, skip=packed.skip)
        parts.append(Ranking(space, queries, target.tail.vectors.take, owners, scored).nearest(counts))
    if len(rest.rows):
        masks = [mask[rest.first :] for mask in allowed]
        lines = masked(ranking_scores(space, queries, rest.rows, rest.weights), masks)
        slopes = np.asarray([ranking_slope(space, query) for query in queries])
        scored = Scored(lines, masks, slopes, np.ones(len(queries), dtype=np.bool_))
        parts.append(Ranking(space, queries, rest.fetch, owners[rest.first :], scored).nearest(counts))
    return [merged([part[number] for part in parts], count) for number, count in enumerate(counts)]


class _TailRest(Struct, frozen=True, eq=False):
    """A tail's vectors from `first` on, those that are not packed, shape (n, ndim), and what their scores are made with."""

    first: int
    rows: Vectors
    weights: Distances | None

    def fetch(self, rows: Slots) -> Vectors:
        return self.rows.take(rows, axis=0)
