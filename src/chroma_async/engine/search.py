"""The nearest records of a read view: segments and tail searched apart, ranked together by exact distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from chroma_async.core.memtable import Tail
from chroma_async.core.planner import (
    CompareCodes,
    Plan,
    ScanPacked,
    SearchGraph,
    SegmentCounts,
    candidates,
    plan_search,
)
from chroma_async.index.distance import (
    Distances,
    at_each,
    distances,
    distances_of_each,
    ranking_scores,
    ranking_slope,
    ranking_weights,
    smallest_of_each,
)
from chroma_async.index.hnsw import GraphFile
from chroma_async.index.scan import BLOCK_ROWS, Judged, PackedTail, Scan
from chroma_async.model import Mask, Slots, Space, Vectors
from chroma_async.projections.view import Base, SegmentView
from chroma_async.seams import Share, run_in_turn

ALL_FROM_SHARE: Final = 4
"""Rows are not chosen by their scores where more than one of so many would be: all that may be near are compared."""

WIDEN: Final = 4
"""No more than so many times as many rows are compared where candidates leave doubt, before all that may be near."""

SCORES_BYTES_MAX: Final = 32 * 2**20
"""Scores of a scan that are there at once: of a larger batch it takes the queries in parts."""

COMPARED_BYTES_MAX: Final = 8 * 2**20
"""Vectors of candidates that are compared at once, likewise."""

MARGIN_BEYOND: Final = 0.1
"""More rows show more errors, so where there is doubt rows are taken by this much more of the spread than will be asked for:
then nearly all queries are settled; with nothing more a third of them was."""

CHUNK_ROWS: Final = 8_192
"""Rows that are compared at a time when a segment is read from the disk."""

SLICE_ROWS: Final = 2_048
"""The same of rows that follow one another, which are compared where they are (and, by cosine, read twice)."""

SLICE_SHARE: Final = 8
"""They are so many times as many as are wanted: of each slice all that are wanted may be kept, and are sorted in the end."""

TAIL_QUERIES: Final = 32
"""Queries that are compared with the tail by one matrix product."""

TAIL_GATHER_SHARE: Final = 8
"""A filter that leaves less than this part of the tail is answered by copying the rows it leaves."""

DIFFERENT_SCORES_MIN: Final = 8
"""Errors are told by the rows compared if so many of their scores differ."""

SHARED_ROWS_MIN: Final = 65_536
"""A scan of fewer rows is over in the time that it takes to wake another thread, or a few of them."""


class Neighbours(Struct, frozen=True, eq=False):
    """The nearest records of one query: slots and float32 distances, both of shape (n,). Nearest first; of those that are
    here, equally near ones are in the order of their slots."""

    slots: Slots
    distances: Distances


Fetch = Callable[[Slots], Vectors]
"""Gives the vectors of these rows, shape (n, ndim)."""

_NO_ROWS: Final[Slots] = np.empty(0, dtype=np.int64)

NOTHING: Final = Neighbours(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))


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
    def segments(self) -> tuple[_SegmentSearch, ...]:
        hidden = None if self.hidden is None else self.base.locations[np.flatnonzero(self.hidden)]
        return tuple(
            _SegmentSearch(self.space, self.ef_search, segment, scan, self._owned(segment, position, hidden))
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
    return [_nearest([part[number] for part in parts], count) for number, count in enumerate(counts)]


def _nearest(parts: Sequence[Neighbours], count: int) -> Neighbours:
    if not parts:
        return NOTHING
    if len(parts) == 1:
        return parts[0] if len(parts[0].slots) <= count else Neighbours(parts[0].slots[:count], parts[0].distances[:count])
    slots = np.concatenate([part.slots for part in parts])
    values = np.concatenate([part.distances for part in parts])
    order = np.lexsort((slots, values))[:count]
    return Neighbours(slots[order], values[order])


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
            found[number] = _rank(target.space, query, fetch, rows, owners, count)
        else:
            scanned.append(number)
    for numbers in _in_parts(scanned, TAIL_QUERIES):
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
        scored = _scored(packed.scan.judged(queries), masks, rows=packed.rows, skip=packed.skip)
        parts.append(_Ranking(space, queries, target.tail.vectors.take, owners, scored).nearest(counts))
    if len(rest.rows):
        masks = [mask[rest.first :] for mask in allowed]
        lines = _masked(ranking_scores(space, queries, rest.rows, rest.weights), masks)
        slopes = np.asarray([ranking_slope(space, query) for query in queries])
        scored = _Scored(lines, masks, slopes, np.ones(len(queries), dtype=np.bool_))
        parts.append(_Ranking(space, queries, rest.fetch, owners[rest.first :], scored).nearest(counts))
    return [_nearest([part[number] for part in parts], count) for number, count in enumerate(counts)]


def _in_parts(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """So many numbers at a time, or one, in their order."""
    size = max(1, size)
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


class _TailRest(Struct, frozen=True, eq=False):
    """A tail's vectors from `first` on, those that are not packed, shape (n, ndim), and what their scores are made with."""

    first: int
    rows: Vectors
    weights: Distances | None

    def fetch(self, rows: Slots) -> Vectors:
        return self.rows.take(rows, axis=0)


