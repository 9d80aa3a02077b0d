"""Ten records by id."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from load_tests import bodies
from load_tests.bench import N_RESULTS, Bench, Reading
from load_tests.measures import Measure
from load_tests.scenarios.scenario import Scenario, require_rows


def get_ids(bench: Bench) -> list[Measure]:
    """Ids from all over the collection."""
    workload = bench.workload
    count = len(workload.dataset)
    picked: list[list[int]] = np.random.default_rng(11).integers(0, count, (len(workload.query_numbers), N_RESULTS)).tolist()

    def check(number: int, answer: dict[str, Any]) -> None:
        require_rows(workload, answer, set(picked[number]))

    def encode() -> Iterator[bytes]:
        for rows in picked:
            yield bodies.get(ids=sorted({workload.dataset.ids[row] for row in rows}))

    requests = workload.requests("get ids", encode)
    return Reading(name="get ids", call="get", connections=4, requests=requests, check=check).run(bench)


SCENARIOS = (Scenario("get ids", "get 10 records by id, 4 connections", get_ids),)
