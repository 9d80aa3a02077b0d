"""Exact search without a graph: a packed int8 scan of all rows picks candidates, which float32 then ranks.

Rows are centred on a fixed vector and scaled one by one to int8. Centring changes no l2 distance and shifts every inner
product of a query by the same amount, so ranks stay what they are, while data far from the origin keeps its precision.
For cosine the rows are normalised first. numkong's packed kernels multiply tens of thousands of rows in well under a
millisecond, and a batch of queries for little more (docs/decisions/0003-scan-tier.md).

A scan costs what its bytes cost to read. Embeddings vary along some directions much more than along others, so rows are
kept in coordinates of their main directions where half as many of these hold nearly all of the variance
(docs/decisions/0005-scan-in-main-directions.md).
"""

from __future__ import annotations

import math
import threading
from functools import cached_property
from typing import Any, Final, Protocol, cast

import numkong
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from chroma_async.index.distance import squared_norms
from chroma_async.model import Slots, Space, Vectors

BLOCK_ROWS: Final = 16_384

TAIL_BLOCK_ROWS: Final = 1_024

DIRECTIONS_FROM_ROWS: Final = 16_384
"""Fewer rows are scanned in the time that it takes to compare more candidates because directions were left out."""

DIRECTIONS_STEP: Final = 64
"""The kernels read coordinates in groups of this many."""

DIRECTIONS_MAX: Final = 256
VARIANCE_KEPT: Final = 0.9
ACROSS_PERCENTILE: Final = 99.9
ACROSS_FACTOR: Final = 1.2
"""Rows and queries with more across the directions, by this factor, than all but one in a thousand rows of the sample
are of another kind.

Scores leave out what is across, which two of a kind have in common: to such a query ordinary rows would seem as near, and
the errors that are seen, all of ordinary rows, would not tell.
"""

ODD_ROWS_MAX: Final = 0.5
"""Share of a block's rows that may be of another kind; with more, all dimensions are kept."""

FAR_FACTOR: Final = 4.0
"""Beside a row that has so many times more across the directions (as square lengths), errors that are seen tell nothing."""

ROUNDING_DEVIATIONS: Final = 5.0
"""What rounding to int8 errs is a sum of many small terms: so many standard deviations of it are allowed for."""

SAMPLE_ROWS: Final = 4_096
POWER_STEPS: Final = 4

EIGENVECTORS_DIMENSIONS_MAX: Final = 768
"""Up to so many dimensions, decomposing the covariance is faster than power iteration."""

SPAN_MIN: Final = 1e-10
"""Share of the largest variance below which a direction counts as none."""

ROWS_AT_ONCE: Final = 256
"""Rows that are prepared together, so that what they are on the way stays in the processor's caches."""

INT8_MAX: Final = np.float32(127)

FLOAT_ROUNDING: Final = 1e-6
"""More than float32 arithmetic errs in sums and differences of some hundred terms, as a share of the largest."""

Scores = npt.NDArray[np.float32]
Squares = npt.NDArray[np.float32]


class PackedBlock(Struct, frozen=True, eq=False, dict=True):
    """Some rows, ready to be multiplied. `weights` has shape (rows,): what one step of int8 is worth in each row.

    `offsets`, shape (rows,), is what the score of a row starts from; `across`, shape (rows,), how long it is across the
    directions, if there are such.
    """

    packed: Any
    weights: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float32] | None
    across: npt.NDArray[np.float32] | None
    rows: int

    @cached_property
    def most_across(self) -> float:
        return 0.0 if self.across is None else float(self.across.max())

    @cached_property
    def _most_weight(self) -> float:
        return float(np.abs(self.weights).max())

    def near(self, scores: npt.NDArray[np.float32], limit: float, rounding: float, across: float) -> Slots:
        """Rows whose scores, shape (rows,), less what may be lost by rounding and by a length across, are within a limit."""
        rows = np.flatnonzero(~(scores > limit + rounding * self._most_weight + across * self.most_across))
        floors = scores[rows] - np.float32(rounding) * np.abs(self.weights[rows])  # of l2, weights are doubled
        if self.across is not None:
            floors -= np.float32(across) * self.across[rows]
        return rows[~(floors > limit)]


