"""Vectors that come one entry after another and stay where they came: nothing is moved when more of them do.

One array for all would have to be moved whenever it is full, under a lock that reads wait for, and would hold a second copy
of what entries hold already.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np

from chroma_async.model import Slots, Vectors

PIECE_ROWS_MIN: Final = 256
"""An entry with so many vectors is a piece by itself, without a copy; smaller ones are copied into a common one."""

ROOM_ROWS: Final = (64, 1_024)
"""A common piece has room for as many vectors as there are, but no fewer and no more than these."""

ROWS_BY_ONE: Final = 8
"""Fewer rows for each piece are taken one by one."""


class VectorRun:
    """Vectors in a row, shape (n, ndim), float32, in pieces that lie apart. It never changes."""

    __slots__ = ("_firsts", "_pieces", "shape")

    def __init__(self, pieces: Sequence[Vectors], ndim: int) -> None:
        self._pieces = tuple(pieces)
        lengths = np.fromiter(map(len, self._pieces), dtype=np.int64, count=len(self._pieces))
        ends = np.cumsum(lengths)
        self._firsts: Slots = ends - lengths
        self.shape = (int(ends[-1]) if len(ends) else 0, ndim)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Vectors:
        """Rows from one to another, as an array; a view where they lie together."""
        first, beyond, _ = rows.indices(len(self))
        parts = self._within(first, beyond)
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty((0, self.shape[1]), dtype=np.float32)

    def _within(self, first: int, beyond: int) -> list[Vectors]:
        if first >= beyond:
            return []
        begin = int(np.searchsorted(self._firsts, first, side="right")) - 1
        end = int(np.searchsorted(self._firsts, beyond, side="left"))
        starts = self._firsts[begin:end].tolist()
        pieces = zip(self._pieces[begin:end], starts, strict=True)
        return [piece[max(first - start, 0) : beyond - start] for piece, start in pieces]

    def take(self, rows: Slots) -> Vectors:
        """A copy of these rows, shape (len(rows), ndim).

        Raises:
            IndexError: there is no such row.
        """
        if not len(rows):
            return np.empty((0, self.shape[1]), dtype=np.float32)
        if (rows[1:] < rows[:-1]).any():
            order = np.argsort(rows, kind="stable")
            taken = np.empty((len(rows), self.shape[1]), dtype=np.float32)
            taken[order] = self._take_ascending(rows[order])
            return taken
        return self._take_ascending(rows)

    def _take_ascending(self, rows: Slots) -> Vectors:
        if not 0 <= rows[0] <= rows[-1] < len(self):
            raise IndexError(f"no such row. first={rows[0]} last={rows[-1]} rows={len(self)}")
        taken = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        if len(rows) < ROWS_BY_ONE * len(self._pieces):
            where = np.searchsorted(self._firsts, rows, side="right") - 1
            inside = rows - self._firsts[where]
            for place, (number, row) in enumerate(zip(where.tolist(), inside.tolist(), strict=True)):
                taken[place] = self._pieces[number][row]
            return taken
        bounds = [*np.searchsorted(rows, self._firsts).tolist(), len(rows)]
        for piece, start, (begin, end) in zip(self._pieces, self._firsts.tolist(), itertools.pairwise(bounds), strict=True):
            taken[begin:end] = piece.take(rows[begin:end] - start, axis=0)
        return taken


class GrowingVectors:
    """Vectors by positions, which count on when the first of them are left behind."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        """The position of each piece's first vector."""
        self._pieces: list[Vectors] = []
        """All full, but for the last one, which has room for more where it is our own."""
        self._beyond = 0
        self._ndim = 0

    @property
    def beyond(self) -> int:
        """The position of the next vector."""
        return self._beyond

    def append(self, vectors: Vectors) -> int:
        """Take vectors, shape (n, ndim), which must not change any more; return the position of the first."""
        first = self._beyond
        if not len(vectors):
            return first
        self._ndim = vectors.shape[1]
        if len(vectors) >= PIECE_ROWS_MIN and vectors.flags.aligned and vectors.flags.c_contiguous:
            self._close()
            self._begin(vectors)
            self._beyond += len(vectors)
            return first
        taken = 0
        while taken < len(vectors):
            room = self._room(len(vectors) - taken)
            used = self._beyond - self._starts[-1]
            count = min(len(room) - used, len(vectors) - taken)
            room[used : used + count] = vectors[taken : taken + count]
            self._beyond += count
            taken += count
        return first

    def _close(self) -> None:
        """Let nobody write behind the last vector any more."""
        if self._pieces:
            self._pieces[-1] = self._pieces[-1][: self._beyond - self._starts[-1]]

    def _begin(self, piece: Vectors) -> None:
        self._starts.append(self._beyond)
        self._pieces.append(piece)

    def _room(self, wanted: int) -> Vectors:
        """The last piece, with room for one vector at least. Of pages that nobody wrote to there is only the address."""
        if not self._pieces or self._beyond - self._starts[-1] == len(self._pieces[-1]):
            least, most = ROOM_ROWS
            kept = self._beyond - self._starts[0] if self._starts else 0
            rows = min(max(least, wanted, kept), most)
            self._begin(np.empty((rows, self._ndim), dtype=np.float32))
        return self._pieces[-1]

    def run(self, first: int) -> VectorRun:
        """The vectors from a position on, which are kept."""
        number = max(bisect.bisect_right(self._starts, first) - 1, 0)
        pieces = self._pieces[number:]
        if pieces:
            pieces[-1] = pieces[-1][: self._beyond - self._starts[-1]]
            pieces[0] = pieces[0][first - self._starts[number] :]
        return VectorRun([piece for piece in pieces if len(piece)], self._ndim)

    def from_position(self, first: int) -> GrowingVectors:
        """The same, without pieces that end before a position. Only one of the two may be appended to from now on."""
        kept = GrowingVectors()
        number = max(bisect.bisect_right(self._starts, first) - 1, 0)
        if self._starts and self._starts[number] + len(self._pieces[number]) <= first:
            number += 1
        kept._starts, kept._pieces = self._starts[number:], self._pieces[number:]
        kept._beyond, kept._ndim = self._beyond, self._ndim
        return kept
