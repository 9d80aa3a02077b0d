"""What an answer shows, as predicates that `deviations` and `tolerances` name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.compat.differential.exchange import Answer, Json

Sees = Callable[[Answer], bool]


def refused(status: int, *parts: str, error: str | None = None) -> Sees:
    return lambda answer: (
        answer.status == status
        and all(part in answer.message for part in parts)
        and (error is None or answer.error == error)
    )


def found(*ids: str) -> Sees:
    """These records, by get or by a single query."""
    return lambda answer: answer.status == 200 and flat(answer.body["ids"]) == list(ids)


def shows(column: str, *values: Json) -> Sees:
    """The column of get, or of a single query, has these values."""
    return lambda answer: answer.status == 200 and flat(answer.body[column]) == list(values)


def answered(status: int = 200, test: Callable[[Json], bool] = lambda body: True) -> Sees:
    return lambda answer: answer.status == status and test(answer.body)


def dropped(answer: Answer) -> bool:
    """The connection was closed instead of an answer."""
    return answer.status == 0


def flat(column: list[Any]) -> list[Any]:
    return column[0] if column and isinstance(column[0], list) else column
