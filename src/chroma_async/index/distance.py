"""Exact distances in float32, by Chroma's formulas.

    l2      sum((a - b)^2)             squared, no root
    ip      1 - dot(a, b)
    cosine  1 - dot(a, b) / (|a| |b|)  1 when either vector is zero

Source: Chroma's documentation of `hnsw:space`.
"""

from __future__ import annotations

from typing import Final, TypeVar, cast

import numpy as np
import numpy.typing as npt

from chroma_async.model import Slots, Space, Vectors

Distances = npt.NDArray[np.float32]

T = TypeVar("T", bound=np.generic)

LANES: Final = 16
COLUMNS_FROM: Final = 4_096


def distances(space: Space, query: Vectors, rows: Vectors) -> Distances:
    """Distances of one query, shape (ndim,), to rows, shape (n, ndim); shape (n,). Overflow gives inf or nan."""
    line: Distances = distances_of_each(space, query[None, :], rows[None, :, :])[0]
    return line


def distances_of_each(space: Space, queries: Vectors, rows: Vectors) -> Distances:
    """Distances of each query, shape (queries, ndim), to rows of its own, shape (queries, n, ndim); shape (queries, n).

    They do not depend, to the last bit, on what other queries there are.
    """
    count, each, ndim = rows.shape
    with np.errstate(over="ignore", invalid="ignore"):
        if space == "l2":
            differences = (rows - queries[:, None, :]).reshape(-1, ndim)
            return _reshaped(squared_norms(differences), count, each)
        products = cast("Distances", np.matmul(rows, queries[:, :, None])[:, :, 0])
        if space == "cosine":
            products *= _reshaped(_inverse_norms(rows.reshape(-1, ndim)), count, each)
            products *= _inverse_norms(queries)[:, None]
        return np.subtract(np.float32(1), products, out=products)


def _reshaped(values: Distances, lines: int, each: int) -> Distances:
    shaped: Distances = values.reshape(lines, each)
    return shaped


def ranking_weights(space: Space, rows: Vectors) -> Distances | None:
    """What `ranking_scores` needs of rows, shape (n, ndim), whatever the query: shape (n,), or nothing."""
    with np.errstate(over="ignore", invalid="ignore"):
        if space == "l2":
            return squared_norms(rows)
        return _inverse_norms(rows) if space == "cosine" else None


def ranking_scores(space: Space, queries: Vectors, rows: Vectors, weights: Distances | None) -> Distances:
    """Scores that rank as the distances do, up to rounding: shape (queries, n), by one matrix product.

    `weights` are those of the rows, see `ranking_weights`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        products: Distances = queries @ rows.T
        if space == "l2":
            assert weights is not None
            products *= np.float32(-2)
            products += weights
            return products
        if space == "cosine":
            assert weights is not None
            products *= weights
        return np.negative(products, out=products)


def ranking_slope(space: Space, query: Vectors) -> float:
    """How much a ranking score grows when the distance grows by one; the query has shape (ndim,)."""
    return float(np.linalg.norm(query.astype(np.float64))) if space == "cosine" else 1.0


def squared_norms(rows: Vectors) -> Distances:
    """Square lengths of rows, shape (n, ndim): shape (n,). Overflow gives inf."""
    norms: Distances = np.einsum("ij,ij->i", rows, rows)
    return norms


def _inverse_norms(rows: Vectors) -> Distances:
    """1 / |row|, and 0 for a zero row, which makes its cosine distance 1."""
    norms = np.sqrt(squared_norms(rows))
    if np.logical_and.reduce(norms):
        return np.reciprocal(norms, out=norms)
    return np.divide(np.float32(1), norms, out=np.zeros_like(norms), where=norms > 0)


def smallest_of_each(scores: Distances, count: int) -> Slots:
    """Positions of the `count` smallest of each line of scores, shape (lines, n), in no order: shape (lines, count).

    +inf is chosen where there are no others, and nan where there is nothing else. `count` is at least 1, and at most n.
    """
    if scores.shape[1] < COLUMNS_FROM:
        return np.argpartition(scores, count - 1, axis=1)[:, :count]
    return _smallest_by_columns(np.ascontiguousarray(scores), count)


def _smallest_by_columns(scores: Distances, count: int) -> Slots:
    """Partition the minima of 16 interleaved parts first: the smallest scores are in the columns of the smallest minima.

    Half the time of partitioning all scores.
    """
    lines, length = scores.shape
    width = length // LANES
    beyond = width * LANES
    if count >= width:
        return np.argpartition(scores, count - 1, axis=1)[:, :count]
    minima = np.fmin.reduce(scores[:, :beyond].reshape(lines, LANES, width), axis=1)  # a nan does not hide its column
    columns: Slots = np.argpartition(minima, count - 1, axis=1)[:, :count]
    lanes = np.arange(0, beyond, width, dtype=np.int64).reshape(-1, 1)
    candidates: Slots = (columns.reshape(lines, 1, count) + lanes).reshape(lines, -1)
    if beyond < length:
        rest = np.broadcast_to(np.arange(beyond, length, dtype=np.int64), (lines, length - beyond))
        candidates = np.concatenate((candidates, rest), axis=1)
    best: Slots = np.argpartition(at_each(scores, candidates), count - 1, axis=1)[:, :count]
    return at_each(candidates, best)


def at_each(lines: npt.NDArray[T], positions: Slots) -> npt.NDArray[T]:
    """What stands at these positions, shape (lines, n), of each line; the same shape. `take_along_axis`, in fewer steps."""
    if len(lines) == 1:
        return cast("npt.NDArray[T]", lines[0].take(positions))
    starts = np.arange(0, lines.size, lines.shape[1], dtype=np.int64)
    return lines.ravel().take(positions + starts.reshape(-1, 1))
