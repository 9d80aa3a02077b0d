"""Exact distances in float32, by Chroma's formulas.

    l2      sum((a - b)^2)             squared, no root
    ip      1 - dot(a, b)
    cosine  1 - dot(a, b) / (|a| |b|)  1 when either vector is zero

Source: Chroma's documentation of `hnsw:space`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from chroma_async.model import Space, Vectors

Distances = npt.NDArray[np.float32]

LANES: Final = 16
COLUMNS_FROM: Final = 4_096


def distances(space: Space, query: Vectors, rows: Vectors) -> Distances:
    """Distances of one query, shape (ndim,), to rows, shape (n, ndim); shape (n,). Overflow gives inf or nan."""
    with np.errstate(over="ignore", invalid="ignore"):
        if space == "l2":
            return _squared_norms(rows - query)
        products: Distances = rows @ query
        if space == "cosine":
            products *= _inverse_norms(rows) * _inverse_norm(query)
        return np.subtract(np.float32(1), products, out=products)


def ranking_scores(space: Space, queries: Vectors, rows: Vectors) -> Distances:
    """Scores that rank as the distances do, up to rounding: shape (queries, n), by one matrix product."""
    with np.errstate(over="ignore", invalid="ignore"):
        products: Distances = queries @ rows.T
        if space == "l2":
            products *= np.float32(-2)
            products += _squared_norms(rows)
            return products
        if space == "cosine":
            products *= _inverse_norms(rows)
        return np.negative(products, out=products)


def ranking_slope(space: Space, query: Vectors) -> float:
    """How much a ranking score grows when the distance grows by one; the query has shape (ndim,)."""
    return float(np.linalg.norm(query.astype(np.float64))) if space == "cosine" else 1.0


def _squared_norms(rows: Vectors) -> Distances:
    norms: Distances = np.einsum("ij,ij->i", rows, rows)
    return norms


def _inverse_norms(rows: Vectors) -> Distances:
    """1 / |row|, and 0 for a zero row, which makes its cosine distance 1."""
    norms = np.sqrt(_squared_norms(rows))
    if norms.all():
        return np.divide(np.float32(1), norms, out=norms)
    return np.divide(np.float32(1), norms, out=np.zeros_like(norms), where=norms > 0)


def _inverse_norm(vector: Vectors) -> np.float32:
    norm = np.sqrt(vector @ vector)
    return np.float32(1 / norm) if norm > 0 else np.float32(0)


def smallest(scores: Distances, count: int) -> npt.NDArray[np.int64]:
    """Positions of the `count` smallest finite scores of shape (n,), in no order; +inf and nan are never chosen."""
    if len(scores) <= count:
        positions = np.arange(len(scores))
    elif not count:
        positions = np.empty(0, dtype=np.int64)
    elif len(scores) >= COLUMNS_FROM:
        positions = _smallest_by_columns(scores, count)
    else:
        positions = np.argpartition(scores, count - 1)[:count]
    return positions[scores[positions] < np.inf].astype(np.int64, copy=False)


def _smallest_by_columns(scores: Distances, count: int) -> npt.NDArray[np.int64]:
    """Partition the minima of 16 interleaved parts first: the smallest scores are in the columns of the smallest minima.

    Half the time of partitioning all scores.
    """
    width = len(scores) // LANES
    minima = np.fmin.reduce(scores[: width * LANES].reshape(LANES, width))  # a nan does not hide its column
    columns = np.argpartition(minima, count - 1)[:count] if count < width else np.arange(width)
    inside = (columns[:, None] + np.arange(0, width * LANES, width)).ravel()
    candidates = np.concatenate([inside, np.arange(width * LANES, len(scores))])
    return candidates[np.argpartition(scores[candidates], count - 1)[:count]]
