"""A page from beyond nine tenths of the collection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from load_tests import bodies
from load_tests.bench import Bench, Reading
from load_tests.errors import WrongAnswer
from load_tests.measures import Measure
from load_tests.scenarios.scenario import Scenario, require_documents

_PAGE = 100


def deep_page(bench: Bench) -> list[Measure]:
    """A hundred offsets in turn."""
    workload = bench.workload
    first, last = len(workload.dataset) * 9 // 10, len(workload.dataset) - _PAGE
    offsets = np.linspace(first, last, num=100, dtype=int).tolist()

    def check(_: int, answer: dict[str, Any]) -> None:
        rows = workload.exact.rows(answer["ids"])
        if len(rows) != _PAGE:
            raise WrongAnswer(f"a page is not full. records={len(rows)} limit={_PAGE}")
        require_documents(workload, answer, rows)

    def encode() -> Iterator[bytes]:
        for offset in offsets:
            yield bodies.get(limit=_PAGE, offset=offset)

    requests = workload.requests("deep page", encode)
    return Reading(name="deep page", call="get", connections=4, requests=requests, check=check).run(bench)


SCENARIOS = (Scenario("deep page", f"get limit={_PAGE} beyond 90 % of the collection, 4 connections", deep_page),)
