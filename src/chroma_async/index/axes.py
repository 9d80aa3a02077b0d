"""The coordinates that rows are kept in: centred on their mean, and along their main directions where these hold nearly all.

Embeddings vary along some directions much more than along others, and a scan costs what its bytes cost to read
(docs/decisions/0005-scan-in-main-directions.md).
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Final, cast

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from chroma_async.index.distance import squared_norms
from chroma_async.model import Space, Vectors

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

SAMPLE_ROWS: Final = 4_096

POWER_STEPS: Final = 4

EIGENVECTORS_DIMENSIONS_MAX: Final = 768
"""Up to so many dimensions, decomposing the covariance is faster than power iteration."""

SPAN_MIN: Final = 1e-10
"""Share of the largest variance below which a direction counts as none."""

Squares = npt.NDArray[np.float32]


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
        inverse = inverse_lengths(rows)
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


def axes_of(rows: Vectors, space: Space) -> Axes:
    """Axes that suit these rows, shape (n, ndim), by a sample of them. Without directions where these would not pay."""
    sample = _sampled(rows)
    if space == "cosine":
        sample = sample * inverse_lengths(sample)[:, None]
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


def _sampled(rows: Vectors) -> Vectors:
    """Some of the rows, drawn: every fourth one would all be of one kind where kinds take turns."""
    if len(rows) <= SAMPLE_ROWS:
        return rows
    drawn = np.random.default_rng(0).permutation(len(rows))[:SAMPLE_ROWS]
    return rows[np.sort(drawn)]


def inverse_lengths(rows: Vectors) -> npt.NDArray[np.float32]:
    """1 / length of each row, shape (n,); of a row without a direction, 0."""
    lengths = np.sqrt(squared_norms(rows))
    known = (lengths > 0) & (lengths < np.inf)
    inverse: npt.NDArray[np.float32] = np.divide(np.float32(1), lengths, out=np.zeros_like(lengths), where=known)
    return inverse
