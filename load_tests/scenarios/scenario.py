"""What a scenario is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from load_tests.bench import Bench, Workload
from load_tests.errors import WrongAnswer
from load_tests.measures import Measure


@dataclass(frozen=True, slots=True)
class Scenario:
    """What it is called, what it does, and the function that does it."""

    name: str
    help: str
    run: Callable[[Bench], list[Measure]]


def require_rows(workload: Workload, answer: dict[str, Any], expected: set[int]) -> None:
    """Compare a get's answer with the rows asked for.

    Raises:
        WrongAnswer: other records, or others' documents or metadata.
    """
    rows = workload.exact.rows(answer["ids"])
    if set(rows) != expected:
        raise WrongAnswer(f"not the records asked for. expected={len(expected)} got={len(rows)}")
    require_documents(workload, answer, rows)


def require_documents(workload: Workload, answer: dict[str, Any], rows: list[int]) -> None:
    """Documents and metadata must be those of the ids beside them.

    Raises:
        WrongAnswer: one is not.
    """
    for row, document, metadata in zip(rows, answer["documents"], answer["metadatas"], strict=True):
        if document != workload.dataset.documents[row] or metadata["n"] != row:
            raise WrongAnswer(f"a document or metadata is not the id's own. id={workload.dataset.ids[row]!r}")
