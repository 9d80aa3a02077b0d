"""All records that a 1 % filter matches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from load_tests import bodies
from load_tests.bench import Bench, Reading
from load_tests.data import FILTERS
from load_tests.measures import Measure
from load_tests.scenarios.scenario import Scenario, require_rows


def get_filter(bench: Bench) -> list[Measure]:
    """Each of the hundred values of the field in turn."""
    workload, selection = bench.workload, FILTERS["1 %"]

    def check(number: int, answer: dict[str, Any]) -> None:
        require_rows(workload, answer, set(np.flatnonzero(selection.rows(number, len(workload.dataset))).tolist()))

    def encode() -> Iterator[bytes]:
        for number in range(selection.modulus):
            yield bodies.get(where=selection.where(number))

    requests = workload.requests("get filter", encode)
    return Reading(name="get filter", call="get", connections=4, requests=requests, check=check).run(bench)


SCENARIOS = (Scenario("get filter", "get all records of a 1 % filter, 4 connections", get_filter),)
