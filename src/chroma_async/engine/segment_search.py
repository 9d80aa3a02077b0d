"""One segment, searched for a batch of queries: by its graph, by a scan, by codes, or by reading what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from chroma_async.core.planner import CompareCodes, Plan, ScanPacked, SearchGraph, SegmentCounts, plan_search
from chroma_async.engine.ranking import (
    CHUNK_ROWS,
    Neighbours,
    Ranking,
    Scored,
    in_parts,
    merged,
    rank,
    rank_all,
    scored_by_scan,
)
from chroma_async.index.hnsw import GraphFile
from chroma_async.index.packing import BLOCK_ROWS
from chroma_async.index.scan import Scan
from chroma_async.model import Mask, Slots, Space, Vectors
from chroma_async.projections.view import SegmentView

SCORES_BYTES_MAX: Final = 32 * 2**20
"""Scores of a scan that are there at once: of a larger batch it takes the queries in parts."""

SHARED_ROWS_MIN: Final = 65_536
"""A scan of fewer rows is over in the time that it takes to wake another thread, or a few of them."""


class _Chosen(Struct, frozen=True, eq=False):
    """How a segment answers one query: rows that may be returned, shape (rows,), None: all; their number; and the plan."""

    allowed: Mask | None
    allowed_count: int
    plan: Plan


class SegmentSearch:
    """One segment, searched for batches of queries. `owned`, shape (rows,), says which rows are somebody's; None: all."""

    def __init__(self, space: Space, ef_search: int, segment: SegmentView, scan: Scan | None, owned: Mask | None) -> None:
        self._space: Space = space
        self._ef_search = ef_search
        self._segment = segment
        self._scan = scan
        self._owned = owned
        self._owned_count = segment.rows if owned is None else int(np.count_nonzero(owned))

    def choose(self, masks: Sequence[Mask | None], counts: Sequence[int]) -> list[_Chosen]:
        """How each query is to be answered."""
        allowed_by: dict[int, tuple[Mask | None, int]] = {}
        chosen: dict[tuple[int, int], _Chosen] = {}
        for mask, count in zip(masks, counts, strict=True):
            if id(mask) not in allowed_by:  # the queries of one call have one mask
                allowed = self._allowed(mask)
                allowed_by[id(mask)] = allowed, self._count(allowed)
            if (id(mask), count) not in chosen:
                allowed, allowed_count = allowed_by[id(mask)]
                plan = self._plan(allowed_count, count, len(masks))
                chosen[id(mask), count] = _Chosen(allowed, allowed_count, plan)
        return [chosen[id(mask), count] for mask, count in zip(masks, counts, strict=True)]

    def takes_long(self, chosen: Sequence[_Chosen]) -> bool:
        """Whether that is worth a thread of its own. Threads that fetch vectors to compare them wait for one another."""
        long: set[type[Plan]] = {SearchGraph, ScanPacked} if self._segment.rows >= SHARED_ROWS_MIN else {SearchGraph}
        return any(type(one.plan) in long for one in chosen)

    def run(self, queries: Vectors, counts: Sequence[int], chosen: Sequence[_Chosen]) -> list[Neighbours]:
        """Answer each query as it was chosen."""
        found: dict[int, Neighbours] = {}
        scanned: list[int] = []
        for number, (query, one) in enumerate(zip(queries, chosen, strict=True)):
            if isinstance(one.plan, ScanPacked):
                scanned.append(number)
            else:
                found[number] = self._answer(query, one, counts[number])
        if scanned:
            found |= self._scan_together(queries, counts, chosen, scanned)
        return [found[number] for number in range(len(queries))]

    def _answer(self, query: Vectors, chosen: _Chosen, count: int) -> Neighbours:
        """Answer one query without a scan of all rows."""
        if isinstance(chosen.plan, SearchGraph):
            return self._search_graph(query, chosen.allowed, chosen.allowed_count, count, chosen.plan)
        if isinstance(chosen.plan, CompareCodes):
            assert chosen.allowed is not None  # where all rows are allowed, that is not planned
            return self._compare_codes(query, chosen.allowed, count, chosen.plan)
        return self._read_all(query, chosen.allowed, count)

    def _allowed(self, mask: Mask | None) -> Mask | None:
        """Rows that may be returned, shape (rows,); None: all of them."""
        if mask is None:
            return self._owned
        asked = self._segment.of_slots(mask)
        return asked if self._owned is None else self._owned & asked

    def _count(self, allowed: Mask | None) -> int:
        if allowed is None or allowed is self._owned:
            return self._owned_count
        return int(np.count_nonzero(allowed))

    def _plan(self, allowed: int, count: int, batch: int) -> Plan:
        graph = self._segment.graph
        shape = SegmentCounts(
            rows=self._segment.rows,
            graph_rows=0 if graph is None else graph.rows,
            allowed=allowed,
            ndim=self._segment.vectors.shape[1],
            scan_dims=None if self._scan is None else self._scan.dims,
            scan_first=self._segment.scan_first,
            scan_beyond=self._scan_beyond,
            graph_dims=None if graph is None else graph.dims,
            graph_beside=0 if graph is None else len(graph.beside),
            has_codes=graph is not None and graph.has_codes,
        )
        return plan_search(shape, n_results=count, batch=batch, ef_search=self._ef_search)

    @property
    def _scan_beyond(self) -> int:
        """The first row that is not packed, of those that are to be."""
        first = self._segment.scan_first
        return first if self._scan is None else min(first + self._scan.rows, self._segment.rows)

    def _fetch(self, rows: Slots) -> Vectors:
        return self._segment.stored.take(rows)

    def _rank(self, query: Vectors, rows: Slots, count: int) -> Neighbours:
        self._segment.check(rows)
        return rank(self._space, query, self._fetch, rows, self._segment.owners, count)

    def _read_all(self, query: Vectors, allowed: Mask | None, count: int, first: int = 0) -> Neighbours:
        if allowed is not None:
            return self._rank(query, first + np.flatnonzero(allowed[first:]), count)
        segment = self._segment
        segment.check_from(first)
        with segment.stored.in_order() as vectors:
            return rank_all(self._space, query, vectors[first:], segment.owners[first:], count)

    def _scan_together(
        self, queries: Vectors, counts: Sequence[int], chosen: Sequence[_Chosen], scanned: Sequence[int]
    ) -> dict[int, Neighbours]:
        """Answer queries of these numbers by one scan, and compare the rows that are not packed yet."""
        assert self._scan is not None
        found: dict[int, Neighbours] = {}
        for numbers in in_parts(scanned, SCORES_BYTES_MAX // (4 * self._scan.rows)):
            found.update(zip(numbers, self._scan_part(self._scan, queries, counts, chosen, numbers), strict=True))
        return found

    def _scan_part(
        self, scan: Scan, queries: Vectors, counts: Sequence[int], chosen: Sequence[_Chosen], numbers: Sequence[int]
    ) -> list[Neighbours]:
        queries, counts = queries[numbers], [counts[number] for number in numbers]
        masks, beyond = [chosen[number].allowed for number in numbers], self._scan_beyond
        allowed = [None if mask is None else mask[:beyond] for mask in masks]
        ranked = self._rank_scored(queries, scored_by_scan(scan.judged(queries), allowed, rows=beyond), counts)
        return [self._with_unpacked(*one) for one in zip(ranked, queries, masks, counts, strict=True)]

    def _with_unpacked(self, scanned: Neighbours, query: Vectors, allowed: Mask | None, count: int) -> Neighbours:
        if self._scan_beyond == self._segment.rows:
            return scanned
        return merged([scanned, self._read_all(query, allowed, count, self._scan_beyond)], count)

    def _rank_scored(self, queries: Vectors, scored: Scored, counts: Sequence[int]) -> list[Neighbours]:
        return Ranking(self._space, queries, self._fetch, self._segment.owners, scored).nearest(counts)

    def _search_graph(
        self, query: Vectors, allowed: Mask | None, allowed_count: int, count: int, plan: SearchGraph
    ) -> Neighbours:
        """Search the graph wider and wider until enough allowed rows are found; read all when that does not help."""
        graph = self._segment.graph
        assert graph is not None
        rest = self._rest(query, graph.rows, allowed, count)
        beside = graph.beside if allowed is None else graph.beside[allowed[graph.beside]]
        covered = allowed_count - self._count_beyond(graph.rows, allowed) - len(beside)
        fetch = plan.fetch
        while fetch <= graph.rows // 2:
            rows = self._graph_rows(graph, query, fetch, max(plan.ef, fetch), allowed)
            if len(rows) >= min(count, covered):
                rows = np.concatenate([rows, beside]) if len(beside) else rows
                return merged([self._rank(query, rows, count), rest], count)
            fetch *= 2
        return self._read_all(query, allowed, count)

    def _compare_codes(self, query: Vectors, allowed: Mask, count: int, plan: CompareCodes) -> Neighbours:
        graph = self._segment.graph
        assert graph is not None
        rest = self._rest(query, graph.rows, allowed, count)
        beside = graph.beside[allowed[graph.beside]]
        coded = allowed[: graph.rows]
        if len(beside):
            coded = coded.copy()
            coded[beside] = False  # codes say little of them: they would only take the places of others
        rows = graph.nearest_of(query, np.flatnonzero(coded), max(plan.fetch, count))
        return merged([self._rank(query, np.concatenate([rows, beside]), count), rest], count)

    def _graph_rows(self, graph: GraphFile, query: Vectors, fetch: int, ef: int, allowed: Mask | None) -> Slots:
        (rows,) = graph.search(query[None, :], fetch, ef=ef)
        return rows if allowed is None else rows[allowed[rows]]

    def _count_beyond(self, first: int, allowed: Mask | None) -> int:
        return self._segment.rows - first if allowed is None else int(np.count_nonzero(allowed[first:]))

    def _rest(self, query: Vectors, first: int, allowed: Mask | None, count: int) -> Neighbours:
        """The nearest of the rows that have no graph."""
        rows = self._scan_beyond - first
        if self._scan is None or rows <= CHUNK_ROWS:
            return self._read_all(query, allowed, count, first)
        block = (first - self._segment.scan_first) // BLOCK_ROWS
        offset = self._segment.scan_first + block * BLOCK_ROWS
        judged = self._scan.judged(query[None, :], first_block=block)
        rest = None if allowed is None else allowed[first : self._scan_beyond]
        scored = scored_by_scan(judged, [rest], rows=rows, skip=first - offset, first=first)
        (ranked,) = self._rank_scored(query[None, :], scored, [count])
        return self._with_unpacked(ranked, query, allowed, count)
