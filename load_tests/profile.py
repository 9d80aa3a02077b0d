"""Where the time of one query goes: each layer of an embedded query timed by itself, from the client down to the kernel.

Processor time of the calling thread, so that other processes count less; a layer includes those below it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numkong
import numpy as np

from chroma_async import PersistentClient
from chroma_async.engine import Engine
from chroma_async.engine.batch import QueryJob, search_alone
from chroma_async.engine.handlers.records import query as query_handler
from chroma_async.index.distance import distances, smallest_of_each
from chroma_async.protocol import QueryRecords
from load_tests.data import Dataset, Selection

N_RESULTS = 10
BATCH = 1_000
CANDIDATES = 42


@dataclass(frozen=True, slots=True)
class Layer:
    """Microseconds of processor time of one query in a layer: the tenth percentile and the median."""

    name: str
    low_us: float
    median_us: float


def profile(dataset: Dataset, rounds: int) -> dict[str, list[Layer]]:
    """Store the data in a temporary directory and time its queries, unfiltered and with filters of 1 and 50 %."""
    filters = {"no filter": None, "filter 1 %": Selection(100), "filter 50 %": Selection(2)}
    with tempfile.TemporaryDirectory(prefix="load-test-profile-") as directory:
        with PersistentClient(directory) as client:
            made = client.create_collection("films", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None)
            for first in range(0, len(dataset), BATCH):
                part = slice(first, first + BATCH)
                made.add(dataset.ids[part], dataset.vectors[part], dataset.metadatas[part], dataset.documents[part])
            while made.get_indexing_status().num_unindexed_ops:
                time.sleep(0.1)
        with PersistentClient(directory, compact=False) as client:
            found = client.get_collection("films", embedding_function=None)
            return {name: list(_layers(client, found, dataset, chosen, rounds)) for name, chosen in filters.items()}


def _layers(client: Any, collection: Any, dataset: Dataset, chosen: Selection | None, rounds: int) -> Iterator[Layer]:
    queries = dataset.queries
    wheres = [None if chosen is None else chosen.where(number) for number in range(len(queries))]

    def timed(name: str, call: Callable[[int], object]) -> Layer:
        seconds = []
        for number in range(rounds):
            started = time.thread_time()
            call(number % len(queries))
            seconds.append(time.thread_time() - started)
        low, median = np.percentile(seconds, [10, 50]) * 1e6
        return Layer(name, float(low), float(median))

    def ask(number: int) -> object:
        return collection.query(query_embeddings=queries[number : number + 1], n_results=N_RESULTS, where=wheres[number])

    ask(0)
    engine: Engine = client.transport._opened()
    calls = [_call(collection, queries[number : number + 1], where) for number, where in enumerate(wheres)]
    jobs = [_job(engine, call) for call in calls]
    while jobs[0].reader.is_to_be_packed:
        jobs[0].reader.pack()
    yield timed("client.query", ask)
    yield timed("  engine", lambda number: engine.answer_here(calls[number]))
    yield timed("    one search: view, filter, nearest, rows", lambda number: search_alone(jobs[number]))
    reader, model, needs = jobs[0].reader, jobs[0].collection, chosen is not None

    def pin(_: int) -> None:
        with reader.view(columns=needs, search=True):
            pass

    yield timed("      a read view", pin)
    with reader.view(columns=needs, search=True) as view:
        yield timed("      the filter's mask", lambda number: jobs[number].choose(view))
        masks = [job.choose(view) for job in jobs]
        yield timed("      nearest", lambda n: view.nearest(model, queries[n : n + 1], [masks[n]], [N_RESULTS]))
        scan, segment = view.image.scans[0], view.image.base.segments[0]
        if scan is not None and chosen is None:
            steps = np.ones((1, scan.dims), dtype=np.int8)
            yield timed("        scores of all rows", lambda n: scan.judged(queries[n : n + 1]))
            blocks = [block.packed for block in scan.blocks]
            yield timed("          numkong alone", lambda _: [numkong.dots_packed(steps, block) for block in blocks])
            line = scan.judged(queries[:1]).scores[0]
            yield timed("        candidates", lambda _: smallest_of_each(line[None, :], CANDIDATES)[0])
            rows = smallest_of_each(line[None, :], CANDIDATES)[0]
            yield timed("        exact distances", lambda n: distances("cosine", queries[n], segment.vectors[rows]))
        neighbours = view.nearest(model, queries[:1], [masks[0]], [N_RESULTS])
        yield timed("      rows of the result", lambda number: jobs[number].finish(view, neighbours))


def _call(collection: Any, query: Any, where: Any) -> QueryRecords:
    return QueryRecords(
        tenant=collection.tenant,
        database=collection.database,
        collection_id=str(collection.id),
        query_embeddings=query,
        n_results=N_RESULTS,
        where=where,
    )


class _Taken(Exception):
    """Carries the job that a handler made."""


class _Taker:
    """The engine as a query's handler sees it, but for the search, which is not made."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def batcher(self, _: Any) -> _Taker:
        return self

    async def run(self, job: QueryJob) -> None:
        raise _Taken(job)


def _job(engine: Engine, call: QueryRecords) -> QueryJob:
    handler: Any = query_handler(_Taker(engine), call)  # type: ignore[arg-type]
    try:
        handler.send(None)
    except _Taken as taken:
        job: QueryJob = taken.args[0]
        return job
    raise AssertionError("the handler made no search")


__all__ = ["Layer", "profile"]
