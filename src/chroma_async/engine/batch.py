"""Concurrent queries of one collection that meet are searched together: one read view, one scan.

A query that finds nobody searching starts at once, with those that arrived in the same turn of the event loop; those that
come while it runs form the next batch. So a lone query waits for nothing, and a crowd shares the cost of reading the
vectors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, cast

import numpy as np
from msgspec import Struct

from chroma_async.engine.collection import CollectionReader
from chroma_async.engine.ranking import Neighbours
from chroma_async.engine.read_view import View
from chroma_async.engine.reads import Kind, ReadRunner
from chroma_async.errors import ChromaError
from chroma_async.model import Collection, Mask, Vectors
from chroma_async.protocol.results import QueryResult
from chroma_async.seams import NobodyWaits, while_wanted

BATCH_QUERIES_MAX: Final = 64

BRIEF_RESULTS_MAX: Final = 512
"""A query that may return more records takes long, whatever others took."""


class QueryJob(Struct, frozen=True, eq=False):
    """One query call. `queries` has shape (queries, ndim); `choose` gives the mask of allowed slots in a view.

    The jobs of a batch have one reader and one collection, and either all of them look at the tail or none.
    """

    reader: CollectionReader
    collection: Collection
    queries: Vectors
    n_results: int
    needs_columns: bool
    needs_tail: bool
    tests_documents: bool
    choose: Callable[[View], Mask | None]
    finish: Callable[[View, Sequence[Neighbours]], QueryResult]

    @property
    def may_be_brief(self) -> bool:
        return len(self.queries) * self.n_results <= BRIEF_RESULTS_MAX


Outcome = QueryResult | Exception
Waiting = tuple[QueryJob, asyncio.Future[QueryResult]]


class QueryBatcher:
    """The queue of one collection's queries in one process. It keeps nothing of a collection that nobody queries."""

    def __init__(self, runner: ReadRunner) -> None:
        self._runner = runner
        self._waiting: list[Waiting] = []
        self._running: asyncio.Task[None] | None = None

    async def run(self, job: QueryJob) -> QueryResult:
        """Return the result of a query on a view that is taken after this call."""
        future: asyncio.Future[QueryResult] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, future))
        if self._running is None:
            self._running = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch = self._take()
                if not batch:
                    break
                try:
                    outcomes = await self._search(batch)
                except Exception as error:
                    outcomes = [error] * len(batch)
                for (_, future), outcome in zip(batch, outcomes, strict=True):
                    _resolve(future, outcome)
        finally:
            self._running = None

    async def _search(self, batch: Sequence[Waiting]) -> list[Outcome]:
        jobs, wanted = [job for job, _ in batch], [_is_wanted(future) for _, future in batch]
        kind: Kind | None = "query by document" if any(job.tests_documents for job in jobs) else "query"
        if not all(job.may_be_brief for job in jobs):
            kind = None
        count = sum(len(job.queries) for job in jobs)
        return await self._runner.run(lambda at_hand: _search(jobs, wanted, at_hand=at_hand), kind, count)

    def _take(self) -> list[Waiting]:
        self._waiting = [(job, future) for job, future in self._waiting if not future.done()]  # nobody waits for the others
        size, count = 0, 0
        for job, _ in self._waiting:
            size += len(job.queries)
            if count and (size > BATCH_QUERIES_MAX or job.needs_tail != self._waiting[0][0].needs_tail):
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch


def search_alone(job: QueryJob) -> QueryResult:
    """Answer one query, in this thread."""
    (outcome,) = _search([job], [lambda: True], at_hand=False)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _is_wanted(future: asyncio.Future[QueryResult]) -> Callable[[], bool]:
    return lambda: not future.cancelled()


def _search(jobs: Sequence[QueryJob], wanted: Sequence[Callable[[], bool]], *, at_hand: bool) -> list[Outcome]:
    """Choose, search all vectors at once, finish; a job that fails, or that nobody waits for, does so alone."""
    columns = any(job.needs_columns for job in jobs)
    with jobs[0].reader.view(columns=columns, at_hand=at_hand, tail=jobs[0].needs_tail, search=True) as view:
        chosen = [_attempt(job.choose, view, is_wanted) for job, is_wanted in zip(jobs, wanted, strict=True)]
        if all(isinstance(mask, NobodyWaits) for mask in chosen):
            raise NobodyWaits  # how long that took says nothing of such queries
        able = [position for position, mask in enumerate(chosen) if not isinstance(mask, Exception)]
        found = _search_together(view, [jobs[position] for position in able], [chosen[position] for position in able])
        outcomes: list[Outcome] = [mask if isinstance(mask, Exception) else RuntimeError() for mask in chosen]
        for position, neighbours in zip(able, found, strict=True):
            outcomes[position] = _finish(jobs[position], view, neighbours)
        return outcomes


def _attempt(choose: Callable[[View], Mask | None], view: View, is_wanted: Callable[[], bool]) -> Mask | Exception | None:
    try:
        with while_wanted(is_wanted):
            return choose(view)
    except (ChromaError, NobodyWaits) as error:
        return error


def _finish(job: QueryJob, view: View, neighbours: Sequence[Neighbours]) -> Outcome:
    try:
        return job.finish(view, neighbours)
    except ChromaError as error:
        return error


def _search_together(view: View, jobs: Sequence[QueryJob], masks: Sequence[object]) -> list[list[Neighbours]]:
    if not jobs:
        return []
    queries = jobs[0].queries if len(jobs) == 1 else np.concatenate([job.queries for job in jobs])
    spread: list[Mask | None] = []
    counts: list[int] = []
    for job, mask in zip(jobs, masks, strict=True):
        spread.extend([cast("Mask | None", mask)] * len(job.queries))
        counts.extend([min(job.n_results, view.image.live)] * len(job.queries))
    found = iter(view.nearest(jobs[0].collection, queries, spread, counts))
    return [[next(found) for _ in range(len(job.queries))] for job in jobs]


def _resolve(future: asyncio.Future[QueryResult], outcome: Outcome) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
