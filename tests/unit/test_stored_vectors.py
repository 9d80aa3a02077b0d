"""Vectors of a file are the same, whatever of it is in memory, and the kernel is told which of its pages are wanted."""

from __future__ import annotations

import mmap
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tests.support.engines import TINY, Records, compactor_at, create_collection, engine_at, settle

from chroma_async.errors import StorageCorrupt
from chroma_async.model import Vectors
from chroma_async.projections import sqlite_file
from chroma_async.projections.blocks import BLOCKS_AHEAD, VectorGuard, extended, rows_of_a_block
from chroma_async.projections.sqlite_file import SqliteFile
from chroma_async.projections.stored_vectors import ASKED_AFTER_WAIT, DENSE_ROWS_MIN, StoredVectors
from chroma_async.seams import pages

NDIM = 96
ROW_BYTES = 4 * NDIM
BLOCK_ROWS = rows_of_a_block(NDIM)
ROWS = (2 * BLOCKS_AHEAD + 3) * BLOCK_ROWS + 5
FAR = 10 * mmap.PAGESIZE // ROW_BYTES

Advice = list[tuple[int, int, int]]


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


@pytest.fixture
def advice(monkeypatch: pytest.MonkeyPatch) -> Advice:
    """What the kernel is told: advice, first byte, number of bytes."""
    given: Advice = []
    monkeypatch.setattr(pages, "_advise", lambda _, *advice: given.append(advice))
    return given


def opened(path: Path) -> StoredVectors:
    """The file newly mapped, with none of it in memory where the file system can do without."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return StoredVectors(np.frombuffer(mapped, dtype="<f4", count=ROWS * NDIM).reshape(ROWS, NDIM), mapped)


def test_the_rows_are_those_of_the_file_whether_or_not_they_were_in_memory(path: Path, expected: Vectors) -> None:
    random = np.random.default_rng(5)
    vectors = opened(path)
    for count in (0, 1, 7, 500, 10_000):
        rows = random.integers(ROWS, size=count)
        assert np.array_equal(vectors.take(rows), expected[rows])
    assert np.array_equal(vectors.take(np.asarray([0, ROWS - 1])), expected[[0, -1]])
    assert np.array_equal(vectors.take(np.arange(ROWS)), expected)
    with vectors.in_order() as whole:
        assert np.array_equal(whole, expected)


def test_only_what_is_read_in_order_comes_with_what_is_around_it(path: Path, advice: Advice) -> None:
    vectors, size = opened(path), path.stat().st_size
    assert advice == [(mmap.MADV_RANDOM, 0, size)]
    with vectors.in_order():
        assert advice[1:] == [(mmap.MADV_NORMAL, 0, size)]
    assert advice[2:] == [(mmap.MADV_RANDOM, 0, size)]


def test_after_a_wait_for_the_disk_the_pages_of_a_fetch_are_asked_for_together(
    path: Path, advice: Advice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but one: a page that was asked for is no wait any more, so that one tells whether to go on."""
    counts = iter([0, 1] + [1] * 2 * (ASKED_AFTER_WAIT + 2))
    monkeypatch.setattr(pages, "waits", lambda: next(counts))
    vectors, rows = opened(path), np.arange(4) * FAR
    vectors.take(rows)
    assert advice[1:] == []
    assert vectors.is_asking
    left = set[int]()
    for _ in range(ASKED_AFTER_WAIT):
        advice.clear()
        vectors.take(rows[::-1])
        asked = {start // mmap.PAGESIZE for _, start, _ in advice}
        assert [kind for kind, _, _ in advice] == [mmap.MADV_WILLNEED] * 3
        left |= {first // mmap.PAGESIZE for first in (rows * ROW_BYTES).tolist()} - asked
    assert left == {first // mmap.PAGESIZE for first in (rows * ROW_BYTES).tolist()}
    advice.clear()
    vectors.take(rows)
    assert advice == []


def test_many_rows_in_their_order_are_asked_for_at_once(path: Path, advice: Advice) -> None:
    opened(path).take(np.arange(DENSE_ROWS_MIN))
    asked = advice[1:]
    assert [start for _, start, _ in asked] == list(range(0, DENSE_ROWS_MIN * ROW_BYTES, pages.ASKED_BYTES))
    assert sum(length for _, _, length in asked) == -(-DENSE_ROWS_MIN * ROW_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE
    advice.clear()
    opened(path).take(np.arange(DENSE_ROWS_MIN) * (ROWS // DENSE_ROWS_MIN))
    assert len(advice) == 1


def test_vectors_in_memory_are_read_in_the_same_way(expected: Vectors) -> None:
    vectors = StoredVectors(expected)
    vectors.ask_for(0, ROWS)
    assert np.array_equal(vectors.take(np.asarray([3, 1, 3])), expected[[3, 1, 3]])
    with vectors.in_order() as whole:
        assert whole is expected


def test_every_block_is_checked_though_the_disk_is_asked_ahead(path: Path, expected: Vectors) -> None:
    sums = extended({}, 0, expected, BLOCK_ROWS)
    VectorGuard(path, opened(path), BLOCK_ROWS, list(sums.values())).check_from(0)
    for block in (0, BLOCKS_AHEAD, len(sums) - 1):
        damaged = dict(sums) | {block: sums[block] ^ 1}
        with pytest.raises(StorageCorrupt, match=f"block={block}"):
            VectorGuard(path, opened(path), BLOCK_ROWS, list(damaged.values())).check_from(0)


def test_the_disk_is_asked_for_all_of_the_blocks_that_are_checked(path: Path, expected: Vectors, advice: Advice) -> None:
    sums = list(extended({}, 0, expected, BLOCK_ROWS).values())
    guard = VectorGuard(path, opened(path), BLOCK_ROWS, sums)
    guard.check_from(0)
    asked = sorted((start, start + length) for _, start, length in advice[1:])
    assert asked[0][0] == 0
    assert asked[-1][1] >= expected.nbytes
    assert all(before[1] >= after[0] for before, after in pairwise(asked))
    assert max(length for _, _, length in advice[1:]) <= pages.ASKED_BYTES, "Linux leaves out the rest"
    advice.clear()
    guard.check_from(0)
    assert advice == []


@pytest.mark.anyio
async def test_a_base_reads_its_vectors_from_anywhere(tmp_path: Path, advice: Advice) -> None:
    async with engine_at(tmp_path, TINY) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add([f"r{row}" for row in range(50)], np.ones((50, 4), dtype=np.float32))
        async with compactor_at(tmp_path, TINY) as compactor:
            await settle(compactor)
        advice.clear()
        await records.query([[1.0] * 4])
        assert mmap.MADV_RANDOM in {kind for kind, _, _ in advice}


@pytest.mark.parametrize(("limit", "mapped"), [(10**6, True), (100, False)])
def test_large_tables_are_not_mapped(tmp_path: Path, limit: int, mapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "MAPPED_BYTES_MAX", limit)
    for _ in range(2):
        file = SqliteFile(tmp_path / "records.sqlite3", writable=True)
        file._connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
        found = file._number("PRAGMA mmap_size")
        file.close()
    assert found == (limit if mapped else 0)
