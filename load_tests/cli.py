"""The command line: `compare` measures, `smoke` only makes sure that everything runs and answers rightly."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from load_tests import data, machine
from load_tests.acceptance.commands import app as accept
from load_tests.api import Api
from load_tests.bench import Bench, Options, Workload
from load_tests.bystanders import Bystanders
from load_tests.ceiling import measure_ceiling
from load_tests.errors import LoadTestError, Unavailable, WrongAnswer
from load_tests.generator import Lane
from load_tests.measures import Measure
from load_tests.report import Ceiling, Column, Report, format_value
from load_tests.scenarios import SCENARIOS, Scenario, choose
from load_tests.servers import Program, RemoteServer, Server, our_program, peer_program, running

_HERE = Path(__file__).resolve().parent
_DATA_DEFAULT = _HERE.parent / "../shared/data"
_HEARTBEAT_SECONDS_MAX = 10.0
_BYSTANDERS_SHARE_MAX = 0.05
_UNWATCHED = ("restart", "resources")
"""Scenarios whose process time says nothing: one replaces the process, one takes an instant."""
_SMOKE_RECALL_MIN = 0.9
_WIDTH_MIN = 110
"""Columns of text that the table needs, also where the output is not a terminal."""

app = typer.Typer(
    help="Load tests over the Chroma HTTP API v2.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)
app.add_typer(accept, name="accept")
console = Console(width=max(Console().width, _WIDTH_MIN))

UrlOption = Annotated[str | None, typer.Option(help="Measure this running server instead of starting ours.")]
WorkersOption = Annotated[int, typer.Option(help="Worker processes of our server.")]


@app.callback()
def prepare() -> None:
    """Load tests over the Chroma HTTP API v2."""
    signal.signal(signal.SIGTERM, _end_in_order)


def _end_in_order(signal_number: int, _: FrameType | None) -> None:
    """Leave by an exception, so that a terminated run stops its servers, too."""
    sys.exit(128 + signal_number)


@app.command()
def compare(
    *,
    data_directory: Annotated[
        str, typer.Option("--data", envvar="CHROMA_ASYNC_DATA", help="Directory of the data, or `synthetic`.")
    ] = str(_DATA_DEFAULT),
    records: Annotated[int, typer.Option(min=1000, help="Records to store.")] = 20_000,
    peer: Annotated[
        str, typer.Option(help="`chroma`: needed; `auto`: if an executable is found; `none`: only our server.")
    ] = "auto",
    chroma_bin: Annotated[
        Path | None, typer.Option(envvar="CHROMA_BIN", help="Executable of a real Chroma; else looked up on the PATH.")
    ] = None,
    ours: Annotated[bool, typer.Option("--ours/--no-ours", help="Measure our server.")] = True,
    url: UrlOption = None,
    workers: WorkersOption = 2,
    scenario: Annotated[list[str] | None, typer.Option(help="Scenario to run, `default` or `all`; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of one timed round.")] = Options().seconds,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; the median counts.")] = Options().rounds,
    checks: Annotated[int, typer.Option(min=1, help="Answers checked per scenario.")] = Options().checks,
    processes: Annotated[int, typer.Option(min=1, help="Generator processes per lane.")] = Options().processes,
    results: Annotated[Path, typer.Option(help="Directory for the JSON.")] = _HERE / "results",
) -> None:
    """Run the same work on a real Chroma and on our server, and print both with their ratio."""
    options = Options(seconds=seconds, rounds=rounds, checks=checks, processes=processes)
    with _errors_explained():
        chosen = _choose(scenario or ["default"])
        peer_server = _peer(peer, chroma_bin)
        our_server = _ours(url, workers) if ours else None
        with _workload(_load(data_directory, records), options) as workload:
            facts = machine.describe()
            columns = [_measure(server, workload, chosen) for server in (peer_server, our_server)]
            report = _report(workload, facts, peer=columns[0], ours=columns[1])
    report.print(console)
    console.print(f"written to {report.write(results)}", soft_wrap=True, highlight=False)


@app.command()
def smoke(*, url: UrlOption = None, workers: WorkersOption = 2) -> None:
    """Run every scenario small and short on made-up data; fail if one does not run or answers wrongly."""
    options = Options(seconds=0.2, rounds=1, checks=40, batch=250)
    started = time.perf_counter()
    with _errors_explained():
        server = _ours(url, workers)
        with _workload(data.synthetic(2000, queries=100), options) as workload:
            column = _measure(server, workload, list(SCENARIOS))
        assert column is not None
        _require_recall(column)
    console.print(f"smoke: all {len(column.measures)} scenarios ran, in {time.perf_counter() - started:.1f} s")


@app.command()
def scenarios() -> None:
    """List the scenarios."""
    for scenario in SCENARIOS:
        mark = "default" if scenario.default else ""
        console.print(f"{scenario.name:24}{mark:9}{scenario.help}", highlight=False, soft_wrap=True)


@contextmanager
def _errors_explained() -> Generator[None, None, None]:
    try:
        yield
    except LoadTestError as error:
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _choose(names: list[str]) -> list[Scenario]:
    try:
        return choose(names)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _peer(choice: str, chroma_bin: Path | None) -> Program | None:
    if choice not in ("auto", "chroma", "none"):
        raise typer.BadParameter(f"--peer must be chroma, auto or none. peer={choice!r}")
    program = peer_program(chroma_bin) if choice != "none" else None
    if choice == "chroma" and program is None:
        raise Unavailable("no chroma executable; give --chroma-bin, CHROMA_BIN, or put it on the PATH")
    return program


def _ours(url: str | None, workers: int) -> Program | RemoteServer:
    return RemoteServer(url) if url else our_program(workers)


def _load(directory: str, records: int) -> data.Dataset:
    return data.synthetic(records) if directory == "synthetic" else data.load(Path(directory), records)


@contextmanager
def _workload(dataset: data.Dataset, options: Options) -> Generator[Workload, None, None]:
    with tempfile.TemporaryDirectory(prefix="load-test-requests-") as directory:
        yield Workload(dataset, options, Path(directory))


def _measure(target: Program | RemoteServer | None, workload: Workload, chosen: list[Scenario]) -> Column | None:
    """Measure one server, alone on the machine; None stands for no server."""
    if target is None:
        return None
    with running(target) if isinstance(target, Program) else nullcontext(target) as server:
        try:
            return _measure_running(server, workload, chosen)
        except LoadTestError as error:
            if server.local is None:
                raise
            raise type(error)(f"{error}\nend of the log of {server.label}:\n{server.local.last_words()}") from error


def _measure_running(server: Server, workload: Workload, chosen: list[Scenario]) -> Column:
    api = Api(server.address)
    api.wait_until_up(_HEARTBEAT_SECONDS_MAX)
    with _collection(api) as records_path:
        bench = Bench(workload, server, api, records_path)
        column = Column(server.label, notes=bench.notes)
        for scenario in chosen:
            column.measures[scenario.name] = _watched(scenario, bench)
            _print_progress(server.label, scenario.name, column.measures[scenario.name])
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
def _collection(api: Api) -> Generator[str, None, None]:
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


def _print_progress(label: str, scenario: str, measures: list[Measure]) -> None:
    figures = ", ".join(f"{m.name} {format_value(m)} {m.unit}".strip() for m in measures)
    console.print(f"{label}: {scenario}: {figures}", style="dim", highlight=False, soft_wrap=True)


def _report(workload: Workload, facts: dict[str, str], *, peer: Column | None, ours: Column | None) -> Report:
    return Report(
        dataset=workload.dataset.name,
        options=workload.options,
        machine=facts,
        peer=peer,
        ours=ours,
        ceilings=[_ceiling(workload, connections) for connections in (1, 16)] if workload.answer_bytes else [],
    )


def _ceiling(workload: Workload, connections: int) -> Ceiling:
    """Measure the generator with the plain queries and answers of the size the servers gave."""
    processes = min(workload.options.processes, connections)
    lane = Lane(
        path="/query",
        requests=workload.plain_queries(),
        connections=connections,
        seconds=workload.options.seconds,
        processes=processes,
    )
    per_second = measure_ceiling(lane, answer_bytes=workload.answer_bytes)
    return Ceiling(connections=connections, answer_bytes=workload.answer_bytes, per_second=per_second)


def _require_recall(column: Column) -> None:
    for scenario, measures in column.measures.items():
        for measure in measures:
            if measure.name == "recall@10" and (measure.value or 0) < _SMOKE_RECALL_MIN:
                raise WrongAnswer(f"{scenario}: recall is too low. recall={measure.value} least={_SMOKE_RECALL_MIN}")
