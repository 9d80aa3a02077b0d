"""The load test of feeds believes no listener that lacks something."""

from __future__ import annotations

import pytest
from load_tests import data
from load_tests.errors import WrongAnswer
from load_tests.feed import Heard, follow
from load_tests.servers import our_program

WRITTEN = [["a", "b"], ["c"], ["d"]]


def test_what_was_written_is_accepted() -> None:
    Heard(0.0, [1, 2, 5], WRITTEN).check(WRITTEN, in_order=True)
    Heard(0.0, [1, 2, 5], [["c"], ["a", "b"], ["d"]]).check(WRITTEN, in_order=False)


@pytest.mark.parametrize(
    ("lsns", "ids", "message"),
    [
        ([1, 2], [["a", "b"], ["c"]], "other changes"),
        ([1, 2, 3], [["a"], ["c"], ["d"]], "other changes"),
        ([1, 2, 3, 4], [*WRITTEN, ["d"]], "other changes"),
        ([1, 2, 2], WRITTEN, "twice"),
        ([1, 3, 2], WRITTEN, "twice, or in another order"),
        ([1, 2, 3], [["c"], ["a", "b"], ["d"]], "in another order than they were written"),
    ],
)
def test_anything_else_ends_the_run(lsns: list[int], ids: list[list[str]], message: str) -> None:
    with pytest.raises(WrongAnswer, match=message):
        Heard(0.0, lsns, ids).check(WRITTEN, in_order=True)


def test_a_listener_follows_what_is_kept_and_what_is_new() -> None:
    lines = list[str]()
    followed = follow(our_program(1), data.synthetic(700, queries=1, ndim=16), 30, 0.5, lines.append)
    assert [(read.changes, read.records) for read in followed.histories] == [(2, 700), (30, 30)]
    assert len(followed.heard_ms) == len(followed.answered_ms) == 10
    assert 0 < min(followed.heard_ms) <= max(followed.heard_ms) < 10_000
    assert len(lines) == 4, lines
