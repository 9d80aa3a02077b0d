"""Small crowds of rows that are far from most others: what a graph is likely to have no way to.

Which rows are far is told by some drawn ones, which of these are near to one another by comparing them: two matrix products
(docs/decisions/0027-graphs-of-codes.md).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from chroma_async.index.distance import ranking_scores, ranking_weights, squared_norms
from chroma_async.model import Slots, Space, Vectors

DRAWN_ROWS: Final = 64
OUTLYING_ROWS: Final = 2_048
CROWDED_ROWS: Final = 1_024
"""Of so many rows that are far from others, so many that are near to one another."""

OUTLYING_ROWS_AT_ONCE: Final = 8_192
CROWDED_ROWS_AT_ONCE: Final = 512


def crowded_rows(space: Space, vectors: Vectors, but: Slots) -> Slots:
    """Numbers, ascending, of rows of shape (n, ndim) that may be of small crowds far from all others.

    None of those of `but`, nor what has no direction or overflows: that is near to nobody.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        drawn = vectors[np.sort(np.random.default_rng(0).permutation(len(vectors))[:DRAWN_ROWS])]
        origin = drawn.mean(axis=0) if space == "l2" else np.float32(0)  # from there, large numbers do not cancel
        rows, far = _outlying(space, vectors, drawn - origin, origin, but)
        shares = _nearest(space, vectors[rows] - origin) / far
    crowded: Slots = np.sort(rows[np.argsort(shares)[:CROWDED_ROWS]])
    return crowded


def _nearest(space: Space, rows: Vectors) -> npt.NDArray[np.float32]:
    """How far each row, shape (n, ndim), is from the nearest of the others."""
    nearest = [np.empty(0, dtype=np.float32)]
    for start in range(0, len(rows), CROWDED_ROWS_AT_ONCE):
        apart = _distances(space, rows[start : start + CROWDED_ROWS_AT_ONCE], rows)
        apart[np.arange(len(apart)), start + np.arange(len(apart))] = np.inf
        nearest.append(apart.min(axis=1))
    return np.concatenate(nearest)


def _outlying(
    space: Space, vectors: Vectors, drawn: Vectors, origin: Vectors | np.float32, but: Slots
) -> tuple[Slots, npt.NDArray[np.float32]]:
    """Rows that are farthest from the drawn ones, and how far: from the sixth of these, since five may be of a crowd."""
    sixth, parts = min(5, len(drawn) - 1), list[npt.NDArray[np.float32]]()
    for start in range(0, len(vectors), OUTLYING_ROWS_AT_ONCE):
        rows = vectors[start : start + OUTLYING_ROWS_AT_ONCE] - origin
        parts.append(np.partition(_distances(space, rows, drawn), sixth, axis=1)[:, sixth].copy())  # not all of it
    far = np.concatenate(parts)
    far[but] = -np.inf
    far[~np.isfinite(far)] = -np.inf
    farthest: Slots = np.argsort(far)[-OUTLYING_ROWS:]
    farthest = farthest[far[farthest] > -np.inf]
    return farthest, far[farthest]


def _distances(space: Space, queries: Vectors, rows: Vectors) -> Vectors:
    """Distances by one matrix product, as exact as that is: shape (queries, rows). Queries without a direction get nan."""
    scores = ranking_scores(space, queries, rows, ranking_weights(space, rows))
    squares = squared_norms(queries)
    if space == "l2":
        scores += squares[:, None]
    else:
        scores /= np.sqrt(squares)[:, None]
        scores += 1
        scores[~(squares > 0)] = np.nan
    return scores
