"""The ten nearest among the matches of a metadata filter, four connections."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from load_tests import bodies
from load_tests.bench import N_RESULTS, Bench, Reading
from load_tests.data import FILTERS
from load_tests.measures import Measure
from load_tests.scenarios.scenario import Scenario


def filtered_query(share: str, bench: Bench) -> list[Measure]:
    """A filter that matches a known share of the records."""
    selection, workload, name = FILTERS[share], bench.workload, f"filter {share}"

    def check(number: int, answer: dict[str, Any]) -> float:
        match = partial(selection.rows, number, len(workload.dataset))
        return workload.exact.recall(answer, number, N_RESULTS, name, match)

    def encode() -> Iterator[bytes]:
        for number in workload.query_numbers:
            yield bodies.query(workload.dataset, number, N_RESULTS, where=selection.where(number))

    requests = workload.requests(name, encode)
    return Reading(name=name, call="query", connections=4, requests=requests, check=check).run(bench)


SCENARIOS = tuple(
    Scenario(
        f"filter {share}",
        f"query n_results=10 with a metadata filter that matches {share}, 4 connections",
        partial(filtered_query, share),
    )
    for share in FILTERS
)
