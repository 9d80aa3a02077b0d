"""The nearest of rows by exact distances: of some rows, of all, or of those that approximate scores leave in question."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from chroma_async.core.planner import candidates
from chroma_async.index.distance import Distances, at_each, distances, distances_of_each, smallest_of_each
from chroma_async.index.scan import Judged
from chroma_async.model import Mask, Slots, Space, Vectors

ALL_FROM_SHARE: Final = 4
"""Rows are not chosen by their scores where more than one of so many would be: all that may be near are compared."""

WIDEN: Final = 12
"""Where candidates leave doubt in more than so many times as many rows, not these are compared, but all that may be near:
which these are takes as long to tell as to compare some hundred."""

COMPARED_BYTES_MAX: Final = 8 * 2**20
"""Vectors of candidates that are there at once: of a larger batch the queries are compared in parts."""

MARGIN_BEYOND: Final = 0.1
"""More rows show more errors, so where there is doubt rows are taken by this much more of the spread than will be asked for:
then nearly all queries are settled; with nothing more a third of them was."""

CHUNK_ROWS: Final = 8_192
"""Rows that are compared at a time when a segment is read from the disk."""

SLICE_ROWS: Final = 2_048
"""The same of rows that follow one another, which are compared where they are (and, by cosine, read twice)."""

SLICE_SHARE: Final = 8
"""They are so many times as many as are wanted: of each slice all that are wanted may be kept, and are sorted in the end."""

DIFFERENT_SCORES_MIN: Final = 8
"""Errors are told by the rows compared if so many of their scores differ."""


class Neighbours(Struct, frozen=True, eq=False):
    """The nearest records of one query: slots and float32 distances, both of shape (n,). Nearest first; of those that are
    here, equally near ones are in the order of their slots."""

    slots: Slots
    distances: Distances


Fetch = Callable[[Slots], Vectors]
"""Gives the vectors of these rows, shape (n, ndim)."""

_NO_ROWS: Final[Slots] = np.empty(0, dtype=np.int64)

NOTHING: Final = Neighbours(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))


def merged(parts: Sequence[Neighbours], count: int) -> Neighbours:
    if not parts:
        return NOTHING
    if len(parts) == 1:
        return parts[0] if len(parts[0].slots) <= count else Neighbours(parts[0].slots[:count], parts[0].distances[:count])
    slots = np.concatenate([part.slots for part in parts])
    values = np.concatenate([part.distances for part in parts])
    order = np.lexsort((slots, values))[:count]
    return Neighbours(slots[order], values[order])


def in_parts(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """So many numbers at a time, or one, in their order."""
    size = max(1, size)
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


def rank(space: Space, query: Vectors, fetch: Fetch, rows: Slots, owners: Slots, count: int) -> Neighbours:
    """The nearest `count` of these rows, by exact distances."""
    chunks = (rows[start : start + CHUNK_ROWS] for start in range(0, len(rows), CHUNK_ROWS))
    return _ranked(space, query, ((fetch(chunk), owners.take(chunk)) for chunk in chunks), count)


def rank_all(space: Space, query: Vectors, vectors: Vectors, owners: Slots, count: int) -> Neighbours:
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
    return parts[-1] if len(parts) <= 2 else merged(parts, count)


def _smallest(values: Distances, count: int) -> Slots:
    """Positions of the `count` smallest values, in no order; nan is the largest."""
    if not 0 < 4 * count < len(values):
        return np.argsort(values, kind="stable")[:count]
    return np.argpartition(values, count - 1)[:count]


class Scored(Struct, frozen=True, eq=False):
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


def scored_by_scan(judged: Judged, allowed: Sequence[Mask | None], *, rows: int, skip: int = 0, first: int = 0) -> Scored:
    """So many rows of a scan from `skip` on, by their scores; the first is row `first` of the vectors."""
    return Scored(
        lines=masked(judged.scores[:, skip : skip + rows], allowed),
        allowed=allowed,
        slopes=judged.slopes,
        are_told=judged.are_told,
        first=first,
        margin=judged.scan.margin,
        near=lambda number, distance: _within(judged.near(number, distance), skip, rows),
    )


def masked(lines: Distances, allowed: Sequence[Mask | None]) -> Distances:
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
    (queries,), as `doubts_of` says.
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


class Ranking(Struct, frozen=True, eq=False):
    """Scored rows, to be ranked for queries of shape (queries, ndim) by exact distances. `fetch` gives the vectors of rows,
    `owners`, shape (rows,), their slots."""

    space: Space
    queries: Vectors
    fetch: Fetch
    owners: Slots
    scored: Scored

    def nearest(self, counts: Sequence[int]) -> list[Neighbours]:
        """The nearest rows of each query. Mostly the best scored settle it, or some more; else all that may be nearer do.

        Where scores can't tell neighbours apart (near-duplicates, values far from the origin that cancel), these are many.
        """
        found: dict[int, Neighbours] = {}
        for count in dict.fromkeys(counts):
            wanted = candidates(count)
            alike = [number for number, its in enumerate(counts) if its == count]
            chosen = [number for number in alike if count and self.scored.count(number) > ALL_FROM_SHARE * wanted]
            for numbers in in_parts(chosen, COMPARED_BYTES_MAX // (wanted * self.queries[0].nbytes)):
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
        doubts = doubts_of(scores, np.maximum.reduce(scores, axis=1), values, nearest[:, -1], slopes, scored.margin)
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
        if len(more) > WIDEN * len(rows) or ALL_FROM_SHARE * len(more) >= scored.count(number):
            return self._all(number, count, rows, farthest)
        places = scored.first + more
        values, slots = distances(self.space, self.queries[number], self.fetch(places)), self.owners[places]
        order = np.lexsort((slots, values))[:count]
        nearest = values[order]
        if doubts_of(line[more][None, :], limit, values[None, :], nearest[-1:], slope, scored.margin)[0] <= 0:
            return Neighbours(slots[order], nearest)
        return self._all(number, count, more, float(nearest[-1]))

    def _limit(self, number: int, best: _Compared, place: int) -> Distances | None:
        """The largest score, shape (1,), of rows to be compared where the best scored ones left doubt; None: not known."""
        farthest, one = best.farthest(place), slice(place, place + 1)
        if not (math.isfinite(best.doubts[place]) and math.isfinite(farthest)):
            return None
        scores, slope = best.scores[one], self.scored.slopes[number : number + 1]
        last, margin = scores.max(axis=1), self.scored.margin + MARGIN_BEYOND
        more = doubts_of(scores, last, best.values[one], np.asarray([farthest]), slope, margin)
        with np.errstate(over="ignore"):
            limit = (last + np.maximum(more, 0)).astype(np.float32)  # rounding may take `more` below 0, where values cancel
        return limit if math.isfinite(limit[0]) else None

    def _all(self, number: int, count: int, compared: Slots = _NO_ROWS, farthest: float = math.inf) -> Neighbours:
        """The nearest of all rows that may be no farther than those that were compared, the last of which was so far."""
        rows = self.scored.first + self._may_be_near(number, count, compared, farthest)
        return rank(self.space, self.queries[number], self.fetch, rows, self.owners, count)

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


def doubts_of(
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