def _rank(space: Space, query: Vectors, fetch: Fetch, rows: Slots, owners: Slots, count: int) -> Neighbours:
    """The nearest `count` of these rows, by exact distances."""
    chunks = (rows[start : start + CHUNK_ROWS] for start in range(0, len(rows), CHUNK_ROWS))
    return _ranked(space, query, ((fetch(chunk), owners.take(chunk)) for chunk in chunks), count)


def _rank_all(space: Space, query: Vectors, vectors: Vectors, owners: Slots, count: int) -> Neighbours:
    """The nearest `count` of all rows, shape (rows, ndim), where they are: to copy them takes as long as to compare them."""
    size = min(max(SLICE_ROWS, SLICE_SHARE * count), CHUNK_ROWS)
    starts = range(0, len(vectors), size)
    chunks = ((vectors[start : start + size], owners[start : start + size]) for start in starts)
    return _ranked(space, query, chunks, count)


def _ranked(space: Space, query: Vectors, chunks: Iterable[tuple[Vectors, Slots]], count: int) -> Neighbours:
    """The nearest `count` of rows that come as vectors, shape (n, ndim), and their slots, shape (n,)."""
    parts = [NOTHING]
    for vectors, owners in chunks:
        values = distances(space, query, vectors)
        best = _smallest(values, count)
        slots, values = owners.take(best), values.take(best)
        order = np.lexsort((slots, values))
        parts.append(Neighbours(slots[order], values[order]))
    return parts[-1] if len(parts) <= 2 else _nearest(parts, count)


def _smallest(values: Distances, count: int) -> Slots:
    """Positions of the `count` smallest values, in no order; nan is the largest."""
    if not 0 < 4 * count < len(values):
        return np.argsort(values, kind="stable")[:count]
    return np.argpartition(values, count - 1)[:count]


class _Scored(Struct, frozen=True, eq=False):
    """Rows from `first` on with approximate scores for some queries: a slope times the distance, plus a constant, plus an
    error.

    `lines`, shape (queries, n), are inf for rows that are not allowed; `allowed[i]`, shape (n,), says which are, None: all.
    `slopes` has shape (queries,). `margin` is how much of the errors' spread is allowed for beyond those that are seen,
    where these tell anything: `are_told`, shape (queries,). `near` gives the rows that may be within a distance of a query,
    whether they are allowed or not; None: that is not known.
    """

    lines: Distances
    allowed: Sequence[Mask | None]
    slopes: npt.NDArray[np.float64]
    are_told: Mask
    first: int = 0
    margin: float = 1.0
    near: Callable[[int, float], Slots] | None = None

    def count(self, number: int) -> int:
        """How many rows are allowed for a query."""
        allowed = self.allowed[number]
        return self.lines.shape[1] if allowed is None else int(np.count_nonzero(allowed))


def _scored(judged: Judged, allowed: Sequence[Mask | None], *, rows: int, skip: int = 0, first: int = 0) -> _Scored:
    """So many rows of a scan from `skip` on, by their scores; the first is row `first` of the vectors."""
    return _Scored(
        lines=_masked(judged.scores[:, skip : skip + rows], allowed),
        allowed=allowed,
        slopes=judged.slopes,
        are_told=judged.are_told,
        first=first,
        margin=judged.scan.margin,
        near=lambda number, distance: _within(judged.near(number, distance), skip, rows),
    )


def _masked(lines: Distances, allowed: Sequence[Mask | None]) -> Distances:
    """Scores, shape (queries, n), with inf for rows that are not allowed."""
    if all(mask is None for mask in allowed):
        return lines
    masked = np.empty(lines.shape, dtype=lines.dtype)
    for line, mask, out in zip(lines, allowed, masked, strict=True):
        out[:] = line if mask is None else np.where(mask, line, np.inf)
    return masked


