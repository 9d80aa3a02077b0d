"""HNSW graphs by usearch: built aside, written as immutable files, searched through memory-mapped views.

One usearch object holds one mutex, so a file is opened through several views, and each search takes one of them. Cosine
graphs keep int8 (usearch's own cast normalises, which is right for cosine), l2 and ip graphs bfloat16.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from chroma_async.checksums import crc32
from chroma_async.errors import StorageCorrupt
from chroma_async.index.usearch import Index
from chroma_async.model import HnswConfiguration, Space, Vectors

METRICS: Final[dict[Space, str]] = {"l2": "l2sq", "ip": "ip", "cosine": "cos"}
PRECISIONS: Final[dict[Space, str]] = {"l2": "bf16", "ip": "bf16", "cosine": "i8"}
CHECKSUM_CHUNK: Final = 1 << 20


def empty_graph(ndim: int, configuration: HnswConfiguration) -> Index:
    """Return a graph without rows, as the collection's configuration asks for it."""
    return Index(
        ndim=ndim,
        metric=METRICS[configuration.space],
        dtype=configuration.precision or PRECISIONS[configuration.space],
        connectivity=max(2, configuration.max_neighbors),
        expansion_add=max(1, configuration.ef_construction),
        enable_key_lookups=False,
    )


def grow(graph: Index, vectors: Vectors, *, first: int, threads: int) -> None:
    """Insert rows, shape (n, ndim), under the keys `first`, `first + 1`, ..."""
    keys = np.arange(first, first + len(vectors), dtype=np.uint64)
    cast("Any", graph).add(keys, np.ascontiguousarray(vectors), threads=threads)


def load_graph(path: Path, configuration: HnswConfiguration) -> Index:
    """Return a graph file in memory, to be grown."""
    loaded: Any = cast("Any", Index).restore(str(path), view=False, enable_key_lookups=False)
    if loaded is None:
        raise StorageCorrupt(f"graph file can't be read. path={path}")
    loaded.expansion_add = max(1, configuration.ef_construction)
    graph: Index = loaded
    return graph


def checksum(path: Path) -> int:
    """CRC-32 of a file.

    Raises:
        StorageCorrupt: it is not there.
    """
    value = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHECKSUM_CHUNK):
                value = crc32(chunk, value)
    except OSError as error:
        raise StorageCorrupt(f"file can't be read. path={path} reason={error}") from error
    return value


class GraphFile:
    """A published graph file. Searches run in parallel, each through a view of its own.

    The file stays mapped, so that it may be unlinked while it is searched.
    """

    def __init__(self, path: Path, *, rows: int, crc: int) -> None:
        """Check the file before it is mapped.

        Raises:
            StorageCorrupt: it is missing or damaged.
        """
        try:
            with path.open("rb") as file:
                self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise StorageCorrupt(f"graph file can't be mapped. path={path} reason={error}") from error
        if crc32(self._mapped) != crc:
            raise StorageCorrupt(f"graph file does not match its checksum. path={path}")
        self.path = path
        self.rows = rows
        self._views: list[Index] = []
        self._lock = threading.Lock()

    @contextmanager
    def _view(self) -> Generator[Index]:
        with self._lock:
            view = self._views.pop() if self._views else None
        if view is None:
            view = cast("Any", Index).restore(self._mapped, view=True, enable_key_lookups=False)
        if view is None:
            raise StorageCorrupt(f"graph file has no valid header. path={self.path}")
        try:
            yield view
        finally:
            with self._lock:
                self._views.append(view)

    def search(self, queries: Vectors, count: int, *, ef: int) -> list[npt.NDArray[np.int64]]:
        """Row numbers of about the `count` nearest rows of each query, nearest first."""
        with self._view() as view:
            cast("Any", view).expansion_search = max(ef, count)
            matches: Any = cast("Any", view).search(queries, min(count, self.rows), threads=1)
        if queries.shape[0] == 1:
            return [np.asarray(matches.keys).reshape(-1).astype(np.int64)]
        counts = np.asarray(matches.counts)
        return [np.asarray(keys[:found]).astype(np.int64) for keys, found in zip(matches.keys, counts, strict=True)]
