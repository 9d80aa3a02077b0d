"""Mixed work at a steady pace for as long as one likes, and what becomes of latency, lag, memory and disk meanwhile.

Every lane has a timetable, so that minutes compare; latencies count from when a request was due. Writers replace records
of one half of the collection by themselves and delete some of them, so that whatever is returned can be checked at any
time. In the end what was deleted is put back, and all must be there and found.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import orjson

from load_tests import bodies
from load_tests.api import Api
from load_tests.bench import N_RESULTS, Bench, Workload, percentile_ms
from load_tests.compare import collection
from load_tests.data import FILTERS, every_row
from load_tests.errors import WrongAnswer
from load_tests.generator import Lane, LaneResult, run_lanes
from load_tests.scenarios.ingest import ingest
from load_tests.scenarios.scenario import require_rows
from load_tests.servers import Server
from load_tests.watch import Seen, Watch, watching

KINDS = ("query", "filter", "get", "upsert", "delete")
RECALL_MIN = 0.97

_MINUTE_SECONDS = 60.0
_UPSERT_BATCH, _DELETE_BATCH = 50, 10
_PER_SECOND = {"query": 20.0, "filter": 10.0, "get": 10.0, "upsert": 4.0, "delete": 1.0}
"""Requests of each lane, at a pace of 1."""
_CALLS = {"query": "query", "filter": "query", "get": "get", "upsert": "upsert", "delete": "delete"}
_SHARE_OF_WRITERS = {"upsert": 0.75, "delete": 0.25}
_SHARE_OF_READERS = {"query": 0.5, "filter": 0.25, "get": 0.25}
"""Of the connections: each lane has one at the least."""
MEMORY_GROWTH_MAX = 1.10
DISK_GROWTH_MAX = 1.25
"""From the second third of the minutes to the last one; what happens in the first one is warming up."""
_JUDGED_MINUTES_MIN = 6
_CHECKED = 60
"""Answers of each reading lane that are checked every minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """What happened in one minute. None where server or system do not tell."""

    number: int
    seconds: float
    count: dict[str, int]
    p50_ms: dict[str, float]
    p99_ms: dict[str, float]
    busy_retries: int
    lag_seconds_p50: float | None
    lag_seconds_max: float | None
    memory_bytes: int | None
    """Proportional set size of all processes."""
    unevictable_bytes_max: int | None
    disk_bytes: int | None


