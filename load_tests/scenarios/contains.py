"""The ten nearest among the documents that contain a word."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from load_tests import bodies
from load_tests.bench import N_RESULTS, Bench, Reading
from load_tests.data import Rows, common_words
from load_tests.measures import Measure
from load_tests.scenarios.scenario import Scenario


def contains(bench: Bench) -> list[Measure]:
    """Twenty words in turn, each found in about 1 % of the documents."""
    workload = bench.workload
    words = common_words(workload.dataset.documents, share=0.01, count=20)

    def word_of(number: int) -> str:
        return words[number % len(words)]

    def check(number: int, answer: dict[str, Any]) -> float:
        word = word_of(number)
        match = partial(_containing, workload.dataset.documents, word)
        return workload.exact.recall(answer, number, N_RESULTS, f"contains {word}", match)

    def encode() -> Iterator[bytes]:
        for number in workload.query_numbers:
            where_document = {"$contains": word_of(number)}
            yield bodies.query(workload.dataset, number, N_RESULTS, where_document=where_document)

    requests = workload.requests("contains", encode)
    return Reading(name="contains", call="query", connections=4, requests=requests, check=check).run(bench)


def _containing(documents: list[str], word: str) -> Rows:
    return np.fromiter((word in document for document in documents), dtype=np.bool_, count=len(documents))


SCENARIOS = (Scenario("contains", "query n_results=10 with $contains of a word in about 1 % of the documents", contains),)