class Axes(Struct, frozen=True, eq=False, dict=True):
    """The coordinates that rows are kept in: an origin, shape (ndim,), and orthonormal directions, shape (d, ndim).

    Without directions a row keeps the coordinates that it has. `across_max` is the most that rows of the kind that these
    were chosen for have across them, as a square length; `length` is how long these rows are (in the middle).
    """

    origin: npt.NDArray[np.float32]
    directions: npt.NDArray[np.float32] | None
    across_max: float = math.inf
    length: float = 1.0

    def along(self, shifted: Vectors) -> Vectors:
        """Coordinates, shape (n, d), of vectors that were shifted already, shape (n, ndim)."""
        return shifted if self.directions is None else shifted @ self.directions.T

    def placed(self, rows: Vectors, space: Space) -> tuple[Vectors, Squares, Squares]:
        """Where rows, shape (n, ndim), are once they were shifted, for cosine scaled to a length of 1 before.

        Coordinates, shape (n, d); square lengths, (n,); and what these square lengths are a difference of, (n,), which for
        cosine is more than `square_origin` where a row has a direction.
        """
        if space != "cosine":
            shifted = rows - self.origin
            squares = squared_norms(shifted)
            return self.along(shifted), squares, squares
        inverse = _inverse_lengths(rows)
        # turned before they are scaled and shifted, which leaves fewer numbers to do that with
        along = self.along(rows) * inverse[:, None] - self.turned_origin
        rounded: Squares = np.add(self.square_origin, inverse > 0, dtype=np.float32)
        return along, np.subtract(rounded, 2 * inverse * (rows @ self.origin)), rounded

    def suit(self, squares: Squares, along: Vectors) -> npt.NDArray[np.bool_]:
        """Whether shifted vectors of these square lengths, shape (n,), and coordinates, (n, d), are of the rows' kind."""
        suited: npt.NDArray[np.bool_] = np.subtract(squares, squared_norms(along)) <= self.across_max
        return suited

    def suit_scaled(self, vectors: Vectors, turned: Vectors) -> npt.NDArray[np.bool_]:
        """Whether vectors, shape (n, ndim), would be of the rows' kind if they were as long as these and then shifted.

        `turned`, shape (n, d): their own coordinates. `suit` written out, so that it takes few steps; false for zeros.
        """
        scale = np.float32(self.length) / np.sqrt(squared_norms(vectors))
        less = scale * (scale * squared_norms(turned) + 2 * (vectors @ self._origin_across))
        suited: npt.NDArray[np.bool_] = less >= self.length**2 + self._square_across - self.across_max
        return suited

    @cached_property
    def square_origin(self) -> np.float32:
        return np.float32(self.origin @ self.origin)

    @cached_property
    def turned_origin(self) -> npt.NDArray[np.float32]:
        """Coordinates of the origin, shape (d,)."""
        return self.along(self.origin)

    @cached_property
    def _origin_across(self) -> npt.NDArray[np.float32]:
        assert self.directions is not None
        return cast("Vectors", self.origin - self.turned_origin @ self.directions)

    @cached_property
    def _square_across(self) -> float:
        return float(self._origin_across @ self._origin_across)


class Judged(Struct, frozen=True, eq=False):
    """What a scan says of its rows from `first_block` on, for queries of shape (queries, ndim).

    `shifted`, shape (queries, ndim), and `turned`, (queries, d), are what they are multiplied as; `steps`, (queries, d), and
    `worth`, (queries,), what they are rounded to. `scores`, shape (queries, rows), are `slopes`, shape (queries,), times the
    distance, plus a constant, plus an error. `are_told`, shape (queries,): whether errors that are seen tell how much those
    may err that are not.
    """

    scan: Scan
    queries: Vectors
    shifted: Vectors
    turned: Vectors
    steps: npt.NDArray[np.int8]
    worth: npt.NDArray[np.float32]
    first_block: int
    scores: Scores
    slopes: npt.NDArray[np.float64]
    are_told: npt.NDArray[np.bool_]

    def near(self, number: int, distance: float) -> Slots:
        """Rows, ascending, that may be so near to one query: all others are farther. Also those whose scores overflowed.

        A score leaves out the product of what row and query have across the directions, which is no more than the product of
        these lengths (Cauchy and Schwarz), and what both were rounded by.
        """
        scores, space, blocks = self.scores[number], self.scan.space, self.scan.blocks[self.first_block :]
        unit = 1.0 if space == "l2" else float(self.worth[number])
        if not unit > 0:
            return np.arange(len(scores))
        with np.errstate(over="ignore", invalid="ignore"):
            turned = self.turned[number]
            square = float(self.shifted[number] @ self.shifted[number])
            along = float(turned @ turned)
            lost = float(np.linalg.norm(turned - self.steps[number] * self.worth[number]))  # by rounding the query
            twice = 2 if space == "l2" else 1
            across = twice * math.sqrt(max(square - along, 0.0) + FLOAT_ROUNDING * square) / unit
            rounding = ROUNDING_DEVIATIONS * math.hypot(math.sqrt(along / 12), float(INT8_MAX) * lost) / unit
            slack = FLOAT_ROUNDING * math.sqrt(square) if space == "cosine" else 0.0
            limit = float(self.slopes[number]) * distance + (slack - self.scan.constant(self.queries[number])) / unit
            start, found = 0, [np.empty(0, dtype=np.int64)]
            for block in blocks:
                found.append(start + block.near(scores[start : start + block.rows], limit, rounding, across))
                start += block.rows
            return np.concatenate(found)