@dataclass(slots=True)
class Soak:
    """A soak so far."""

    label: str
    minutes: list[Minute] = field(default_factory=list[Minute])
    recall: float | None = None
    """At the end, when all that was deleted is back."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """How many connections there are; the requests a second are the same for any number of them."""

    writers: int = 2
    readers: int = 3

    def connections(self, kind: str) -> int:
        """Those of one lane."""
        if kind in _SHARE_OF_WRITERS:
            return max(1, round(self.writers * _SHARE_OF_WRITERS[kind]))
        return max(1, round(self.readers * _SHARE_OF_READERS[kind]))


def soak(
    server: Server,
    workload: Workload,
    *,
    minutes: float,
    pace: float,
    crowd: Crowd,
    result: Soak,
    say: Callable[[Minute], None],
) -> None:
    """Load the server, and add each minute to `result` as it ends.

    Raises:
        RequestFailed: a request was refused or never answered.
        WrongAnswer: an answer has what the data excludes, the end is not what it should be, or memory or disk grow.
    """
    api = Api(server.address)
    with collection(api) as records_path:
        bench = Bench(workload, server, api, records_path)
        ingest(bench)
        with watching(server, api, records_path) as watch:
            left = minutes * _MINUTE_SECONDS
            for number in itertools.count(1):
                minute = _minute(bench, watch, number, min(left, _MINUTE_SECONDS), pace, crowd)
                result.minutes.append(minute)
                say(minute)
                left -= minute.seconds
                if left < 1:
                    break
        result.recall = _restored(bench)
    require_flat(result.minutes)


def require_flat(minutes: Sequence[Minute]) -> None:
    """Compare the last third of the minutes with the one before it; a few minutes say nothing.

    Raises:
        WrongAnswer: memory or disk grow.
    """
    if len(minutes) < _JUDGED_MINUTES_MIN:
        return
    third = len(minutes) // 3
    middle, last = minutes[third : 2 * third], minutes[2 * third :]
    for name, limit in (("memory_bytes", MEMORY_GROWTH_MAX), ("disk_bytes", DISK_GROWTH_MAX)):
        before, after = _most(middle, name), _most(last, name)
        if before and after and after > limit * before:
            raise WrongAnswer(f"{name} grow. second_third={before:,} last_third={after:,} growth_max={limit:g}")


def _most(minutes: Sequence[Minute], name: str) -> int:
    return max((getattr(minute, name) or 0 for minute in minutes), default=0)


def _minute(bench: Bench, watch: Watch, number: int, seconds: float, pace: float, crowd: Crowd) -> Minute:
    lanes = [_lane(bench, kind, seconds, pace, crowd.connections(kind)) for kind in KINDS]
    watch.take()
    results = dict(zip(KINDS, run_lanes(bench.api.address, lanes), strict=True))
    seen = watch.take()
    for kind in ("query", "filter", "get"):
        _check(bench.workload, kind, results[kind])
    return _summary(bench, number, seconds, results, seen)


def _summary(bench: Bench, number: int, seconds: float, results: dict[str, LaneResult], seen: Seen) -> Minute:
    local = bench.server.local
    return Minute(
        number=number,
        seconds=seconds,
        count={kind: result.count for kind, result in results.items()},
        p50_ms={kind: percentile_ms(result, 50) for kind, result in results.items()},
        p99_ms={kind: percentile_ms(result, 99) for kind, result in results.items()},
        busy_retries=sum(result.busy_retries for result in results.values()),
        lag_seconds_p50=float(np.median(seen.lags)) if seen.lags else None,
        lag_seconds_max=max(seen.lags, default=None),
        memory_bytes=local.memory_bytes() if local else None,
        unevictable_bytes_max=seen.unevictable_bytes_max,
        disk_bytes=local.disk_bytes() if local else None,
    )


def _lane(bench: Bench, kind: str, seconds: float, pace: float, connections: int) -> Lane:
    requests = bench.workload.requests(f"soak {kind}", partial(_BODIES[kind], bench.workload))
    return bench.lane(
        _CALLS[kind],
        requests,
        connections,
        seconds=seconds,
        interval_seconds=connections / (_PER_SECOND[kind] * pace),
        keep_answers=kind in ("query", "filter", "get"),
        processes=1,
    )


# --- requests


def _queries(workload: Workload) -> Iterator[bytes]:
    for number in workload.query_numbers:
        yield bodies.query(workload.dataset, number, N_RESULTS)


def _share_of(number: int) -> str:
    return list(FILTERS)[number % len(FILTERS)]


def _filtered(workload: Workload) -> Iterator[bytes]:
    for number in workload.query_numbers:
        yield bodies.query(workload.dataset, number, N_RESULTS, where=FILTERS[_share_of(number)].where(number))


def _gets(workload: Workload) -> Iterator[bytes]:
    """Ten ids each of the half that is left alone, which must all be there."""
    for rows in _picked(workload):
        yield bodies.get(ids=[workload.dataset.ids[row] for row in rows])


def _picked(workload: Workload) -> list[list[int]]:
    rows = np.random.default_rng(17).integers(_changing(workload), len(workload.dataset), (1000, N_RESULTS))
    return [sorted(set(each)) for each in rows.tolist()]


def _upserts(workload: Workload) -> Iterator[bytes]:
    rows = np.random.default_rng(19).permutation(_changing(workload)).tolist()
    for start in range(0, len(rows), _UPSERT_BATCH):
        yield bodies.write_batch(workload.dataset, rows[start : start + _UPSERT_BATCH])


def _deletes(workload: Workload) -> Iterator[bytes]:
    rows = np.random.default_rng(23).permutation(_changing(workload)).tolist()
    for start in range(0, len(rows), _DELETE_BATCH):
        yield orjson.dumps({"ids": [workload.dataset.ids[row] for row in rows[start : start + _DELETE_BATCH]]})


_BODIES: dict[str, Callable[[Workload], Iterator[bytes]]] = {
    "query": _queries,
    "filter": _filtered,
    "get": _gets,
    "upsert": _upserts,
    "delete": _deletes,
}


def _changing(workload: Workload) -> int:
    """Rows from 0 to here are replaced and deleted."""
    return len(workload.dataset) // 2


# --- checks


def _check(workload: Workload, kind: str, result: LaneResult) -> None:
    """Look whether answers are right; how many of the nearest they have is not known while records come and go."""
    picked = _picked(workload)
    for number, body in itertools.islice(result.answers.items(), _CHECKED):
        answer = orjson.loads(body)
        if kind == "get":
            require_rows(workload, answer, set(picked[number]))
        elif len(answer["ids"][0]) != N_RESULTS and kind == "query":
            raise WrongAnswer(f"query: too few records. got={len(answer['ids'][0])} n_results={N_RESULTS}")
        else:
            _recall(workload, number, answer, filtered=kind == "filter")


def _recall(workload: Workload, number: int, answer: dict[str, Any], *, filtered: bool) -> float:
    total = len(workload.dataset)
    if not filtered:
        return workload.exact.recall(answer, number, N_RESULTS, "none", partial(every_row, total))
    share = _share_of(number)
    match = partial(FILTERS[share].rows, number, total)
    return workload.exact.recall(answer, number, N_RESULTS, f"filter {share}", match)


def _restored(bench: Bench) -> float:
    """Put back what was deleted, and return the recall of all queries.

    Raises:
        WrongAnswer: something is missing or too much, or recall is too low.
    """
    workload = bench.workload
    lane = bench.lane("upsert", workload.requests("soak upsert", partial(_upserts, workload)), 1)
    run_lanes(bench.api.address, [lane])
    count = bench.api.count(bench.records_path)
    if count != len(workload.dataset):
        raise WrongAnswer(f"not the records that should be there. count={count} expected={len(workload.dataset)}")
    recalls: list[float] = []
    for kind in ("query", "filter"):
        requests = workload.requests(f"soak {kind}", partial(_BODIES[kind], workload))
        (result,) = run_lanes(bench.api.address, [bench.lane("query", requests, 4, keep_answers=True)])
        for number, body in result.answers.items():
            recalls.append(_recall(workload, number, orjson.loads(body), filtered=kind == "filter"))
    recall = math.fsum(recalls) / len(recalls)
    if recall < RECALL_MIN:
        raise WrongAnswer(f"recall is too low. recall={recall:.4f} least={RECALL_MIN}")
    return recall
