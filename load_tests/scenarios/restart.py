"""Stop the server, and start it again on its full directory."""

from __future__ import annotations

import time

from load_tests import bodies
from load_tests.bench import N_RESULTS, Bench
from load_tests.errors import WrongAnswer
from load_tests.measures import Measure
from load_tests.scenarios.scenario import Scenario

_SECONDS_MAX = 120.0


def restart(bench: Bench) -> list[Measure]:
    """From starting the process to its first answer to a query."""
    seconds = _restarted(bench) if bench.server.local else None
    return [Measure(name="first query after", value=seconds, unit="s", better="lower")]


def _restarted(bench: Bench) -> float:
    local = bench.server.local
    assert local is not None
    body = bodies.query(bench.dataset, 0, N_RESULTS)
    local.stop()
    started = time.perf_counter()
    local.spawn()
    answer = bench.api.first_answer(f"{bench.records_path}/query", body, _SECONDS_MAX)
    seconds = time.perf_counter() - started
    count = bench.api.count(bench.records_path)
    if len(answer["ids"][0]) != N_RESULTS or count != len(bench.dataset):
        raise WrongAnswer(f"restart: records are missing. count={count} ids={answer['ids'][0]}")
    return seconds


SCENARIOS = (Scenario("restart", "stop the server, start it again, time to its first answer", restart),)
