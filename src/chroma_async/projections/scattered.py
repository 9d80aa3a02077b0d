"""Vectors that are read in any order from a mapped file, where memory may have less room than the files take."""

from __future__ import annotations

import mmap
from typing import Final

from chroma_async.model import Slots, Vectors
from chroma_async.seams import pages

ASKED_AFTER_WAIT: Final = 64
"""Fetches for which all pages are asked for together, after one that had to wait for a page. Where nothing waits, asking
costs more than fetching."""


class ScatteredVectors:
    """Vectors, shape (rows, ndim), a few of which are wanted at a time, from anywhere. Any thread may ask."""

    def __init__(self, vectors: Vectors, mapped: mmap.mmap | None = None) -> None:
        """`mapped`: the file that begins with these vectors, mapped for this alone; None: they are in memory."""
        self.vectors: Vectors = vectors
        self._mapped = mapped
        self._row_bytes = 4 * vectors.shape[1]
        self._asked_more = 0
        if mapped is not None:
            pages.read_in_any_order(mapped)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def is_asking(self) -> bool:
        """Whether the next fetch asks for all of its pages together, since one of the latest had to wait."""
        return self._asked_more > 0

    def take(self, rows: Slots) -> Vectors:
        """The vectors of these rows, shape (n, ndim)."""
        if self._mapped is None:
            return self.vectors.take(rows, axis=0)
        if self._asked_more:
            self._asked_more -= 1
            for row in rows.tolist():
                self.ask_for(row, row + 1)
        before = pages.waits()
        found = self.vectors.take(rows, axis=0)
        if pages.waits() != before:
            self._asked_more = ASKED_AFTER_WAIT
        return found

    def ask_for(self, first: int, beyond: int) -> None:
        """Begin to read the rows from `first` on, those before `beyond`."""
        if self._mapped is not None:
            pages.ask_for(self._mapped, first * self._row_bytes, beyond * self._row_bytes)
