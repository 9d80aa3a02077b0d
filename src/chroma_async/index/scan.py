"""Exact search without a graph: a packed int8 scan of all rows picks candidates, which float32 then ranks.

Rows are centred on a fixed vector and scaled one by one to int8. Centring changes no l2 distance and shifts every inner
product of a query by the same amount, so ranks stay what they are, while data far from the origin keeps its precision.
For cosine the rows are normalised first. numkong's packed kernels multiply tens of thousands of rows in well under a
millisecond, and a batch of queries for little more (docs/decisions/0003-scan-tier.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast

import numkong
import numpy as np
import numpy.typing as npt

from chroma_async.model import Space, Vectors

BLOCK_ROWS: Final = 16_384
INT8_MAX: Final = np.float32(127)

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class PackedBlock:
    """Some rows, ready to be multiplied. `weights` has shape (rows,): what one step of int8 is worth in each row.

    `offsets`, shape (rows,), is what the score of a row starts from.
    """

    packed: Any
    weights: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float32] | None
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """The packed rows of one segment, from row 0 on, at one instant."""

    space: Space
    centre: npt.NDArray[np.float32]
    blocks: tuple[PackedBlock, ...]

    @property
    def rows(self) -> int:
        return sum(block.rows for block in self.blocks)

    def scores(self, queries: Vectors, first_block: int = 0) -> Scores:
        """Approximate scores, smaller is nearer, shape (queries, rows from that block on)."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._scores(queries, first_block)

    def _scores(self, queries: Vectors, first_block: int) -> Scores:
        shifted = queries - self.centre if self.space == "l2" else queries
        steps, worth = _quantise(shifted)
        blocks = self.blocks[first_block:]
        out = np.empty((len(queries), sum(block.rows for block in blocks)), dtype=np.float32)
        start = 0
        for block in blocks:
            part = out[:, start : start + block.rows]
            products = np.asarray(numkong.dots_packed(steps, block.packed))
            np.multiply(products, block.weights, out=part)
            if block.offsets is not None:
                part *= worth[:, None]
                part += block.offsets
            start += block.rows
        return out

    def slopes(self, queries: Vectors) -> npt.NDArray[np.float64]:
        """How much the score of a row grows when its distance grows by one, for each query: shape (queries,)."""
        if self.space == "l2":
            return np.ones(len(queries))
        worth = np.abs(queries).max(axis=1, initial=0).astype(np.float64) / INT8_MAX
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1) if self.space == "cosine" else np.ones(len(queries))
        slopes: npt.NDArray[np.float64] = np.divide(lengths, worth, out=np.zeros_like(worth), where=worth > 0)
        return slopes


class ScanBuilder:
    """Packs the rows of a segment as they come; complete blocks are packed once. Not for use by two threads at once."""

    def __init__(self, space: Space) -> None:
        self._space: Space = space
        self._centre: npt.NDArray[np.float32] | None = None
        self._centre_rows = 0
        self._blocks: list[PackedBlock] = []
        self._steps: list[npt.NDArray[np.int8]] = []
        self._weights: list[npt.NDArray[np.float32]] = []
        self._offsets: list[npt.NDArray[np.float32]] = []
        self._rows = 0
        self._latest: Scan | None = None

    def extend(self, vectors: Vectors) -> Scan:
        """Return a scan of at least these rows, shape (n, ndim); those seen before are not looked at again.

        Rows are only ever appended, so a caller with fewer of them uses the first part of what it gets.
        """
        if self._latest is not None and len(vectors) <= self._rows:
            return self._latest
        with np.errstate(over="ignore", invalid="ignore"):
            centre = self._centred(vectors)
            while self._rows < len(vectors):
                room = BLOCK_ROWS - self._rows % BLOCK_ROWS
                self._take(np.asarray(vectors[self._rows : self._rows + room]), centre)
            partial = (self._pack(),) if self._steps else ()
        self._latest = Scan(self._space, centre, (*self._blocks, *partial))
        return self._latest

    def _centred(self, vectors: Vectors) -> npt.NDArray[np.float32]:
        """The mean of the first block. While that fills, it is taken anew each time the rows have doubled, and they are
        packed again: the very first rows may be far from all that follow.
        """
        centre = self._centre
        if centre is None or (self._centre_rows < BLOCK_ROWS and len(vectors) >= 2 * self._centre_rows):
            first = _prepared(self._space, np.asarray(vectors[:BLOCK_ROWS]))
            centre = self._centre = first.mean(axis=0, dtype=np.float32)
            self._centre_rows = len(first)
            self._blocks, self._steps, self._weights, self._offsets, self._rows = [], [], [], [], 0
        return centre

    def _take(self, rows: Vectors, centre: npt.NDArray[np.float32]) -> None:
        centred = _prepared(self._space, rows) - centre
        steps, weights = _quantise(centred)
        self._steps.append(steps)
        if self._space == "l2":
            self._weights.append(np.float32(-2) * weights)
            self._offsets.append(np.einsum("ij,ij->i", centred, centred))
        else:
            self._weights.append(-weights)
        self._rows += len(rows)
        if self._rows % BLOCK_ROWS == 0:
            self._blocks.append(self._pack())
            self._steps, self._weights, self._offsets = [], [], []

    def _pack(self) -> PackedBlock:
        self._steps = [np.concatenate(self._steps)]
        self._weights = [np.concatenate(self._weights)]
        self._offsets = [np.concatenate(self._offsets)] if self._offsets else []
        return PackedBlock(
            packed=cast("Any", numkong).dots_pack(self._steps[0], dtype="int8"),
            weights=self._weights[0],
            offsets=self._offsets[0] if self._offsets else None,
            rows=len(self._steps[0]),
        )


def _prepared(space: Space, rows: Vectors) -> Vectors:
    if space != "cosine":
        return rows
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Vectors = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return unit


def _quantise(rows: Vectors) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return rows as int8, shape (n, ndim), and the worth of one step in each, shape (n,)."""
    worth = np.abs(rows).max(axis=1, initial=0) / INT8_MAX
    factors = np.divide(np.float32(1), worth, out=np.zeros_like(worth), where=worth > 0)
    return np.rint(rows * factors[:, None]).astype(np.int8), worth
