"""What all scenarios share: the data, the options, the server of the moment, and prepared requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import orjson

from load_tests import bodies
from load_tests.api import Api
from load_tests.data import Dataset
from load_tests.errors import WrongAnswer
from load_tests.exact import Exact
from load_tests.generator import Lane, LaneResult, run_lane
from load_tests.measures import Better, Measure, Moment
from load_tests.requests import RequestFile
from load_tests.servers import Server

N_RESULTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much to do."""

    seconds: float = 3.0
    """Length of one timed round."""
    rounds: int = 3
    """Timed rounds of a scenario; the median counts."""
    checks: int = 200
    """Requests of a scenario whose answers are checked before the timed rounds; they also warm the server up. Plain
    queries are quick and decide on recall: all of them are checked."""
    batch: int = 500
    settle_seconds_max: float = 120.0
    processes: int = 1
    """Generator processes of a lane, if it has that many connections."""


@dataclass(slots=True)
class Workload:
    """The data, its ground truth, and request files that are encoded once and sent to every server."""

    dataset: Dataset
    options: Options
    directory: Path
    exact: Exact = field(init=False)
    answer_bytes: int = 0
    """Size of a typical answer to a query, in bytes; known after the first."""
    _files: dict[str, RequestFile] = field(default_factory=dict[str, RequestFile], init=False)

    def __post_init__(self) -> None:
        self.exact = Exact(self.dataset)

    def requests(self, name: str, bodies: Callable[[], Iterable[bytes]]) -> RequestFile:
        """The request file of a name, encoded on first use."""
        if name not in self._files:
            self._files[name] = RequestFile.write(self.directory / name, bodies())
        return self._files[name]

    def plain_queries(self) -> RequestFile:
        """All queries, without a filter."""
        return self.requests("query", lambda: (bodies.query(self.dataset, n, N_RESULTS) for n in self.query_numbers))

    @property
    def query_numbers(self) -> range:
        """Numbers of all queries."""
        return range(len(self.dataset.queries))


@dataclass(slots=True)
class Bench:
    """One server under test with one collection."""

    workload: Workload
    server: Server
    api: Api
    records_path: str
    notes: dict[str, float] = field(default_factory=dict[str, float])
    """Side figures worth keeping in the JSON, by name: retries, reconnects."""
    timelines: dict[str, list[Moment]] = field(default_factory=dict[str, list[Moment]])
    """Latencies over time, by scenario."""

    @property
    def dataset(self) -> Dataset:
        """The data."""
        return self.workload.dataset

    @property
    def options(self) -> Options:
        """How much to do."""
        return self.workload.options

    def lane(self, call: str, requests: RequestFile, connections: int, **fields: Any) -> Lane:
        """A lane of requests to one record route: add, query, get, upsert."""
        fields.setdefault("processes", min(self.options.processes, connections))
        return Lane(path=f"{self.records_path}/{call}", requests=requests, connections=connections, **fields)

    def run(self, scenario: str, lane: Lane) -> LaneResult:
        """Run one lane and note what was unusual."""
        result = run_lane(self.api.address, lane)
        self.note(scenario, result)
        return result

    def note(self, scenario: str, result: LaneResult) -> None:
        """Remember retries and reconnects of a lane."""
        for name, count in (("busy_retries", result.busy_retries), ("reconnects", result.reconnects)):
            if count:
                key = f"{scenario} {name}"
                self.notes[key] = self.notes.get(key, 0) + count


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A closed-loop scenario that only reads: check some answers, then time rounds."""

    name: str
    call: str
    connections: int
    requests: RequestFile
    check: Callable[[int, dict[str, Any]], float | None]
    """Raises `WrongAnswer`, or returns the recall of an answer (request number, answer) where there is one."""
    checks: int | None = None
    """Answers to check; None: as many as the options say."""

    def run(self, bench: Bench) -> list[Measure]:
        """Check, then time."""
        recall = self._checked(bench)
        rounds = list(self._rounds(bench))
        measures = [
            self._median("throughput", "1/s", "higher", [r.per_second for r in rounds]),
            self._median("p50", "ms", "lower", [percentile_ms(r, 50) for r in rounds]),
            self._median("p99", "ms", "lower", [percentile_ms(r, 99) for r in rounds]),
        ]
        if recall is not None:
            measures.append(Measure(name="recall@10", value=recall, unit="", better="higher"))
        return measures

    def _checked(self, bench: Bench) -> float | None:
        """Send the first requests once each, untimed, and return the mean recall of their answers."""
        first = self.requests.first(self.checks or bench.options.checks)
        result = bench.run(self.name, bench.lane(self.call, first, self.connections, keep_answers=True))
        if self.call == "query":
            bench.workload.answer_bytes = bench.workload.answer_bytes or result.answer_bytes // result.count
        recalls = [self._judge(number, body) for number, body in sorted(result.answers.items())]
        known = [recall for recall in recalls if recall is not None]
        return float(np.mean(known)) if known else None

    def _judge(self, number: int, body: bytes) -> float | None:
        try:
            return self.check(number, orjson.loads(body))
        except WrongAnswer as error:
            raise WrongAnswer(f"{self.name}, request {number}: {error}") from error

    def _rounds(self, bench: Bench) -> Iterator[LaneResult]:
        lane = bench.lane(self.call, self.requests, self.connections, seconds=bench.options.seconds)
        for _ in range(bench.options.rounds):
            yield bench.run(self.name, lane)

    def _median(self, name: str, unit: str, better: Better, values: list[float]) -> Measure:
        return Measure(name=name, value=median(values), unit=unit, better=better)


def percentile_ms(result: LaneResult, percent: float) -> float:
    """A percentile of the latencies, in milliseconds."""
    return float(np.percentile(np.frombuffer(result.latencies_seconds), percent)) * 1000


def timeline(result: LaneResult, *, step_seconds: float) -> list[Moment]:
    """Latencies over time, by pieces of `step_seconds` in which answers came."""
    ends = np.frombuffer(result.answered_at) - result.started_at
    latencies = np.frombuffer(result.latencies_seconds) * 1000
    pieces = (ends / step_seconds).astype(int)
    moments: list[Moment] = []
    for piece in np.unique(pieces).tolist():
        within = latencies[pieces == piece]
        p50, p99 = np.percentile(within, [50, 99]).tolist()
        moments.append(Moment(piece * step_seconds, p50, p99, len(within) / step_seconds))
    return moments