class Scan(Struct, frozen=True, eq=False):
    """The packed rows of one segment, from row 0 on, at one instant."""

    space: Space
    axes: Axes
    blocks: tuple[PackedBlock, ...]

    @property
    def rows(self) -> int:
        return sum(block.rows for block in self.blocks)

    @property
    def dims(self) -> int:
        """Coordinates of a packed row."""
        return len(self.axes.origin) if self.axes.directions is None else len(self.axes.directions)

    @property
    def margin(self) -> float:
        """How much of the spread of errors that were seen is allowed for beyond it, when candidates are judged.

        Rounding to int8 errs little, so all of it costs nothing. Directions that were left out err like a sum of many
        small terms: what lies beyond this margin is one in thousands of the rows at the border.
        """
        return 1.0 if self.axes.directions is None else 0.6

    def first(self, rows: int) -> Scan:
        """The scan of the first rows only; they end with a block."""
        count, blocks = 0, list[PackedBlock]()
        for block in self.blocks:
            if count == rows:
                break
            blocks.append(block)
            count += block.rows
        if count != rows:
            raise RuntimeError(f"a scan can be cut between blocks only. rows={rows} block={count}")
        return Scan(self.space, self.axes, tuple(blocks))

    def judged(self, queries: Vectors, first_block: int = 0) -> Judged:
        """Scores of the rows from a block on for queries, shape (queries, ndim), and what they tell."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            shifted = queries - self.axes.origin if self.space == "l2" else queries
            turned = self.axes.along(shifted)
            steps, worth = _quantise(turned)
            return Judged(
                scan=self,
                queries=queries,
                shifted=shifted,
                turned=turned,
                steps=steps,
                worth=worth,
                first_block=first_block,
                scores=self._scores(steps, worth, first_block),
                slopes=self._slopes(queries, worth),
                are_told=self._are_told(shifted, turned, first_block),
            )

    def constant(self, query: Vectors) -> float:
        """What the scores of a query, shape (ndim,), lack: distances times the slope have it too."""
        exact, origin = query.astype(np.float64), self.axes.origin.astype(np.float64)
        if self.space == "l2":
            return float((exact - origin) @ (exact - origin))
        return (1.0 if self.space == "ip" else float(np.linalg.norm(exact))) - float(origin @ exact)

    def _are_told(self, shifted: Vectors, turned: Vectors, first_block: int) -> npt.NDArray[np.bool_]:
        axes = self.axes
        if axes.directions is None:
            return np.ones(len(shifted), dtype=np.bool_)
        if any(not block.most_across**2 <= FAR_FACTOR * axes.across_max for block in self.blocks[first_block:]):
            return np.zeros(len(shifted), dtype=np.bool_)
        if self.space == "l2":
            return axes.suit(squared_norms(shifted), turned)
        return axes.suit_scaled(shifted, turned)

    def _scores(self, steps: npt.NDArray[np.int8], worth: npt.NDArray[np.float32], first_block: int) -> Scores:
        blocks = self.blocks[first_block:]
        out = np.empty((len(steps), sum(block.rows for block in blocks)), dtype=np.float32)
        start = 0
        for block in blocks:
            part = out[:, start : start + block.rows]
            products = np.asarray(numkong.dots_packed(steps, block.packed))
            np.multiply(products, block.weights, out=part, dtype=np.float32, casting="unsafe")
            if block.offsets is not None:
                part *= worth[:, None]
                part += block.offsets
            start += block.rows
        return out

    def _slopes(self, queries: Vectors, worth: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        if self.space == "l2":
            return np.ones(len(queries))
        lengths = np.sqrt(np.einsum("ij,ij->i", queries, queries, dtype=np.float64)) if self.space == "cosine" else 1.0
        slopes = np.zeros(len(queries))
        np.divide(lengths, worth, out=slopes, where=worth > 0, dtype=np.float64)
        return slopes


class Rows(Protocol):
    """Vectors of shape (n, ndim) that may lie apart."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Vectors: ...