class _Compared(Struct, frozen=True, eq=False):
    """The best scored rows of some queries, their scores and exact distances (`values`), all of shape (queries, wanted).

    And the nearest of them: slots and distances, both of shape (queries, count), ordered as in `Neighbours`. `doubts`, shape
    (queries,), as `_doubts` says.
    """

    rows: Slots
    scores: Distances
    values: Distances
    slots: Slots
    distances: Distances
    doubts: npt.NDArray[np.float64]

    def farthest(self, number: int) -> float:
        """So many allowed rows are no farther; inf where scores have overflowed, or rows that are not allowed are among
        these."""
        return float(self.distances[number, -1]) if (self.scores[number] < np.inf).all() else math.inf


class _Ranking(Struct, frozen=True, eq=False):
    """Scored rows, to be ranked for queries of shape (queries, ndim) by exact distances. `fetch` gives the vectors of rows,
    `owners`, shape (rows,), their slots."""

    space: Space
    queries: Vectors
    fetch: Fetch
    owners: Slots
    scored: _Scored

    def nearest(self, counts: Sequence[int]) -> list[Neighbours]:
        """The nearest rows of each query. Mostly the best scored settle it, or some more; else all that may be nearer do.

        Where scores can't tell neighbours apart (near-duplicates, values far from the origin that cancel), these are many.
        """
        found: dict[int, Neighbours] = {}
        for count in dict.fromkeys(counts):
            wanted = candidates(count)
            alike = [number for number, its in enumerate(counts) if its == count]
            chosen = [number for number in alike if count and self.scored.count(number) > ALL_FROM_SHARE * wanted]
            for numbers in _in_parts(chosen, COMPARED_BYTES_MAX // (wanted * self.queries[0].nbytes)):
                best = self._compared(numbers, wanted, count)
                for place, number in enumerate(numbers):
                    if best.doubts[place] <= 0:
                        found[number] = Neighbours(best.slots[place], best.distances[place])
                    else:
                        found[number] = self._further(number, best, place)
        return [found.get(number) or self._all(number, count) for number, count in enumerate(counts)]

    def _compared(self, numbers: Sequence[int], wanted: int, count: int) -> _Compared:
        """Compare the best scored rows of the queries of these numbers, all together: most of the time goes into calls."""
        scored, queries = self.scored, self.queries
        lines, slopes, are_told = scored.lines, scored.slopes, scored.are_told
        if len(numbers) < len(lines):
            lines, slopes, are_told, queries = lines[numbers], slopes[numbers], are_told[numbers], queries[numbers]
        rows = smallest_of_each(lines, wanted)
        places = rows + scored.first if scored.first else rows
        vectors = self.fetch(places.ravel()).reshape(len(numbers), wanted, -1)
        values, slots = distances_of_each(self.space, queries, vectors), self.owners.take(places)
        scores, order = at_each(lines, rows), np.lexsort((slots, values))[:, :count]
        nearest = at_each(values, order)
        doubts = _doubts(scores, np.maximum.reduce(scores, axis=1), values, nearest[:, -1], slopes, scored.margin)
        doubts[~are_told] = np.inf
        return _Compared(rows, scores, values, at_each(slots, order), nearest, doubts)

    def _further(self, number: int, best: _Compared, place: int) -> Neighbours:
        """The nearest rows of one query that the best scored ones, in this place of `best`, did not settle: those whose
        scores leave doubt are compared; where that leaves doubt still, all that may be as near."""
        rows, count, farthest = best.rows[place], best.slots.shape[1], best.farthest(place)
        limit = self._limit(number, best, place)
        if limit is None:
            return self._all(number, count, rows, farthest)
        scored = self.scored
        line, slope = scored.lines[number], scored.slopes[number : number + 1]
        more = np.flatnonzero(line <= limit)
        if len(more) > WIDEN * len(rows):  # a few rows that err much may have made the limit too careful
            more = np.sort(smallest_of_each(line[None, :], WIDEN * len(rows))[0])
            limit = line[more].max(keepdims=True)
        if ALL_FROM_SHARE * len(more) >= scored.count(number):
            return self._all(number, count, more, farthest)
        places = scored.first + more
        values, slots = distances(self.space, self.queries[number], self.fetch(places)), self.owners[places]
        order = np.lexsort((slots, values))[:count]
        nearest = values[order]
        if _doubts(line[more][None, :], limit, values[None, :], nearest[-1:], slope, scored.margin)[0] <= 0:
            return Neighbours(slots[order], nearest)
        return self._all(number, count, more, float(nearest[-1]))

    def _limit(self, number: int, best: _Compared, place: int) -> Distances | None:
        """The largest score, shape (1,), of rows to be compared where the best scored ones left doubt; None: not known."""
        farthest, one = best.farthest(place), slice(place, place + 1)
        if not (math.isfinite(best.doubts[place]) and math.isfinite(farthest)):
            return None
        scores, slope = best.scores[one], self.scored.slopes[number : number + 1]
        last, margin = scores.max(axis=1), self.scored.margin + MARGIN_BEYOND
        more = _doubts(scores, last, best.values[one], np.asarray([farthest]), slope, margin)
        with np.errstate(over="ignore"):
            limit = (last + np.maximum(more, 0)).astype(np.float32)  # rounding may take `more` below 0, where values cancel
        return limit if math.isfinite(limit[0]) else None

    def _all(self, number: int, count: int, compared: Slots = _NO_ROWS, farthest: float = math.inf) -> Neighbours:
        """The nearest of all rows that may be no farther than those that were compared, the last of which was so far."""
        rows = self.scored.first + self._may_be_near(number, count, compared, farthest)
        return _rank(self.space, self.queries[number], self.fetch, rows, self.owners, count)

    def _may_be_near(self, number: int, count: int, compared: Slots, farthest: float) -> Slots:
        """Rows that may be among the nearest of a query, ascending: those that were compared, the last of which was so far,
        and all that may be no farther; all that are allowed where that is not known."""
        scored, allowed = self.scored, self.scored.allowed[number]
        if scored.near is not None and math.isfinite(farthest):
            near: Slots = np.union1d(scored.near(number, farthest), compared)
            near = near if allowed is None else near[allowed[near]]
            if len(near) >= count:
                return near
        return np.arange(int(scored.lines.shape[1])) if allowed is None else np.flatnonzero(allowed)


def _within(rows: Slots, skip: int, count: int) -> Slots:
    """Which of these ascending rows are among so many from `skip` on, counted from there."""
    first, beyond = np.searchsorted(rows, (skip, skip + count))
    return rows[first:beyond] - skip


def _doubts(
    scores: Distances,
    last: Distances,
    values: Distances,
    farthest: Distances,
    slopes: npt.NDArray[np.float64],
    margin: float,
) -> npt.NDArray[np.float64]:
    """For each query by how much the scores of rows that were left out, and are nearer than `farthest`, may be larger than
    `last`; those that were left out are all larger than that. No more than 0: there is no such row. nan or inf: not known.
    `last`, `farthest`, `slopes` have shape (queries,); scores and distances of those compared (queries, n).

    Those left out have errors like the ones seen here; `margin` of their spread is allowed for beyond their middle, 1.0
    being twice the largest error that was seen. (In a crowd of near-duplicates the scores chosen are those with the luckiest
    errors; these are close together, but so are scores and distances then, and there is doubt, as there should be. In a
    crowd of copies of a few rows there are too few errors to tell anything.)
    """
    ordered = np.sort(scores, axis=1)
    steps = np.add.reduce(ordered[:, 1:] != ordered[:, :-1], axis=1, dtype=np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        errors = scores.astype(np.float64)
        errors -= slopes[:, None] * values
        smallest, largest = np.minimum.reduce(errors, axis=1), np.maximum.reduce(errors, axis=1)
        doubts: npt.NDArray[np.float64] = slopes * farthest + (0.5 - margin) * smallest + (0.5 + margin) * largest - last
    doubts[steps < DIFFERENT_SCORES_MIN - 1] = np.inf
    return doubts


class _Chosen(Struct, frozen=True, eq=False):
    """How a segment answers one query: rows that may be returned, shape (rows,), None: all; their number; and the plan."""

    allowed: Mask | None
    allowed_count: int
    plan: Plan


class _SegmentSearch:
    """One segment, searched for batches of queries. `owned`, shape (rows,), says which rows are somebody's; None: all."""

    def __init__(self, space: Space, ef_search: int, segment: SegmentView, scan: Scan | None, owned: Mask | None) -> None:
        self._space: Space = space
        self._ef_search = ef_search
        self._segment = segment
        self._scan = scan
        self._owned = owned
        self._owned_count = segment.rows if owned is None else int(np.count_nonzero(owned))

    def choose(self, masks: Sequence[Mask | None], counts: Sequence[int]) -> list[_Chosen]:
        """How each query is to be answered."""
        allowed_by: dict[int, tuple[Mask | None, int]] = {}
        chosen: dict[tuple[int, int], _Chosen] = {}
        for mask, count in zip(masks, counts, strict=True):
            if id(mask) not in allowed_by:  # the queries of one call have one mask
                allowed = self._allowed(mask)
                allowed_by[id(mask)] = allowed, self._count(allowed)
            if (id(mask), count) not in chosen:
                allowed, allowed_count = allowed_by[id(mask)]
                plan = self._plan(allowed_count, count, len(masks))
                chosen[id(mask), count] = _Chosen(allowed, allowed_count, plan)
        return [chosen[id(mask), count] for mask, count in zip(masks, counts, strict=True)]

    def takes_long(self, chosen: Sequence[_Chosen]) -> bool:
        """Whether that is worth a thread of its own. Threads that fetch vectors to compare them wait for one another."""
        long: set[type[Plan]] = {SearchGraph, ScanPacked} if self._segment.rows >= SHARED_ROWS_MIN else {SearchGraph}
        return any(type(one.plan) in long for one in chosen)

    def run(self, queries: Vectors, counts: Sequence[int], chosen: Sequence[_Chosen]) -> list[Neighbours]:
        """Answer each query as it was chosen."""
        found: dict[int, Neighbours] = {}
        scanned: list[int] = []
        for number, (query, one) in enumerate(zip(queries, chosen, strict=True)):
            if isinstance(one.plan, ScanPacked):
                scanned.append(number)
            else:
                found[number] = self._answer(query, one, counts[number])
        if scanned:
            found |= self._scan_together(queries, counts, chosen, scanned)
        return [found[number] for number in range(len(queries))]

    def _answer(self, query: Vectors, chosen: _Chosen, count: int) -> Neighbours:
        """Answer one query without a scan of all rows."""
        if isinstance(chosen.plan, SearchGraph):
            return self._search_graph(query, chosen.allowed, chosen.allowed_count, count, chosen.plan)
        if isinstance(chosen.plan, CompareCodes):
            assert chosen.allowed is not None  # where all rows are allowed, that is not planned
            return self._compare_codes(query, chosen.allowed, count, chosen.plan)
        return self._read_all(query, chosen.allowed, count)

    def _allowed(self, mask: Mask | None) -> Mask | None:
        """Rows that may be returned, shape (rows,); None: all of them."""
        if mask is None:
            return self._owned
        asked = self._segment.of_slots(mask)
        return asked if self._owned is None else self._owned & asked

    def _count(self, allowed: Mask | None) -> int:
        if allowed is None or allowed is self._owned:
            return self._owned_count
        return int(np.count_nonzero(allowed))

    def _plan(self, allowed: int, count: int, batch: int) -> Plan:
        graph = self._segment.graph
        shape = SegmentCounts(
            rows=self._segment.rows,
            graph_rows=0 if graph is None else graph.rows,
            allowed=allowed,
            ndim=self._segment.vectors.shape[1],
            scan_dims=None if self._scan is None else self._scan.dims,
            scan_first=self._segment.scan_first,
            scan_beyond=self._scan_beyond,
            graph_dims=None if graph is None else graph.dims,
            graph_beside=0 if graph is None else len(graph.beside),
            has_codes=graph is not None and graph.has_codes,
        )
        return plan_search(shape, n_results=count, batch=batch, ef_search=self._ef_search)

    @property
    def _scan_beyond(self) -> int:
        """The first row that is not packed, of those that are to be."""
        first = self._segment.scan_first
        return first if self._scan is None else min(first + self._scan.rows, self._segment.rows)

    def _fetch(self, rows: Slots) -> Vectors:
        return self._segment.vectors.take(rows, axis=0)

    def _rank(self, query: Vectors, rows: Slots, count: int) -> Neighbours:
        self._segment.check(rows)
        return _rank(self._space, query, self._fetch, rows, self._segment.owners, count)

    def _read_all(self, query: Vectors, allowed: Mask | None, count: int, first: int = 0) -> Neighbours:
        if allowed is not None:
            return self._rank(query, first + np.flatnonzero(allowed[first:]), count)
        segment = self._segment
        segment.check_from(first)
        return _rank_all(self._space, query, segment.vectors[first:], segment.owners[first:], count)

    def _scan_together(
        self, queries: Vectors, counts: Sequence[int], chosen: Sequence[_Chosen], scanned: Sequence[int]
    ) -> dict[int, Neighbours]:
        """Answer queries of these numbers by one scan, and compare the rows that are not packed yet."""
        assert self._scan is not None
        found: dict[int, Neighbours] = {}
        for numbers in _in_parts(scanned, SCORES_BYTES_MAX // (4 * self._scan.rows)):
            found.update(zip(numbers, self._scan_part(self._scan, queries, counts, chosen, numbers), strict=True))
        return found

    def _scan_part(
        self, scan: Scan, queries: Vectors, counts: Sequence[int], chosen: Sequence[_Chosen], numbers: Sequence[int]
    ) -> list[Neighbours]:
        queries, counts = queries[numbers], [counts[number] for number in numbers]
        masks, beyond = [chosen[number].allowed for number in numbers], self._scan_beyond
        allowed = [None if mask is None else mask[:beyond] for mask in masks]
        ranked = self._rank_scored(queries, _scored(scan.judged(queries), allowed, rows=beyond), counts)
        return [self._with_unpacked(*one) for one in zip(ranked, queries, masks, counts, strict=True)]

    def _with_unpacked(self, scanned: Neighbours, query: Vectors, allowed: Mask | None, count: int) -> Neighbours:
        if self._scan_beyond == self._segment.rows:
            return scanned
        return _nearest([scanned, self._read_all(query, allowed, count, self._scan_beyond)], count)

    def _rank_scored(self, queries: Vectors, scored: _Scored, counts: Sequence[int]) -> list[Neighbours]:
        return _Ranking(self._space, queries, self._fetch, self._segment.owners, scored).nearest(counts)

    def _search_graph(
        self, query: Vectors, allowed: Mask | None, allowed_count: int, count: int, plan: SearchGraph
    ) -> Neighbours:
        """Search the graph wider and wider until enough allowed rows are found; read all when that does not help."""
        graph = self._segment.graph
        assert graph is not None
        rest = self._rest(query, graph.rows, allowed, count)
        beside = graph.beside if allowed is None else graph.beside[allowed[graph.beside]]
        covered = allowed_count - self._count_beyond(graph.rows, allowed) - len(beside)
        fetch = plan.fetch
        while fetch <= graph.rows // 2:
            rows = self._graph_rows(graph, query, fetch, max(plan.ef, fetch), allowed)
            if len(rows) >= min(count, covered):
                rows = np.concatenate([rows, beside]) if len(beside) else rows
                return _nearest([self._rank(query, rows, count), rest], count)
            fetch *= 2
        return self._read_all(query, allowed, count)

    def _compare_codes(self, query: Vectors, allowed: Mask, count: int, plan: CompareCodes) -> Neighbours:
        graph = self._segment.graph
        assert graph is not None
        rest = self._rest(query, graph.rows, allowed, count)
        beside = graph.beside[allowed[graph.beside]]
        coded = allowed[: graph.rows]
        if len(beside):
            coded = coded.copy()
            coded[beside] = False  # codes say little of them: they would only take the places of others
        rows = graph.nearest_of(query, np.flatnonzero(coded), max(plan.fetch, count))
        return _nearest([self._rank(query, np.concatenate([rows, beside]), count), rest], count)

    def _graph_rows(self, graph: GraphFile, query: Vectors, fetch: int, ef: int, allowed: Mask | None) -> Slots:
        (rows,) = graph.search(query[None, :], fetch, ef=ef)
        return rows if allowed is None else rows[allowed[rows]]

    def _count_beyond(self, first: int, allowed: Mask | None) -> int:
        return self._segment.rows - first if allowed is None else int(np.count_nonzero(allowed[first:]))

    def _rest(self, query: Vectors, first: int, allowed: Mask | None, count: int) -> Neighbours:
        """The nearest of the rows that have no graph."""
        rows = self._scan_beyond - first
        if self._scan is None or rows <= CHUNK_ROWS:
            return self._read_all(query, allowed, count, first)
        block = (first - self._segment.scan_first) // BLOCK_ROWS
        offset = self._segment.scan_first + block * BLOCK_ROWS
        judged = self._scan.judged(query[None, :], first_block=block)
        rest = None if allowed is None else allowed[first : self._scan_beyond]
        scored = _scored(judged, [rest], rows=rows, skip=first - offset, first=first)
        (ranked,) = self._rank_scored(query[None, :], scored, [count])
        return self._with_unpacked(ranked, query, allowed, count)
