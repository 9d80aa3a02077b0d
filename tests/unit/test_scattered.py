"""Vectors that are read in any order are the same, whatever of their file is in memory and whatever the kernel was told."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from chroma_async.errors import StorageCorrupt
from chroma_async.model import Vectors
from chroma_async.projections import scattered
from chroma_async.projections.blocks import BLOCKS_AHEAD, VectorGuard, extended, rows_of_a_block
from chroma_async.projections.scattered import ScatteredVectors
from chroma_async.seams import pages

NDIM = 96
BLOCK_ROWS = rows_of_a_block(NDIM)
ROWS = (2 * BLOCKS_AHEAD + 3) * BLOCK_ROWS + 5


@pytest.fixture(scope="module")
def expected() -> Vectors:
    return np.random.default_rng(11).standard_normal((ROWS, NDIM)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path, expected: Vectors) -> Path:
    path = tmp_path / "vectors.f32"
    with path.open("wb") as file:
        file.write(expected.data)
        file.write(b"not published")
    return path


def opened(path: Path) -> ScatteredVectors:
    """The file newly mapped, with none of it in memory where the file system can do without."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return ScatteredVectors(np.frombuffer(mapped, dtype="<f4", count=ROWS * NDIM).reshape(ROWS, NDIM), mapped)


def test_the_rows_are_those_of_the_file_whether_or_not_they_were_in_memory(path: Path, expected: Vectors) -> None:
    random = np.random.default_rng(5)
    vectors = opened(path)
    for count in (0, 1, 7, 500, 10_000):
        rows = random.integers(ROWS, size=count)
        assert np.array_equal(vectors.take(rows), expected[rows])
    assert np.array_equal(vectors.take(np.asarray([0, ROWS - 1])), expected[[0, -1]])


def test_after_a_wait_for_the_disk_all_pages_of_a_fetch_are_asked_for_together(path: Path) -> None:
    vectors, rows = opened(path), np.arange(0, ROWS, 64)
    before = pages.waits()
    vectors.take(rows)
    if pages.waits() == before:
        assert not vectors.is_asking, "a file that is in memory needs no advice"
        return
    assert vectors.is_asking
    for _ in range(scattered.ASKED_AFTER_WAIT):
        vectors.take(rows)
    assert not vectors.is_asking, "what is in memory by now needs no advice any more"


def test_vectors_in_memory_are_read_in_the_same_way(expected: Vectors) -> None:
    vectors = ScatteredVectors(expected)
    vectors.ask_for(0, ROWS)
    assert np.array_equal(vectors.take(np.asarray([3, 1, 3])), expected[[3, 1, 3]])
    assert len(vectors) == ROWS


def test_every_block_is_checked_though_the_disk_is_asked_ahead(path: Path, expected: Vectors) -> None:
    sums = extended({}, 0, expected, BLOCK_ROWS)
    VectorGuard(path, opened(path), BLOCK_ROWS, list(sums.values())).check_from(0)
    for block in (0, BLOCKS_AHEAD, len(sums) - 1):
        damaged = dict(sums) | {block: sums[block] ^ 1}
        with pytest.raises(StorageCorrupt, match=f"block={block}"):
            VectorGuard(path, opened(path), BLOCK_ROWS, list(damaged.values())).check_from(0)