class ScanBuilder:
    """Packs the rows of a segment as they come; complete blocks are packed once. Not for use by two threads at once."""

    def __init__(self, space: Space, block_rows: int | None = None) -> None:
        self._space: Space = space
        self._block_rows = BLOCK_ROWS if block_rows is None else block_rows
        self._axes: Axes | None = None
        self._axes_rows = 0
        self._blocks: list[PackedBlock] = []
        self._steps: list[npt.NDArray[np.int8]] = []
        self._weights: list[npt.NDArray[np.float32]] = []
        self._offsets: list[npt.NDArray[np.float32]] = []
        self._across: list[Squares] = []
        """Square lengths."""
        self._rows = 0
        self._latest: Scan | None = None

    @classmethod
    def behind(cls, scan: Scan, rows: int) -> ScanBuilder | None:
        """One that goes on with the rows of a scan from such a row on, and packs none of its complete blocks again.

        None: that row begins none of these.
        """
        blocks = tuple(block for block in scan.blocks if block.rows == BLOCK_ROWS)
        first, inside = divmod(rows, BLOCK_ROWS)
        if inside or first >= len(blocks):
            return None
        builder = cls(scan.space)
        builder._axes, builder._axes_rows = scan.axes, BLOCK_ROWS
        builder._blocks = list(blocks[first:])
        builder._rows = BLOCK_ROWS * len(builder._blocks)
        builder._latest = Scan(scan.space, scan.axes, blocks[first:])
        return builder

    @property
    def rows(self) -> int:
        """Rows that were packed."""
        return self._rows

    @property
    def latest(self) -> Scan | None:
        """What `extend` returned last, for any thread."""
        return self._latest

    def extend(self, vectors: Rows, first: int = 0, beyond: int | None = None) -> Scan:
        """Return a scan of at least these rows, shape (n, ndim); those seen before are not looked at again.

        Rows are only ever appended, so a caller with fewer of them uses the first part of what it gets. Who knows that the
        rows before `first` were seen need not have them. Of more than `beyond` the others are left.
        """
        beyond = first + len(vectors) if beyond is None else beyond
        if self._latest is not None and beyond <= self._latest.rows:
            return self._latest
        if first > self._rows:
            raise RuntimeError(f"rows that were not seen are missing. seen={self._rows} first={first}")
        try:
            return self._extended(vectors, first, beyond)
        except BaseException:  # what was begun is not whole
            self._axes, self._latest = None, None
            self._clear()
            raise

    def _extended(self, vectors: Rows, first: int, beyond: int) -> Scan:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            axes = self._suited(vectors, beyond) if not first or self._axes is None else self._axes
            while self._rows < beyond:
                count = min(self._block_rows - self._rows % self._block_rows, ROWS_AT_ONCE, beyond - self._rows)
                self._take(vectors[self._rows - first : self._rows - first + count], axes)
                if self._is_odd(axes):
                    axes = self._begin(Axes(axes.origin, None), beyond)
            partial = (self._pack(),) if self._steps else ()
        self._latest = Scan(self._space, axes, (*self._blocks, *partial))
        return self._latest

    def forget(self, blocks: int) -> None:
        """Forget the first complete blocks: the row behind them is the first one from now on."""
        if blocks > len(self._blocks):
            raise RuntimeError(f"so many blocks are not complete. blocks={blocks} complete={len(self._blocks)}")
        self._blocks, self._latest = self._blocks[blocks:], None
        self._rows -= blocks * self._block_rows

    def _suited(self, vectors: Rows, beyond: int) -> Axes:
        """Axes that suit the first block. While that fills, they are chosen anew each time the rows have doubled, and
        these are packed again: the very first rows may be far from all that follow.
        """
        axes = self._axes
        if axes is None or (self._axes_rows < self._block_rows and beyond >= 2 * self._axes_rows):
            first = vectors[: min(self._block_rows, beyond)]
            axes = self._begin(axes_of(first, self._space), len(first))
        return axes

    def _begin(self, axes: Axes, rows: int) -> Axes:
        """Begin again at row 0, with axes that were chosen knowing so many rows."""
        self._axes, self._axes_rows = axes, rows
        self._clear()
        return axes

    def _clear(self) -> None:
        self._blocks, self._steps, self._weights, self._offsets, self._across, self._rows = [], [], [], [], [], 0

    def _is_odd(self, axes: Axes) -> bool:
        """Whether a block has just been filled with rows of another kind than those that the directions were chosen for."""
        if self._rows % self._block_rows:
            return False
        across = self._blocks[-1].across
        return across is not None and int(np.count_nonzero(across**2 > axes.across_max)) > ODD_ROWS_MAX * self._block_rows

    def _take(self, rows: Vectors, axes: Axes) -> None:
        along, squares, rounded = axes.placed(rows, self._space)
        steps, weights = _quantise(along)
        self._weights.append(np.float32(-2 if self._space == "l2" else -1) * weights)
        if self._space == "l2":
            self._offsets.append(squares)
        if axes.directions is not None:
            across = np.maximum(squares - squared_norms(along), np.float32(0))
            across += np.float32(FLOAT_ROUNDING) * rounded  # where large numbers cancel, it may be so much more
            self._across.append(across)
        self._steps.append(steps)
        self._rows += len(rows)
        if self._rows % self._block_rows == 0:
            self._blocks.append(self._pack())
            self._steps, self._weights, self._offsets, self._across = [], [], [], []

    def _pack(self) -> PackedBlock:
        self._steps = [np.concatenate(self._steps)]
        self._weights = [np.concatenate(self._weights)]
        self._offsets = [np.concatenate(self._offsets)] if self._offsets else []
        self._across = [np.concatenate(self._across)] if self._across else []
        return PackedBlock(
            packed=cast("Any", numkong).dots_pack(self._steps[0], dtype="int8"),
            weights=self._weights[0],
            offsets=self._offsets[0] if self._offsets else None,
            across=np.sqrt(self._across[0]) if self._across else None,
            rows=len(self._steps[0]),
        )


