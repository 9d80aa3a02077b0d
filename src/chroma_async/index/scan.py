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
from functools import cached_property
from typing import Any, Final

import numkong
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from chroma_async.index.axes import Axes
from chroma_async.index.distance import squared_norms
from chroma_async.model import Slots, Space, Vectors

FAR_FACTOR: Final = 4.0
"""Beside a row that has so many times more across the directions (as square lengths), errors that are seen tell nothing."""

ROUNDING_DEVIATIONS: Final = 5.0
"""What rounding to int8 errs is a sum of many small terms: so many standard deviations of it are allowed for."""

INT8_MAX: Final = np.float32(127)

FLOAT_ROUNDING: Final = 1e-6
"""More than float32 arithmetic errs in sums and differences of some hundred terms, as a share of the largest."""

Scores = npt.NDArray[np.float32]


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
            steps, worth = quantise(turned)
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


def quantise(rows: Vectors) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return rows as int8, shape (n, ndim), and the worth of one step in each, shape (n,)."""
    worth = np.maximum.reduce(np.abs(rows), axis=1, initial=0) / INT8_MAX
    if np.logical_and.reduce(worth):
        factors = np.reciprocal(worth)
    else:
        factors = np.divide(np.float32(1), worth, out=np.zeros_like(worth), where=worth > 0)
    steps = rows * factors[:, None]
    return np.rint(steps, out=steps).astype(np.int8), worth
