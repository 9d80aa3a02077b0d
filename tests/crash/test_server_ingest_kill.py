"""A server is killed in the middle of an ingest, a part of it or all of it: what it acknowledged is there, and once."""

from __future__ import annotations

import pytest
from load_tests import data
from load_tests.acceptance.kill import accept_kill
from load_tests.acceptance.verdict import Verdict
from load_tests.servers import our_program

ROUNDS = 2
SEED = 7
"""Kills the whole server, then the compactor."""


@pytest.mark.timeout(180)
def test_acknowledged_records_are_there_once_after_kills_in_the_middle_of_an_ingest() -> None:
    verdict = Verdict("kill")
    accept_kill(our_program(workers=2), data.synthetic(2000, queries=10, ndim=32), verdict, rounds=ROUNDS, seed=SEED)
    assert verdict.violations == []
    assert {figure.name: figure.value for figure in verdict.figures}["rounds"] == ROUNDS