class PackedTail(Struct, frozen=True, eq=False):
    """The packed part of a tail's vectors: rows from `skip` on of the scan are its first ones."""

    scan: Scan
    skip: int

    @property
    def rows(self) -> int:
        """How many of the tail's first vectors it has."""
        return self.scan.rows - self.skip


class TailScan:
    """Packs the vectors of a tail as it grows, complete blocks only: those are packed once, the few others are not packed.

    A tail loses its first vectors when its memtable moves to a newer base; what was packed stays packed. Any number of
    threads may use it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: dict[Space, _TailPart] = {}

    def of(self, space: Space, first: int, vectors: Rows) -> PackedTail | None:
        """The packed part of these vectors, shape (n, ndim), the first of which has position `first`.

        None: they are fewer than a block, or of a base that was left behind.
        """
        with self._lock:
            part = self._parts.get(space)
            if part is None or part.beyond < first:
                part = self._parts[space] = _TailPart(first, ScanBuilder(space, TAIL_BLOCK_ROWS))
            return part.of(first, vectors)

    def pack(self, first: int, vectors: Rows) -> None:
        """Pack, ahead of the next query, in the spaces that queries were asked in."""
        for space in list(self._parts):
            self.of(space, first, vectors)


class _TailPart(Struct, eq=False):
    """What is packed in one space, from the position `start` on: complete blocks."""

    start: int
    builder: ScanBuilder

    @property
    def beyond(self) -> int:
        """Position behind the last vector that is packed."""
        return self.start + self.builder.rows

    def of(self, first: int, vectors: Rows) -> PackedTail | None:
        """See `TailScan.of`; `first` is not beyond what is packed."""
        if first < self.start:
            return None
        gone, skip = divmod(first - self.start, TAIL_BLOCK_ROWS)
        if gone:
            self.builder.forget(gone)
            self.start += gone * TAIL_BLOCK_ROWS
        complete = (skip + len(vectors)) // TAIL_BLOCK_ROWS * TAIL_BLOCK_ROWS
        if not complete:
            return None
        return PackedTail(self.builder.extend(vectors, skip, complete).first(complete), skip)


def main_directions(centred: Vectors) -> npt.NDArray[np.float32] | None:
    """Orthonormal directions, shape (d, ndim), that hold `VARIANCE_KEPT` of the variance of rows of shape (n, ndim).

    None where no more than half of the dimensions would do. They are eigenvectors of the covariance; where that is large,
    found by power iteration of a block of vectors (Halko, Martinsson, Tropp 2011, algorithm 4.4), begun with rows of the
    data, so that the outcome depends on nothing else.
    """
    ndim = centred.shape[1]
    most = min(DIRECTIONS_MAX, ndim // 2 // DIRECTIONS_STEP * DIRECTIONS_STEP)
    if not most:
        return None
    total = float(np.einsum("ij,ij->", centred, centred, dtype=np.float64))
    if not 0 < total < np.inf:
        return None
    if ndim <= EIGENVECTORS_DIMENSIONS_MAX:
        variances, found = np.linalg.eigh(centred.T @ centred)
    else:
        basis: Vectors = centred[:: len(centred) // most][:most].T
        for _ in range(POWER_STEPS):
            basis = _orthonormal(cast("Vectors", centred.T @ (centred @ basis)))
        coordinates = centred @ basis
        variances, turn = np.linalg.eigh(coordinates.T @ coordinates)
        found = basis @ turn
    kept = np.cumsum(variances[::-1][:most], dtype=np.float64) / total
    if not kept[-1] >= VARIANCE_KEPT:
        return None
    count = -(-(int(np.searchsorted(kept, VARIANCE_KEPT)) + 1) // DIRECTIONS_STEP) * DIRECTIONS_STEP
    return np.asfortranarray(found[:, ::-1][:, :count].T, dtype=np.float32)  # its transpose is multiplied with


def _orthonormal(columns: Vectors) -> Vectors:
    """An orthonormal basis of what columns span, shape (ndim, d).

    By eigenvectors of their products, twice. A QR decomposition does it in thousands of small steps, each of which waits
    for all threads of the linear algebra: on a busy machine that took seconds.
    """
    for _ in range(2):
        values, vectors = np.linalg.eigh((columns.T @ columns).astype(np.float64))
        columns = columns @ (vectors / np.sqrt(np.maximum(values, values[-1] * SPAN_MIN))).astype(np.float32)
    return columns


def axes_of(rows: Vectors, space: Space) -> Axes:
    """Axes that suit these rows, shape (n, ndim), by a sample of them. Without directions where these would not pay."""
    sample = _sampled(rows)
    if space == "cosine":
        sample = sample * _inverse_lengths(sample)[:, None]
    origin = sample.mean(axis=0, dtype=np.float32)
    if len(rows) < DIRECTIONS_FROM_ROWS:
        return Axes(origin, None)
    centred = sample - origin
    directions = main_directions(centred)
    if directions is None:
        return Axes(origin, None)
    along = cast("Vectors", centred @ directions.T)
    across = np.percentile(np.subtract(squared_norms(centred), squared_norms(along)), ACROSS_PERCENTILE)
    length = np.sqrt(np.median(squared_norms(sample)))
    return Axes(origin, directions, across_max=ACROSS_FACTOR * float(across), length=float(length))


def _sampled(rows: Vectors) -> Vectors:
    """Some of the rows, drawn: every fourth one would all be of one kind where kinds take turns."""
    if len(rows) <= SAMPLE_ROWS:
        return rows
    drawn = np.random.default_rng(0).permutation(len(rows))[:SAMPLE_ROWS]
    return rows[np.sort(drawn)]


def _inverse_lengths(rows: Vectors) -> npt.NDArray[np.float32]:
    """1 / length of each row, shape (n,); of a row without a direction, 0."""
    lengths = np.sqrt(squared_norms(rows))
    known = (lengths > 0) & (lengths < np.inf)
    inverse: npt.NDArray[np.float32] = np.divide(np.float32(1), lengths, out=np.zeros_like(lengths), where=known)
    return inverse


def _quantise(rows: Vectors) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return rows as int8, shape (n, ndim), and the worth of one step in each, shape (n,)."""
    worth = np.maximum.reduce(np.abs(rows), axis=1, initial=0) / INT8_MAX
    if np.logical_and.reduce(worth):
        factors = np.reciprocal(worth)
    else:
        factors = np.divide(np.float32(1), worth, out=np.zeros_like(worth), where=worth > 0)
    steps = rows * factors[:, None]
    return np.rint(steps, out=steps).astype(np.int8), worth
