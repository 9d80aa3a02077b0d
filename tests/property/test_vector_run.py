"""Vectors in pieces are what one array of them would be, however they came and whatever was left behind."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chroma_async.core import vector_run
from chroma_async.core.vector_run import GrowingVectors, VectorRun
from chroma_async.model import Vectors

NDIM = 3


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_run, "PIECE_ROWS_MIN", 4)
        patch.setattr(vector_run, "ROOM_ROWS", (2, 8))
        yield


def numbered(first: int, count: int) -> Vectors:
    return np.arange(first * NDIM, (first + count) * NDIM, dtype=np.float32).reshape(count, NDIM)


def check(run: VectorRun, first: int, beyond: int, data: st.DataObject) -> None:
    """Everything that a run says is what an array would."""
    expected = numbered(first, beyond - first)
    count = len(expected)
    assert len(run) == count
    assert run.shape[0] == count
    if count:
        np.testing.assert_array_equal(run[:], expected)
    begin, end = sorted(data.draw(st.tuples(st.integers(0, count + 1), st.integers(0, count + 1))))
    np.testing.assert_array_equal(run[begin:end], expected[begin:end])
    if count:
        for most in (3, 60):
            rows = np.asarray(data.draw(st.lists(st.integers(0, count - 1), max_size=most)), dtype=np.int64)
            np.testing.assert_array_equal(run.take(rows), expected[rows])


@given(counts=st.lists(st.integers(0, 9), max_size=20), data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_run_is_what_one_array_would_be(counts: list[int], data: st.DataObject) -> None:
    growing, first, beyond = GrowingVectors(), 0, 0
    seen: list[tuple[VectorRun, int, int]] = []
    for count in counts:
        assert growing.append(numbered(beyond, count)) == beyond
        beyond += count
        assert growing.beyond == beyond
        if data.draw(st.booleans()):
            first = data.draw(st.integers(first, beyond))
        if data.draw(st.booleans()):
            growing = growing.from_position(first)
        seen.append((growing.run(first), first, beyond))
    for run, of_first, of_beyond in seen:  # though more came behind it, and others were left behind
        if of_beyond:  # before the first vector nobody knows how many dimensions there are
            check(run, of_first, of_beyond, data)


@pytest.mark.parametrize("row", [-1, 10])
@pytest.mark.parametrize("beside", [0, 200])
@pytest.mark.parametrize("pieces", [1, 2])
def test_rows_that_do_not_exist_are_refused(row: int, beside: int, pieces: int) -> None:
    growing = GrowingVectors()
    for first in range(0, 10, 10 // pieces):
        growing.append(numbered(first, 10 // pieces))
    rows = np.asarray([row] + [3] * beside, dtype=np.int64)
    with pytest.raises(IndexError):
        growing.run(0).take(rows)


def test_many_vectors_at_once_are_not_copied() -> None:
    growing = GrowingVectors()
    few, many = numbered(0, 3), numbered(3, 5)
    growing.append(few)
    growing.append(many)
    run = growing.run(0)
    assert np.shares_memory(run[3:8], many)
    assert not np.shares_memory(run[0:3], few)


def test_vectors_that_do_not_lie_where_numbers_may_are_copied() -> None:
    raw = bytearray(8 * NDIM * 4 + 1)
    unaligned = np.frombuffer(raw, dtype=np.float32, offset=1).reshape(8, NDIM)
    unaligned[:] = numbered(0, 8)
    growing = GrowingVectors()
    growing.append(unaligned)
    part = growing.run(0)[0:2]
    assert part.flags.aligned
    assert not np.shares_memory(part, unaligned)


def test_pieces_that_were_left_behind_are_let_go() -> None:
    growing = GrowingVectors()
    for first in range(0, 400, 4):
        growing.append(numbered(first, 4))
        growing = growing.from_position(first)
    assert len(growing._pieces) <= 2
    assert len(growing.from_position(400)._pieces) == 0
