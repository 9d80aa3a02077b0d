"""The comparison: the same work for each server and library, one after another, as columns of one report."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from load_tests import machine
from load_tests.api import Api
from load_tests.bench import Bench, Options, Workload
from load_tests.bystanders import Bystanders
from load_tests.ceiling import measure_ceiling
from load_tests.data import Dataset
from load_tests.embedded.measure import measure_embedded, our_python
from load_tests.errors import LoadTestError
from load_tests.generator import Lane
from load_tests.limit import measure_limit
from load_tests.measures import Column, Measure, median_column
from load_tests.report import Ceiling, Report
from load_tests.scenarios import Scenario
from load_tests.servers import Program, RemoteServer, Server, running

_HEARTBEAT_SECONDS_MAX = 10.0
_BYSTANDERS_SHARE_MAX = 0.05
_UNWATCHED = ("restart", "resources", "resources at the end")
"""Scenarios whose process time says nothing: one replaces the process, the others take an instant."""
_CEILING_CONNECTIONS = (1, 16)

Say = Callable[[str, str, list[Measure]], None]
"""Told of each scenario that is done: label, scenario, measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestants:
    """Who takes part. `embedded` maps the names of libraries to the interpreters that have them."""

    ours: Program | RemoteServer
    workers: int
    chroma: Program | None
    embedded: dict[str, Path]


def compare(
    contestants: Contestants,
    dataset: Dataset,
    options: Options,
    chosen: list[Scenario],
    *,
    repeat: int,
    command: str,
    say: Say,
) -> Report:
    """Measure everybody `repeat` times in turn, and return the medians.

    Raises:
        LoadTestError: something is missing, refuses requests, or answers wrongly.
    """
    facts = machine.describe()
    with workload_of(dataset, options) as workload:
        rounds = [list(_columns(contestants, workload, chosen, say)) for _ in range(repeat)]
        columns = [median_column(list(runs)) for runs in zip(*rounds, strict=True)]
        ceilings = [_ceiling(workload, connections) for connections in _CEILING_CONNECTIONS]
    return Report(
        dataset=dataset.name,
        options=options,
        repeat=repeat,
        command=command,
        machine=facts,
        columns={column.key: column for column in columns},
        ceilings=ceilings,
    )


@contextmanager
def workload_of(dataset: Dataset, options: Options) -> Generator[Workload, None, None]:
    """A workload whose request files end with the context."""
    with tempfile.TemporaryDirectory(prefix="load-test-requests-") as directory:
        yield Workload(dataset, options, Path(directory))


def _columns(contestants: Contestants, workload: Workload, chosen: list[Scenario], say: Say) -> Iterable[Column]:
    """Ours over HTTP and embedded, the limit of our server, then the peers."""
    ours = measure_server("ours", contestants.ours, workload, chosen, say)
    embedded = _said(measure_embedded("ours", our_python(), workload), say)
    ours.measures |= embedded.measures
    yield ours
    if workload.answer_bytes:
        yield _said(measure_limit(workload, contestants.workers), say)
    if contestants.chroma is not None:
        yield measure_server("chroma", contestants.chroma, workload, chosen, say)
    for name, python in contestants.embedded.items():
        yield _said(measure_embedded(name, python, workload), say)


def _said(column: Column, say: Say) -> Column:
    for scenario, measures in column.measures.items():
        say(column.label, scenario, measures)
    return column


@contextmanager
def started(target: Program | RemoteServer) -> Generator[Server, None, None]:
    """A server that is up: one that runs already, or one that is started in a fresh directory and stopped again."""
    with running(target) if isinstance(target, Program) else nullcontext(target) as server:
        yield server


def measure_server(key: str, target: Program | RemoteServer, workload: Workload, chosen: list[Scenario], say: Say) -> Column:
    """Measure one server, alone on the machine."""
    with started(target) as server:
        try:
            return _measure_running(key, server, workload, chosen, say)
        except LoadTestError as error:
            if server.local is None:
                raise
            raise type(error)(f"{error}\nend of the log of {server.label}:\n{server.local.last_words()}") from error


def _measure_running(key: str, server: Server, workload: Workload, chosen: list[Scenario], say: Say) -> Column:
    api = Api(server.address)
    api.wait_until_up(_HEARTBEAT_SECONDS_MAX)
    with collection(api) as records_path:
        bench = Bench(workload, server, api, records_path)
        column = Column(key, server.label, notes=bench.notes, timelines=bench.timelines)
        for scenario in chosen:
            column.measures[scenario.name] = _watched(scenario, bench)
            say(server.label, scenario.name, column.measures[scenario.name])
    return column


def _watched(scenario: Scenario, bench: Bench) -> list[Measure]:
    """Run a scenario, and note it when others kept the machine busy meanwhile."""
    local = bench.server.local
    if local is None or scenario.name in _UNWATCHED:
        return scenario.run(bench)
    bystanders = Bystanders(local)
    measures = scenario.run(bench)
    if (share := bystanders.share() or 0.0) > _BYSTANDERS_SHARE_MAX:
        bench.notes[f"{scenario.name}: percent of the processors taken by other processes"] = round(100 * share)
    return measures


@contextmanager
def collection(api: Api) -> Generator[str, None, None]:
    """A new collection; somebody else's server is left as it was found, also after a failure."""
    name = f"load-test-{uuid.uuid4().hex[:12]}"
    records_path = api.create_collection(name)
    try:
        yield records_path
    except BaseException:
        with suppress(LoadTestError):  # the first error is the one to report
            api.delete_collection(name)
        raise
    api.delete_collection(name)


def _ceiling(workload: Workload, connections: int) -> Ceiling:
    """Measure the generator with the plain queries and answers of the size our server gave."""
    lane = Lane(
        path="/query",
        requests=workload.plain_queries(),
        connections=connections,
        seconds=workload.options.seconds,
        processes=min(workload.options.processes, connections),
    )
    per_second = measure_ceiling(lane, answer_bytes=workload.answer_bytes)
    return Ceiling(connections=connections, answer_bytes=workload.answer_bytes, per_second=per_second)
