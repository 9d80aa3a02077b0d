"""Files of vectors and of their slots: appended to, or written anew. A manifest reaches what was written afterwards."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from chroma_async.checksums import crc32
from chroma_async.errors import StorageCorrupt
from chroma_async.model import Slots, Vectors
from chroma_async.projections.blocks import extended, rows_of_a_block
from chroma_async.projections.manifest import Manifest, SegmentRef
from chroma_async.projections.records import RecordTables
from chroma_async.projections.view import SEGMENTS, SLOTS_FILE, VECTORS_FILE, SegmentView
from chroma_async.seams import Files

BlockSums: TypeAlias = dict[tuple[int, int], int]
"""CRC-32 of blocks of vectors, by segment and block."""


class SegmentFiles:
    """Writes the segments of one collection. What is written is synced when a method returns."""

    def __init__(self, directory: Path, files: Files, tables: RecordTables) -> None:
        """`tables` are asked for checksums of what is there."""
        self._directory = directory
        self._files = files
        self._tables = tables

    def append(self, draft: Manifest, vectors: Vectors, slots: Slots, rows_max: int) -> tuple[Manifest, BlockSums]:
        """Append to the growing segment and its successors, each of which takes `rows_max` vectors.

        `vectors` has shape (n, ndim), `slots` shape (n,). Return the manifest that reaches them, and checksums that change.
        """
        sums: BlockSums = {}
        while len(vectors):
            draft, segment = self._growing(draft)
            count = min(len(vectors), max(1, rows_max - segment.rows))
            folder = self._directory / SEGMENTS / str(segment.number)
            part = np.ascontiguousarray(vectors[:count], dtype="<f4")
            part_slots = np.ascontiguousarray(slots[:count], dtype="<i8")
            self._write_at(folder / VECTORS_FILE, segment.rows * part.shape[1] * 4, part)
            self._write_at(folder / SLOTS_FILE, segment.rows * 8, part_slots)
            self._files.sync_directory(folder)
            rows = segment.rows + count
            grown = msgspec.structs.replace(segment, rows=rows, sealed=rows >= rows_max)
            if segment.block_rows:
                sums |= self._sums_after(segment, part)
                grown = msgspec.structs.replace(grown, slots_crc=crc_of(part_slots, segment.slots_crc or 0))
            draft = draft.replacing(segment.number, grown)
            vectors, slots = vectors[count:], slots[count:]
        return draft, sums

    def _growing(self, draft: Manifest) -> tuple[Manifest, SegmentRef]:
        """The segment that takes more vectors, a new one if need be, and the manifest that has it."""
        if draft.segments and not draft.segments[-1].sealed:
            return draft, draft.segments[-1]
        segment = SegmentRef(number=draft.next_file, rows=0, block_rows=rows_of_a_block(draft.dimension or 0), slots_crc=0)
        self._files.make_directory(self._directory / SEGMENTS / str(segment.number))
        self._files.sync_directory(self._directory / SEGMENTS)
        segments = (*draft.segments, segment)
        return msgspec.structs.replace(draft, segments=segments, next_file=draft.next_file + 1), segment

    def _sums_after(self, segment: SegmentRef, part: Vectors) -> BlockSums:
        """The checksums of blocks that appending changes: of the last one, which was short, and of new ones."""
        block, inside = divmod(segment.rows, segment.block_rows)
        known: dict[int, int] = {}
        if inside:
            last = self._tables.block_sum(segment.number, block)
            if last is None:
                raise StorageCorrupt(f"checksums of vectors are missing. path={self._directory} segment={segment.number}")
            known[block] = last
        changed = extended(known, segment.rows, part, segment.block_rows)
        return {(segment.number, block): crc for block, crc in changed.items()}

    def write_owned(self, number: int, view: SegmentView) -> tuple[SegmentRef, BlockSums]:
        """Write the vectors of a segment that are some record's as a new one of this number, block by block.

        Raises:
            StorageCorrupt: they are damaged. What is written anew gets a checksum anew.
        """
        rows = np.flatnonzero(view.owners >= 0)
        folder = self._directory / SEGMENTS / str(number)
        self._files.make_directory(folder)
        block_rows = rows_of_a_block(view.vectors.shape[1])
        found: list[int] = []
        self._files.write(folder / VECTORS_FILE, _blocks_of(view, rows, block_rows, found))
        self._files.sync(folder / VECTORS_FILE)
        owners = np.ascontiguousarray(view.owners[rows], dtype="<i8")
        self._write_at(folder / SLOTS_FILE, 0, owners)
        self._files.sync_directory(folder)
        self._files.sync_directory(folder.parent)
        sums = {(number, block): crc for block, crc in enumerate(found)}
        return SegmentRef(number, len(rows), block_rows=block_rows, slots_crc=crc_of(owners)), sums

    def _write_at(self, path: Path, offset: int, data: np.ndarray) -> None:
        self._files.write_at(path, offset, data.data.cast("B"))
        self._files.sync(path)


def _blocks_of(view: SegmentView, rows: Slots, block_rows: int, sums: list[int]) -> Generator[memoryview]:
    """The vectors of some rows, checked, block by block; the checksum of each is added to `sums`."""
    for start in range(0, len(rows), block_rows):
        some = rows[start : start + block_rows]
        view.check(some)
        part = np.ascontiguousarray(view.stored.take(some), dtype="<f4")
        sums.append(crc_of(part))
        yield part.data.cast("B")


def crc_of(array: npt.NDArray[Any], before: int = 0) -> int:
    """CRC-32 of an array's bytes, behind those that gave `before`."""
    return crc32(array.data.cast("B"), before)
