"""Packs rows for scans as they come: those of a segment, and those of a tail."""

from __future__ import annotations

import threading
from typing import Any, Final, Protocol, cast

import numkong
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from chroma_async.index.axes import Axes, Squares, axes_of
from chroma_async.index.distance import squared_norms
from chroma_async.index.scan import FLOAT_ROUNDING, PackedBlock, Scan, quantise
from chroma_async.model import Space, Vectors

BLOCK_ROWS: Final = 16_384

TAIL_BLOCK_ROWS: Final = 1_024

ODD_ROWS_MAX: Final = 0.5
"""Share of a block's rows that may be of another kind; with more, all dimensions are kept."""

ROWS_AT_ONCE: Final = 256
"""Rows that are prepared together, so that what they are on the way stays in the processor's caches."""


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
        steps, weights = quantise(along)
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
