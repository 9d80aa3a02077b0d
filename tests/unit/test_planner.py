"""Plans promise no fewer results, whatever the counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from chroma_async.core.planner import (
    GATHER_ROWS_MAX,
    CompareAll,
    CompareCodes,
    ScanPacked,
    SearchGraph,
    SegmentCounts,
    candidates,
    plan_search,
)


@st.composite
def segments(draw: st.DrawFn) -> SegmentCounts:
    rows = draw(st.integers(0, 5_000_000))
    ndim = draw(st.sampled_from([1, 3, 384, 1536]))
    return SegmentCounts(
        rows=rows,
        graph_rows=draw(st.sampled_from([0, rows // 2, rows])),
        allowed=draw(st.integers(0, rows)),
        ndim=ndim,
        scan_dims=draw(st.sampled_from([None, ndim, -(-ndim // 2)])),
        graph_dims=draw(st.sampled_from([None, ndim, -(-ndim // 2)])),
        has_codes=draw(st.booleans()),
    )


arguments = {"n_results": st.integers(1, 100_000), "batch": st.integers(1, 64), "ef_search": st.integers(1, 2_000)}


@given(counts=segments(), **arguments)
def test_a_graph_is_asked_for_no_fewer_rows_than_are_wanted(
    counts: SegmentCounts, n_results: int, batch: int, ef_search: int
) -> None:
    plan = plan_search(counts, n_results=n_results, batch=batch, ef_search=ef_search)
    if isinstance(plan, SearchGraph):
        assert n_results <= candidates(n_results) <= plan.fetch <= plan.ef
        assert plan.fetch <= counts.graph_rows <= counts.rows
        assert plan.ef >= ef_search


@pytest.mark.parametrize("graph_dims", [None, 192])
def test_more_candidates_are_kept_of_larger_graphs_and_behind_filters(graph_dims: int | None) -> None:
    def ef(rows: int, allowed: int) -> int:
        counts = SegmentCounts(rows, rows, allowed, 384, None, graph_dims=graph_dims)
        plan = plan_search(counts, n_results=10, batch=1, ef_search=10)
        assert isinstance(plan, SearchGraph)
        return plan.ef

    assert ef(100_000, 100_000) < ef(200_000, 200_000) < ef(200_000, 100_000) < ef(200_000, 50_000)


@given(counts=segments(), **arguments)
def test_only_what_a_filter_leaves_of_coded_rows_is_ranked_by_codes(
    counts: SegmentCounts, n_results: int, batch: int, ef_search: int
) -> None:
    plan = plan_search(counts, n_results=n_results, batch=batch, ef_search=ef_search)
    if isinstance(plan, CompareCodes):
        assert counts.has_codes
        assert n_results < plan.fetch
        assert counts.allowed < counts.rows


@given(counts=segments(), **arguments)
def test_only_packed_rows_are_scanned(counts: SegmentCounts, n_results: int, batch: int, ef_search: int) -> None:
    plan = plan_search(counts, n_results=n_results, batch=batch, ef_search=ef_search)
    assert not isinstance(plan, ScanPacked) or counts.scan_dims is not None


@given(counts=segments(), **arguments)
def test_fewer_allowed_rows_never_turn_a_comparison_into_a_search(
    counts: SegmentCounts, n_results: int, batch: int, ef_search: int
) -> None:
    plan = plan_search(counts, n_results=n_results, batch=batch, ef_search=ef_search)
    fewer = plan_search(replace(counts, allowed=counts.allowed // 2), n_results=n_results, batch=batch, ef_search=ef_search)
    if isinstance(plan, CompareAll):  # of all rows none are ranked by codes
        assert isinstance(fewer, CompareAll) or (counts.allowed == counts.rows and isinstance(fewer, CompareCodes))
    assert not isinstance(fewer, SearchGraph) or isinstance(plan, SearchGraph)


@given(counts=segments(), more=st.integers(0, 1_000), **arguments)
def test_a_larger_batch_never_turns_a_scan_into_a_graph_search(
    counts: SegmentCounts, more: int, n_results: int, batch: int, ef_search: int
) -> None:
    plan = plan_search(counts, n_results=n_results, batch=batch, ef_search=ef_search)
    crowd = plan_search(counts, n_results=n_results, batch=batch + more, ef_search=ef_search)
    assert not isinstance(plan, ScanPacked) or isinstance(crowd, ScanPacked)


@pytest.mark.parametrize(
    ("counts", "n_results", "expected"),
    [
        (SegmentCounts(0, 0, 0, 8, None), 10, CompareAll),
        (SegmentCounts(10**6, 10**6, GATHER_ROWS_MAX, 384, None), 10, CompareAll),
        (SegmentCounts(5_000, 0, 5_000, 384, 384), 5_000, CompareAll),
        (SegmentCounts(20_000, 0, 20_000, 384, 192), 10, ScanPacked),
        (SegmentCounts(20_000, 0, 2_000, 384, 384), 10, ScanPacked),
        (SegmentCounts(20_000, 20_000, 20_000, 384, 192), 10, ScanPacked),
        (SegmentCounts(300_000, 300_000, 300_000, 384, 192), 10, SearchGraph),
        (SegmentCounts(10**6, 10**6, 10**6, 384, None), 10, SearchGraph),
        (SegmentCounts(10**6, 10**6, 500_000, 384, None), 10, SearchGraph),
        (SegmentCounts(10**6, 10**6, 100_000, 384, None), 10, SearchGraph),
        (SegmentCounts(10**6, 10**6, 10_000, 384, None), 10, CompareAll),
        (SegmentCounts(10**6, 10**6, 10_000, 384, None, graph_dims=192, has_codes=True), 10, CompareCodes),
        (SegmentCounts(10**6, 10**6, 500_000, 384, None, graph_dims=192, has_codes=True), 10, SearchGraph),
        (SegmentCounts(10**6, 10**6, 10**6, 384, None, graph_dims=192, has_codes=True), 10, SearchGraph),
        (SegmentCounts(10**6, 10**6, GATHER_ROWS_MAX, 384, None, graph_dims=192, has_codes=True), 10, CompareAll),
        (SegmentCounts(10**6, 10**6, 10_000, 384, None, graph_dims=192, has_codes=True), 10_000, CompareAll),
        (SegmentCounts(10**6, 0, 10**6, 384, None), 10, CompareAll),
        (SegmentCounts(10**6, 10**6, 2_000, 384, None), 1_000, CompareAll),
    ],
)
def test_every_plan_has_its_case(counts: SegmentCounts, n_results: int, expected: type) -> None:
    assert isinstance(plan_search(counts, n_results=n_results, batch=1, ef_search=100), expected)
