"""The ten nearest, without a filter."""

from __future__ import annotations

from functools import partial
from typing import Any

from load_tests.bench import N_RESULTS, Bench, Reading
from load_tests.data import every_row
from load_tests.measures import Measure
from load_tests.scenarios.scenario import Scenario


def query(connections: int, bench: Bench) -> list[Measure]:
    """Answers with documents, metadata and distances."""
    every = partial(every_row, len(bench.dataset))

    def check(number: int, answer: dict[str, Any]) -> float:
        return bench.workload.exact.recall(answer, number, N_RESULTS, "none", every)

    requests = bench.workload.plain_queries()
    reading = Reading(
        name=f"query {connections}",
        call="query",
        connections=connections,
        requests=requests,
        check=check,
        checks=len(requests),
    )
    return reading.run(bench)


SCENARIOS = tuple(
    Scenario(f"query {connections}", f"query n_results=10, {connections} connection(s)", partial(query, connections))
    for connections in (1, 4, 16)
)
