"""The compactor's decisions: work that is done about once for each row, however many pieces come."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chroma_async.core.planner import SCAN_BYTES_MAX
from chroma_async.core.upkeep import (
    PIECES_MAX,
    SegmentShape,
    graph_target,
    is_worth_rewriting,
    pieces_to_merge,
    segment_rows,
)


def merge_all(arrivals: list[int]) -> tuple[list[int], int]:
    """Let pieces come one by one; return the sizes that are left and the rows that were ever rewritten."""
    sizes: list[int] = []
    rewritten = 0
    for size in arrivals:
        sizes.append(size)
        count = pieces_to_merge(sizes)
        if count:
            merged = sum(sizes[-count:])
            rewritten += merged
            sizes[-count:] = [merged]
    return sizes, rewritten


@given(st.lists(st.integers(1, 100_000), max_size=300))
def test_pieces_stay_few_and_each_outweighs_the_newer_ones(arrivals: list[int]) -> None:
    sizes, _ = merge_all(arrivals)
    assert sum(sizes) == sum(arrivals)
    assert len(sizes) <= PIECES_MAX
    for position in range(len(sizes) - 1):
        assert sizes[position] >= 2 * sizes[position + 1]


@pytest.mark.parametrize("count", [100, 1_000, 20_000])
def test_each_row_is_rewritten_a_logarithmic_number_of_times(count: int) -> None:
    _, rewritten = merge_all([1] * count)
    assert rewritten <= 4 * count * math.log2(count)


@given(st.lists(st.integers(0, 1_000), max_size=40))
def test_merge_takes_existing_pieces_and_more_than_one(sizes: list[int]) -> None:
    assert pieces_to_merge(sizes) in {0, *range(2, len(sizes) + 1)}


@pytest.mark.parametrize("rows_min", [8, 1_000, 65_536])
def test_a_vector_is_inserted_into_a_graph_about_once_and_few_wait(rows_min: int) -> None:
    """Graphs are grown, not made anew: what is counted is how often a graph is written, and what waits beside it."""
    indexed = written = 0
    rows = 0
    while rows < 40 * rows_min:
        rows += max(1, rows_min // 7)
        target = graph_target(SegmentShape(rows, indexed, rows, sealed=False), rows_min)
        if target is not None:
            assert target == rows
            indexed, written = target, written + target
        assert rows - indexed < max(rows_min, 1)
    assert written < 45 * rows * max(1, math.log2(40))


@pytest.mark.parametrize(("ndim", "rows"), [(1, 524_288), (384, 524_288), (512, 393_216), (768, 262_144), (3_072, 262_144)])
def test_segments_are_larger_where_their_graph_has_a_process_of_its_own(ndim: int, rows: int) -> None:
    assert segment_rows(ndim, apart=True) == rows
    assert segment_rows(ndim, apart=False) == 262_144


@pytest.mark.parametrize("ndim", [1, 384, 512, 768])
def test_a_segment_without_a_graph_is_packed_rather_than_read(ndim: int) -> None:
    assert segment_rows(ndim, apart=True) * ndim <= SCAN_BYTES_MAX


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_at_rest_a_graph_grows_by_less_but_not_by_hardly_any(rows_min: int, indexed: int, waiting: int) -> None:
    shape = SegmentShape(rows=indexed + waiting, indexed=indexed, live=indexed + waiting, sealed=False)
    usual, resting = (graph_target(shape, rows_min, at_rest=at_rest) for at_rest in (False, True))
    assert usual is None or resting == usual
    if not indexed:
        assert resting == usual
    elif resting is not None:
        assert usual is not None or waiting >= max(rows_min // 8, indexed // 32)
    else:
        assert waiting < max(rows_min // 8, indexed // 32, 1)


def test_no_graph_below_the_least_number_of_rows() -> None:
    assert graph_target(SegmentShape(99, 0, 99, sealed=True), 100) is None
    assert graph_target(SegmentShape(100, 0, 100, sealed=False), 100) == 100
    assert graph_target(SegmentShape(100, 100, 100, sealed=True), 100) is None


@given(rows=st.integers(0, 10_000), dead=st.integers(0, 10_000))
def test_segments_are_rewritten_when_most_of_them_is_dead(rows: int, dead: int) -> None:
    shape = SegmentShape(rows, 0, max(0, rows - dead), sealed=True)
    assert is_worth_rewriting(shape) == (rows > 0 and min(dead, rows) * 2 > rows)
