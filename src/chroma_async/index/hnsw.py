"""HNSW graphs by usearch: built aside, written as immutable files, searched through memory-mapped views.

One usearch object holds one mutex, so a file is opened through several views, and each search takes one of them. Where
codes tell neighbours apart, a graph keeps these (`coding.py`), and its file ends with what makes them. Otherwise cosine
graphs keep int8 (usearch's own cast normalises, which is right for cosine), l2 and ip graphs bfloat16.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from chroma_async.checksums import crc32
from chroma_async.errors import StorageCorrupt
from chroma_async.index.coding import (
    NO_ROWS,
    NOTHING_BESIDE,
    ODDNESS_MAX,
    OTHERS_MIN,
    OTHERS_SHARE_MAX,
    Beside,
    Codes,
    Coding,
    code_distances,
    decode_trailer,
    encode_trailer,
)
from chroma_async.index.crowds import CROWDED_ROWS, crowded_rows
from chroma_async.index.distance import distances
from chroma_async.index.usearch import usearch_index
from chroma_async.model import HnswConfiguration, Slots, Space, Vectors
from chroma_async.seams.files import opened
from chroma_async.seams.limits import free_bytes

if TYPE_CHECKING:
    from usearch.index import Index

METRICS: Final[dict[Space, str]] = {"l2": "l2sq", "ip": "ip", "cosine": "cos"}
PRECISIONS: Final[dict[Space, str]] = {"l2": "bf16", "ip": "bf16", "cosine": "i8"}
CHECKSUM_CHUNK: Final = 1 << 20
CHUNK_BYTES: Final = 2**20
"""A disk with less room than this is full."""

OTHER_QUERY_FACTOR: Final = 4

CODED_ROWS_AT_ONCE: Final = 4_096
COMPARED_ROWS_AT_ONCE: Final = 8_192
"""Rows whose codes are made, and whose codes are fetched to be compared, at a time."""

STRAYS_EF: Final = 256
STRAYS_MAX: Final = CROWDED_ROWS // 2
"""Where more of them are not found, what a graph keeps is too coarse for all rows, and comparing these would not help."""

STRAYS_FOUND: Final = 10
TIE: Final = 1e-5
"""Distances that differ by less, as a share, are equal but for rounding."""


class GraphBuilder:
    """A graph in memory, which takes the rows of a segment one after another.

    Rows of another kind than those that its coding was chosen for are not in it, and known by their numbers.
    """

    def __init__(
        self, index: Index, space: Space, coding: Coding | None, rows: int = 0, begun: Beside = NOTHING_BESIDE
    ) -> None:
        """`begun`: what stands beside the graph of the first rows, in the file that it was read from."""
        self.coding = coding
        self.rows = rows
        self._space: Space = space
        self._index: Any = index
        self._others = [begun.others]
        self._strays = NO_ROWS
        self._known = begun.codes
        """Of its first rows, where a file has them."""

    @classmethod
    def empty(cls, ndim: int, configuration: HnswConfiguration, coding: Coding | None = None) -> GraphBuilder:
        """Return a graph without rows, as the collection's configuration asks for it."""
        precision = configuration.precision or PRECISIONS[configuration.space]
        index = usearch_index()(
            ndim=ndim if coding is None else coding.dims,
            metric=METRICS[configuration.space] if coding is None else "l2sq",
            dtype=precision if coding is None else "i8",
            connectivity=max(2, configuration.max_neighbors),
            expansion_add=max(1, configuration.ef_construction),
            enable_key_lookups=False,
        )
        return cls(index, configuration.space, coding)

    @classmethod
    def load(cls, path: Path, configuration: HnswConfiguration, *, rows: int) -> GraphBuilder:
        """Return a graph file in memory, to be grown; it covers so many rows.

        Raises:
            StorageCorrupt: it can't be read.
            OSError: see `opened`.
        """
        mapped = _mapped(path)
        beside = decode_trailer(memoryview(mapped))
        index: Any = cast("Any", usearch_index()).restore(mapped, view=False, enable_key_lookups=False)
        if index is None:
            raise StorageCorrupt(f"graph file can't be read. path={path}")
        index.expansion_add = max(1, configuration.ef_construction)
        return cls(index, configuration.space, beside.coding, rows, beside)

    def extend(self, vectors: Vectors, *, threads: int) -> None:
        """Insert the next rows, shape (n, ndim), under their numbers."""
        keys = np.arange(self.rows, self.rows + len(vectors))
        if self.coding is None:
            self._index.add(keys.astype(np.uint64), np.ascontiguousarray(vectors), threads=threads)
        else:
            codes, oddness = self.coding.code(vectors)
            kin = oddness <= ODDNESS_MAX
            self._index.add(keys[kin].astype(np.uint64), codes[kin], threads=threads)
            self._others.append(keys[~kin])
        self.rows += len(vectors)

    def check(self, vectors: Vectors, *, threads: int) -> None:
        """Look for small crowds of rows that are far from most others; `vectors`, shape (rows, ndim), has all rows.

        A graph may have no way to such a crowd, or within it: other rows give up their links to it for nearer ones. Rows
        that most of their neighbours in the crowd do not find are compared by each search. By ip what is far is near to
        nobody, so nothing is looked for.
        """
        if self._space == "ip" or not len(self._index):
            return
        rows = crowded_rows(self._space, vectors, but=self._rows_beside)
        crowd = vectors[rows]
        wanted, missed = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
        for vector, keys in zip(crowd, self._found(crowd, threads), strict=True):
            if not len(keys):
                continue
            farthest = distances(self._space, vector, vectors[keys]).max()
            is_near = distances(self._space, vector, crowd) < farthest * (1 - TIE) - TIE * (self._space == "cosine")
            wanted += is_near
            missed += is_near & ~np.isin(rows, keys)
        strays = rows[missed * 2 > wanted]
        self._strays = strays if len(strays) <= STRAYS_MAX else NO_ROWS

    def _found(self, vectors: Vectors, threads: int) -> list[Slots]:
        """The nearest rows of vectors, shape (n, ndim), by the graph; it may find fewer than it is asked for."""
        if not len(vectors):
            return []
        self._index.expansion_search = STRAYS_EF
        asked = vectors if self.coding is None else self.coding.code(vectors)[0]
        matches = self._index.search(asked, min(STRAYS_FOUND, len(self._index)), threads=threads)
        return _rows_of(matches, len(vectors))

    @property
    def _rows_beside(self) -> Slots:
        return np.concatenate(self._others)

    def is_odd(self, rows: int) -> bool:
        """Whether too many of so many rows are not in the graph, so that another one has to code them otherwise."""
        return len(self._rows_beside) > max(OTHERS_MIN, rows * OTHERS_SHARE_MAX)

    def save(self, path: Path, vectors: Vectors) -> None:
        """Write a graph file; `vectors`, shape (rows, ndim), has all rows.

        usearch says of a failed write that it failed, and nothing of the last few kilobytes.

        Raises:
            OSError: the disk is full, or the directory gone.
        """
        try:
            self._index.save(str(path))
        except RuntimeError as error:
            if not path.parent.exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
            free = free_bytes(path.parent)
            if free is not None and free < CHUNK_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            raise
        if path.stat().st_size != self._index.serialized_length:
            raise OSError(errno.ENOSPC, "a graph was not written whole", str(path))
        beside = Beside(self.coding, self._rows_beside, self._strays)
        if not beside.is_empty:
            with path.open("ab") as file:
                for codes in self._codes(vectors):
                    file.write(codes.data.cast("B"))
                file.write(encode_trailer(beside, 0 if self.coding is None else self.rows))

    def _codes(self, vectors: Vectors) -> Generator[Codes]:
        """The codes of all rows, a part at a time."""
        if self.coding is None:
            return
        first = 0
        if self._known is not None:
            first = len(self._known)
            yield np.ascontiguousarray(self._known)
        for start in range(first, self.rows, CODED_ROWS_AT_ONCE):
            yield self.coding.code(vectors[start : min(start + CODED_ROWS_AT_ONCE, self.rows)])[0]


