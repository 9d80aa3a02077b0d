"""Add everything, count it, and wait until it is indexed."""

from __future__ import annotations

import time
from functools import partial

from load_tests import bodies
from load_tests.bench import N_RESULTS, Bench, percentile_ms
from load_tests.errors import WrongAnswer
from load_tests.generator import LaneResult
from load_tests.measures import Measure
from load_tests.scenarios.scenario import Scenario

_POLL_SECONDS = 0.1
_FIRST_ANSWER_SECONDS_MAX = 120.0


def ingest(bench: Bench) -> list[Measure]:
    """Vectors per second until all are acknowledged, and until all are indexed."""
    batches = partial(bodies.ingest_batches, bench.dataset, bench.options.batch)
    requests = bench.workload.requests("ingest", batches)
    result = bench.run("ingest", bench.lane("add", requests, min(4, len(requests))))
    indexed_seconds = _seconds_until_indexed(bench, result)
    total = len(bench.dataset)
    count = bench.api.count(bench.records_path)
    if count != total:
        raise WrongAnswer(f"ingest: not everything acknowledged is there. count={count} added={total}")
    indexed = total / indexed_seconds if indexed_seconds else None
    return [
        Measure(name="acknowledged", value=total / result.seconds, unit="vectors/s", better="higher"),
        Measure(name="indexed", value=indexed, unit="vectors/s", better="higher"),
        Measure(name="batch p99", value=percentile_ms(result, 99), unit="ms", better="lower"),
    ]


def _seconds_until_indexed(bench: Bench, result: LaneResult) -> float | None:
    """From the first request until no write waits for an index; None if that takes too long.

    A server that does not say how many wait indexes before it acknowledges, or when it is asked first: there, until
    the first query after the last acknowledgement is answered.
    """
    deadline = time.perf_counter() + bench.options.settle_seconds_max
    while (waiting := bench.api.unindexed(bench.records_path)) and time.perf_counter() < deadline:
        time.sleep(_POLL_SECONDS)
    if waiting is None:
        body = bodies.query(bench.dataset, 0, N_RESULTS)
        bench.api.first_answer(f"{bench.records_path}/query", body, _FIRST_ANSWER_SECONDS_MAX)
    if waiting:
        bench.notes["ingest unindexed"] = float(waiting)
        return None
    return time.perf_counter() - result.started_at


SCENARIOS = (Scenario("ingest", "add everything: 4 writers, batches of 500, base64 embeddings", ingest),)
