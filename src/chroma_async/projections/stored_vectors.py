"""Vectors in a mapped file, read in order or from anywhere, where memory may have less room than all files take."""

from __future__ import annotations

import mmap
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import numpy as np

from chroma_async.model import Slots, Vectors
from chroma_async.seams import pages

ASKED_AFTER_WAIT: Final = 64
"""Fetches for which all pages are asked for together, after one that had to wait for a page. Where nothing waits, asking
costs more than fetching."""

DENSE_ROWS_MIN: Final = 512
DENSE_SHARE: Final = 4
"""So many rows are asked for in any case where their pages are a quarter as many runs or fewer: rows in their order."""


class StoredVectors:
    """Vectors, shape (rows, ndim). Any thread may ask.

    Of a mapped file only the pages that are wanted are read, but for what is read `in_order`.
    """

    def __init__(self, vectors: Vectors, mapped: mmap.mmap | None = None) -> None:
        """`mapped`: the file that begins with these vectors; None: they are in memory."""
        self.vectors: Vectors = vectors
        self._mapped = mapped
        self._row_bytes = 4 * vectors.shape[1]
        self._asked_more = 0
        if mapped is not None:
            pages.read_from_anywhere(mapped)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def is_asking(self) -> bool:
        """Whether the next fetch asks for its pages together, since one of the latest had to wait."""
        return self._asked_more > 0

    def take(self, rows: Slots) -> Vectors:
        """The vectors of these rows, shape (n, ndim)."""
        if self._mapped is None or not len(rows):
            return self.vectors.take(rows, axis=0)
        if self._asked_more > 0:
            self._asked_more -= 1
            runs = self._runs(rows)
            if len(runs) > 1:  # if one that is not asked for has to be waited for, the next fetches are to ask, too
                del runs[self._asked_more % len(runs)]
            self._ask_for_runs(runs)
        elif len(rows) >= DENSE_ROWS_MIN and DENSE_SHARE * len(runs := self._runs(rows)) <= len(rows):
            self._ask_for_runs(runs)
        before = pages.waits()
        found = self.vectors.take(rows, axis=0)
        if pages.waits() != before:
            self._asked_more = ASKED_AFTER_WAIT
        return found

    def ask_for(self, first: int, beyond: int) -> None:
        """Begin to read the rows from `first` on, those before `beyond`."""
        if self._mapped is not None:
            pages.ask_for(self._mapped, first * self._row_bytes, beyond * self._row_bytes)

    @contextmanager
    def in_order(self) -> Generator[Vectors]:
        """All vectors, to be read one after another meanwhile."""
        if self._mapped is None:
            yield self.vectors
            return
        pages.read_in_order(self._mapped)
        try:
            yield self.vectors
        finally:
            pages.read_from_anywhere(self._mapped)

    def _runs(self, rows: Slots) -> list[tuple[int, int]]:
        """The pages of rows, as ranges of bytes; what touches is one."""
        distinct = np.unique(rows)
        first = distinct * self._row_bytes // mmap.PAGESIZE
        beyond = ((distinct + 1) * self._row_bytes - 1) // mmap.PAGESIZE + 1
        begins = np.flatnonzero(np.concatenate([[True], first[1:] > beyond[:-1]]))
        ends = np.append(begins[1:], len(distinct)) - 1
        starts, ends = first[begins] * mmap.PAGESIZE, beyond[ends] * mmap.PAGESIZE
        return list(zip(starts.tolist(), ends.tolist(), strict=True))

    def _ask_for_runs(self, runs: list[tuple[int, int]]) -> None:
        assert self._mapped is not None
        for start, end in runs:
            pages.ask_for(self._mapped, start, end)
