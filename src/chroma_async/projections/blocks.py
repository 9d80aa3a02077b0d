"""Checksums of vectors, block by block: what is read of a mapped file is checked before it is used, and checked once.

A segment's vectors are cut into blocks of about 256 KiB. Their CRC-32 are rows of `records.sqlite3`, changed in the
transaction that publishes the vectors. The last block of a growing segment is short; its checksum is extended, not
computed again. docs/decisions/0011 says why.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from chroma_async.checksums import crc32
from chroma_async.errors import StorageCorrupt
from chroma_async.model import Slots, Vectors
from chroma_async.projections.stored_vectors import StoredVectors

BLOCK_BYTES: Final = 256 * 2**10

BLOCKS_AHEAD: Final = 16
"""Blocks that the disk is asked for while those before them are checked."""


def rows_of_a_block(dimension: int) -> int:
    """How many vectors of this dimension a block has."""
    return max(1, BLOCK_BYTES // (4 * max(1, dimension)))


def extended(sums: Mapping[int, int], rows: int, added: Vectors, block_rows: int) -> dict[int, int]:
    """Return the checksums that change, by block, when vectors, shape (n, ndim), are appended to `rows` that are there."""
    changed: dict[int, int] = {}
    first, done = rows, 0
    while done < len(added):
        block, inside = divmod(first + done, block_rows)
        count = min(block_rows - inside, len(added) - done)
        part = np.ascontiguousarray(added[done : done + count], dtype="<f4").data.cast("B")
        changed[block] = crc32(part, sums[block] if inside else 0)
        done += count
    return changed


class VectorGuard:
    """Checks the blocks of one segment's mapped vectors, shape (rows, ndim), before they are read. Any thread may ask."""

    def __init__(
        self, path: Path, vectors: StoredVectors, block_rows: int, sums: Sequence[int] | npt.NDArray[np.int64]
    ) -> None:
        """`sums[i]` is the CRC-32 of block i; all of them are there.

        Raises:
            StorageCorrupt: there are fewer.
        """
        blocks = -(-len(vectors) // block_rows)
        if len(sums) != blocks:
            raise StorageCorrupt(f"checksums of vectors are missing. path={path} found={len(sums)} expected={blocks}")
        self._path = path
        self._vectors = vectors
        self._block_rows = block_rows
        self._sums = np.asarray(sums, dtype=np.int64)
        self._unchecked = np.ones(blocks, dtype=np.bool_)
        self._left = blocks
        self._lock = threading.Lock()

    def inherit(self, before: VectorGuard) -> None:
        """Take over what was checked of the same file when it had fewer rows."""
        whole = len(before._vectors) // before._block_rows
        self._unchecked[:whole] = before._unchecked[:whole]
        self._left = int(np.count_nonzero(self._unchecked))

    def check(self, rows: Slots) -> None:
        """Check the blocks of these rows.

        Raises:
            StorageCorrupt: a block does not match its checksum. It is the only copy of these vectors.
        """
        if self._left:
            self._check_blocks(np.unique(rows // self._block_rows))

    def check_from(self, first: int, beyond: int | None = None) -> None:
        """Check the blocks of the rows from `first` on, those before `beyond` or all; see `check`."""
        if self._left:
            beyond = len(self._vectors) if beyond is None else beyond
            self._check_blocks(np.arange(first // self._block_rows, -(-beyond // self._block_rows)))

    def _check_blocks(self, blocks: npt.NDArray[np.int64]) -> None:
        unchecked: list[int] = blocks[self._unchecked[blocks]].tolist()
        for block in unchecked[:BLOCKS_AHEAD]:
            self._ask_for(block)
        for place, block in enumerate(unchecked):
            for following in unchecked[place + BLOCKS_AHEAD : place + BLOCKS_AHEAD + 1]:
                self._ask_for(following)
            part = self._vectors.vectors[block * self._block_rows : (block + 1) * self._block_rows]
            if crc32(part.data.cast("B")) != self._sums[block]:
                raise StorageCorrupt(f"vectors do not match their checksum. path={self._path} block={block}")
            with self._lock:
                self._left -= bool(self._unchecked[block])
                self._unchecked[block] = False

    def _ask_for(self, block: int) -> None:
        first = block * self._block_rows
        self._vectors.ask_for(first, min(first + self._block_rows, len(self._vectors)))