def _rows_of(matches: Any, queries: int) -> list[Slots]:
    """Row numbers that usearch found for each of some queries; for one alone it says no counts."""
    if queries == 1:
        return [np.asarray(matches.keys).reshape(-1).astype(np.int64)]
    counts = np.asarray(matches.counts)
    return [np.asarray(keys[:found]).astype(np.int64) for keys, found in zip(matches.keys, counts, strict=True)]


def checksum(path: Path) -> int:
    """CRC-32 of a file.

    Raises:
        StorageCorrupt, OSError: see `opened`.
    """
    value = 0
    with opened(path) as file:
        while chunk := file.read(CHECKSUM_CHUNK):
            value = crc32(chunk, value)
    return value


class GraphFile:
    """A published graph file. Searches run in parallel, each through a view of its own.

    The file stays mapped, so that it may be unlinked while it is searched.
    """

    def __init__(self, path: Path, *, rows: int, crc: int) -> None:
        """Check the file before it is mapped.

        Raises:
            StorageCorrupt: it is missing or damaged.
            OSError: see `opened`.
        """
        self._mapped = _mapped(path)
        if crc32(self._mapped) != crc:
            raise StorageCorrupt(f"graph file does not match its checksum. path={path}")
        self._beside = decode_trailer(memoryview(self._mapped))
        self.beside = np.union1d(self._beside.others, self._beside.strays)
        """Rows, ascending, that the graph does not have, or not find: every search has to compare them."""
        self.path = path
        self.rows = rows
        self._views: list[Index] = []
        self._lock = threading.Lock()

    @contextmanager
    def _view(self) -> Generator[Index]:
        with self._lock:
            view = self._views.pop() if self._views else None
        if view is None:
            view = cast("Any", usearch_index()).restore(self._mapped, view=True, enable_key_lookups=False)
        if view is None:
            raise StorageCorrupt(f"graph file has no valid header. path={self.path}")
        try:
            yield view
        finally:
            with self._lock:
                self._views.append(view)

    @property
    def dims(self) -> int | None:
        """Coordinates of a vector's code; None: it keeps vectors as they are."""
        return None if self._beside.coding is None else self._beside.coding.dims

    @property
    def has_codes(self) -> bool:
        """Whether rows may be compared by their codes."""
        return self._beside.codes is not None

    def nearest_of(self, query: Vectors, rows: Slots, count: int) -> Slots:
        """About the `count` nearest of these rows, by their codes, in no order; fewer where these are fewer.

        Rows beside the graph are not for it: codes say little of them.
        """
        coding, codes = self._beside.coding, self._beside.codes
        assert coding is not None
        assert codes is not None
        asked, oddness = coding.code(query[None, :])
        if not oddness[0] <= 1:
            count *= OTHER_QUERY_FACTOR
        if len(rows) <= count:
            return rows
        parts = [rows[start : start + COMPARED_ROWS_AT_ONCE] for start in range(0, len(rows), COMPARED_ROWS_AT_ONCE)]
        apart = np.concatenate([code_distances(asked[0], codes.take(part, axis=0)) for part in parts])
        nearest: Slots = rows[np.argpartition(apart, count - 1)[:count]]
        return nearest

    def search(self, queries: Vectors, count: int, *, ef: int) -> list[Slots]:
        """Row numbers of about the `count` nearest rows of each query, nearest first, but for those beside the graph.

        A query of another kind than the rows is answered by more: what it has across their directions ranks them too.
        """
        asked: Vectors | Codes = queries
        if self._beside.coding is not None:
            asked, oddness = self._beside.coding.code(queries)
            if not (oddness <= 1).all():
                count, ef = OTHER_QUERY_FACTOR * count, OTHER_QUERY_FACTOR * ef
        with self._view() as view:
            cast("Any", view).expansion_search = max(ef, count)
            matches: Any = cast("Any", view).search(asked, min(count, self.rows), threads=1)
        found, strays = _rows_of(matches, len(queries)), self._beside.strays
        return [rows[~np.isin(rows, strays)] for rows in found] if len(strays) else found


def _mapped(path: Path) -> mmap.mmap:
    try:
        with opened(path) as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # it is empty
        raise StorageCorrupt(f"graph file can't be mapped. path={path} reason={error}") from error
