"""How to search one segment: a pure function from counts to a plan.

Costs are nanoseconds on the machine of docs/decisions/0003-scan-tier.md; only their ratios matter. A plan never decides how
many records a query returns: whatever it is, an exact search follows where too few candidates were found.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

from msgspec import Struct

GATHER_ROWS_MAX: Final = 1_024
"""So few rows are simply fetched and compared in float32; of more, what that costs is compared with what else there is."""

GATHER_NS: Final = 1.0
"""Per row and dimension."""

SCAN_BYTES_MAX: Final = 192 * 2**20
"""Memory for the packed rows of one segment; a larger one is searched by its graph, or in float32 from the disk."""

SCAN_BESIDE_GRAPH_ROWS_MAX: Final = 131_072
"""A segment with a graph is packed as a whole up to so many rows; of a larger one only the rows that its graph lacks are."""

SCAN_NS: Final = 0.008
SCAN_NS_PER_BATCH: Final = 0.075
"""Per row and dimension: what each query costs, and what is shared by the queries of a batch."""

GRAPH_NS_PER_CANDIDATE: Final = 12.0
"""Per candidate (ef) and dimension."""

CODES_NS: Final = 0.2
"""Per row and coordinate: to compare rows that a filter leaves by the codes of a graph."""

CODES_CANDIDATES: Final = 4
"""So many times as many of them are compared in float32 as of rows that are ranked by themselves: a filter leaves neighbours
that are farther apart than those of all rows, so hardly one is missed."""

EF_MIN: Final = 300
"""Candidates that a graph search keeps at the least: recall@10 of .98 on real vectors with float32 re-ranking."""

CODED_EF_SHARE: Final = 0.95
CODED_CANDIDATES: Final = 1.5
"""A graph of codes has so much of the other's candidates to find as much, and of what it finds so many
times as many are compared (docs/decisions/0027-graphs-of-codes.md)."""

EF_MIN_ROWS: Final = 65_536
EF_GROWTH: Final = 0.5
"""Of graphs with more rows a search keeps more, by this power of their number."""

EF_FILTERED: Final = 0.25
"""Behind a filter it looks farther out, where a graph finds less: it keeps more, by this power of rows over allowed ones."""


class SegmentCounts(Struct, frozen=True):
    """`rows` vectors of `ndim` dimensions, the first `graph_rows` of them in a graph; `allowed` of them may be returned.

    `graph_dims` is the number of coordinates of a vector in a graph of codes, None where it keeps vectors as they are;
    `has_codes` says whether its rows may be ranked by these alone, and `graph_beside` how many rows are compared beside it,
    since it does not have or find them.
    `scan_dims` is the number of coordinates of a packed row, None where rows are not packed; those before `scan_first` never
    are, those from `scan_beyond` on not yet; None: all are.
    """

    rows: int
    graph_rows: int
    allowed: int
    ndim: int
    scan_dims: int | None
    scan_first: int = 0
    scan_beyond: int | None = None
    graph_dims: int | None = None
    graph_beside: int = 0
    has_codes: bool = False

    @property
    def graph_coordinates(self) -> int:
        """Of a vector in the graph."""
        return self.ndim if self.graph_dims is None else self.graph_dims

    @property
    def unpacked(self) -> int:
        """Rows that are compared in float32 beside a scan."""
        return 0 if self.scan_beyond is None else self.rows - self.scan_beyond


class CompareAll(Struct, frozen=True):
    """Compare the allowed rows in float32: exact, and as slow as reading them."""


class ScanPacked(Struct, frozen=True):
    """Score all rows approximately, rank the best of the allowed ones in float32."""


class SearchGraph(Struct, frozen=True):
    """Take `fetch` rows from the graph, drop those not allowed, scan the rows that have no graph."""

    fetch: int
    ef: int


class CompareCodes(Struct, frozen=True):
    """Rank the allowed rows by their codes, the best `fetch` of them in float32; scan the rows that have no graph."""

    fetch: int


Plan: TypeAlias = CompareAll | ScanPacked | SearchGraph | CompareCodes


def plan_search(counts: SegmentCounts, *, n_results: int, batch: int, ef_search: int) -> Plan:
    """Choose how to find the `n_results` nearest of the allowed rows for each of `batch` queries."""
    if counts.allowed <= max(GATHER_ROWS_MAX, n_results):
        return CompareAll()
    plans: list[tuple[float, int, Plan]] = [(GATHER_NS * counts.allowed * counts.ndim, 2, CompareAll())]
    if counts.scan_dims is not None and not counts.scan_first:
        cost = _scan_cost(counts.rows, counts.scan_dims, batch) + GATHER_NS * counts.unpacked * counts.ndim
        plans.append((cost, 0, ScanPacked()))
    graph = _graph_plan(counts, n_results, ef_search)
    if graph is not None:
        plans.append((_graph_cost(counts, graph, batch), 1, graph))
    codes = _codes_plan(counts, n_results)
    if codes is not None:
        plans.append((_codes_cost(counts, codes, batch), 3, codes))
    return min(plans, key=lambda plan: plan[:2])[2]


def candidates(n_results: int) -> int:
    """How many approximately ranked rows are ranked again in float32."""
    return max(4 * n_results, n_results + 32)


def coded_candidates(n_results: int) -> int:
    """The same of those that codes have ranked."""
    return round(CODED_CANDIDATES * candidates(n_results))


def _graph_plan(counts: SegmentCounts, n_results: int, ef_search: int) -> SearchGraph | None:
    """Over-fetch by what is hidden; a filter that hides most rows is not a graph's work."""
    if not counts.graph_rows:
        return None
    is_coded = counts.graph_dims is not None
    wanted = coded_candidates(n_results) if is_coded else candidates(n_results)
    fetch = -(-wanted * counts.rows // counts.allowed)
    if fetch > counts.graph_rows // 8:
        return None
    filtered = math.pow(counts.rows / counts.allowed, EF_FILTERED)
    ef_min = round(filtered * _ef_min(counts.graph_rows, is_coded=is_coded))
    return SearchGraph(fetch=fetch, ef=max(ef_search, ef_min, 2 * fetch))


def _codes_plan(counts: SegmentCounts, n_results: int) -> CompareCodes | None:
    fetch = CODES_CANDIDATES * candidates(n_results)
    return CompareCodes(fetch) if counts.has_codes and fetch < counts.allowed < counts.rows else None


def _ef_min(rows: int, *, is_coded: bool) -> float:
    share = CODED_EF_SHARE if is_coded else 1.0
    return share * EF_MIN * math.pow(max(1.0, rows / EF_MIN_ROWS), EF_GROWTH)


def _scan_cost(rows: int, dims: int, batch: int) -> float:
    return rows * dims * (SCAN_NS + SCAN_NS_PER_BATCH / batch)


def _graph_cost(counts: SegmentCounts, plan: SearchGraph, batch: int) -> float:
    return plan.ef * counts.graph_coordinates * GRAPH_NS_PER_CANDIDATE + _beside_cost(counts, batch)


def _codes_cost(counts: SegmentCounts, plan: CompareCodes, batch: int) -> float:
    return (
        CODES_NS * counts.allowed * counts.graph_coordinates
        + GATHER_NS * plan.fetch * counts.ndim
        + _beside_cost(counts, batch)
    )


def _beside_cost(counts: SegmentCounts, batch: int) -> float:
    """Of rows that have no graph, or are not found by it."""
    rest_rows = counts.rows - counts.graph_rows
    if counts.scan_dims is None or counts.scan_first > counts.graph_rows:
        rest = GATHER_NS * rest_rows * counts.ndim
    else:
        unpacked = min(counts.unpacked, rest_rows)
        rest = _scan_cost(rest_rows, counts.scan_dims, batch) + GATHER_NS * unpacked * counts.ndim
    return GATHER_NS * counts.graph_beside * counts.ndim + rest
