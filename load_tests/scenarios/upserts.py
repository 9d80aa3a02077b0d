"""Queries on four connections beside one writer that replaces records as fast as it is acknowledged.

Batches of 50: with these Chroma 1.5.9 takes about twice as many records a second as it answers queries beside them.
Smaller batches leave it more time for queries and larger ones less; neither changes the order of magnitude.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from load_tests import bodies
from load_tests.bench import Bench, Workload, percentile_ms, timeline
from load_tests.errors import WrongAnswer
from load_tests.generator import run_lanes
from load_tests.measures import Measure
from load_tests.scenarios.scenario import Scenario

_NAME = "upserts beside queries"
_BATCH = 50
_BATCHES = 200
_STEPS = 18


def upserts_beside_queries(bench: Bench) -> list[Measure]:
    """Reader and writer are both in a closed loop, for as long as all rounds of another scenario take."""
    options, workload = bench.options, bench.workload
    seconds = options.seconds * options.rounds
    reads = bench.lane("query", workload.plain_queries(), 4, seconds=seconds)
    upserts = workload.requests("upserts", lambda: _bodies(workload))
    writes = bench.lane("upsert", upserts, 1, seconds=seconds)
    read, written = run_lanes(bench.api.address, [reads, writes])
    for result in (read, written):
        bench.note(_NAME, result)
    bench.timelines[f"{_NAME}: query"] = timeline(read, step_seconds=seconds / _STEPS)
    bench.timelines[f"{_NAME}: upsert"] = timeline(written, step_seconds=seconds / _STEPS)
    _check(bench, written.count)
    return [
        Measure(name="queries", value=read.per_second, unit="1/s", better="higher"),
        Measure(name="query p99", value=percentile_ms(read, 99), unit="ms", better="lower"),
        Measure(name="upserts", value=written.count * _BATCH / written.seconds, unit="records/s", better="higher"),
        Measure(name="batch p99", value=percentile_ms(written, 99), unit="ms", better="lower"),
    ]


def _batches(workload: Workload) -> Iterator[tuple[list[int], list[int]]]:
    """Rows scattered over the collection, and the rows whose vectors they are given."""
    total = len(workload.dataset)
    rows = np.random.default_rng(13).permutation(total)[: _BATCHES * _BATCH]
    for start in range(0, len(rows) - _BATCH + 1, _BATCH):
        batch = rows[start : start + _BATCH]
        yield batch.tolist(), ((batch + 1) % total).tolist()


def _bodies(workload: Workload) -> Iterator[bytes]:
    for rows, others in _batches(workload):
        yield bodies.write_batch(workload.dataset, rows, vectors_from=others)


def _check(bench: Bench, count: int) -> None:
    """The last batch that was acknowledged must be there, and nothing more than before."""
    workload = bench.workload
    total = bench.api.count(bench.records_path)
    if total != len(workload.dataset):
        raise WrongAnswer(f"{_NAME}: upserts of known ids changed the count. count={total}")
    batches = list(_batches(workload))
    rows, others = batches[(count - 1) % len(batches)]
    stored = bench.api.vectors(bench.records_path, [workload.dataset.ids[row] for row in rows])
    for row, other in zip(rows, others, strict=True):
        if not np.allclose(stored[workload.dataset.ids[row]], workload.dataset.vectors[other], atol=1e-6):
            raise WrongAnswer(f"{_NAME}: an acknowledged upsert is not there. id={workload.dataset.ids[row]!r}")


SCENARIOS = (
    Scenario(_NAME, f"4 query connections beside one writer that upserts batches of {_BATCH}", upserts_beside_queries),
)
