"""The command line: `compare` measures, `smoke` only makes sure that everything runs and answers rightly."""

from __future__ import annotations

import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from load_tests import data, machine
from load_tests.acceptance.commands import app as accept
from load_tests.auth import measure_costs, measure_guesses
from load_tests.bench import Options
from load_tests.compare import Contestants, compare, started, workload_of
from load_tests.embedded.measure import PEERS, peer_python, require_engine
from load_tests.errors import LoadTestError, Unavailable, WrongAnswer
from load_tests.feed import follow, print_followed
from load_tests.growth import Growth, Plan, Size, grow, print_growth, sizes_between
from load_tests.http_servers import compare_servers, print_servers
from load_tests.measures import Column, Measure
from load_tests.peers import make_environment
from load_tests.plots import plot_comparison, plot_growth, plot_soak, plot_streams, require_matplotlib
from load_tests.profile import Layer, profile
from load_tests.report import Report, format_value, write_json
from load_tests.scenarios import SCENARIOS, Scenario, choose
from load_tests.servers import Program, RemoteServer, our_program, peer_program
from load_tests.soak import Crowd, Minute, Soak, soak
from load_tests.stream import WAYS, Beside, Look, Way, peer_rate, print_streams, stream

_HERE = Path(__file__).resolve().parent
_DATA_DEFAULT = _HERE.parent / "../shared/data"
_RESULTS = _HERE / "results"
_SMOKE_RECALL_MIN = 0.9
_BASE_RECORDS_MAX = 50_000
"""Records that the data set has; a larger collection repeats them with noise."""
_WIDTH_MIN = 180
"""Columns of text that the table needs, also where the output is not a terminal."""

app = typer.Typer(
    help="Load tests over the Chroma HTTP API v2, and in process.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(accept, name="accept")
console = Console(width=max(Console().width, _WIDTH_MIN))

DataOption = Annotated[
    str, typer.Option("--data", envvar="CHROMA_ASYNC_DATA", help="Directory of the data, or `synthetic`.")
]
RecordsOption = Annotated[int, typer.Option(min=1000, help="Records to store.")]
UrlOption = Annotated[str | None, typer.Option(help="Measure this running server instead of starting ours.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Worker processes of our server.")]
ResultsOption = Annotated[Path, typer.Option(help="Directory for JSON and plots.")]


@app.callback()
def prepare() -> None:
    """Load tests over the Chroma HTTP API v2, and in process."""
    signal.signal(signal.SIGTERM, _end_in_order)


def _end_in_order(signal_number: int, _: FrameType | None) -> None:
    """Leave by an exception, so that a terminated run stops its servers, too."""
    sys.exit(128 + signal_number)


@app.command("compare")
def compare_command(
    *,
    data_directory: DataOption = str(_DATA_DEFAULT),
    records: RecordsOption = 20_000,
    peer: Annotated[
        list[str] | None, typer.Option(help=f"chroma, {', '.join(PEERS)}; may be repeated. A missing one is an error.")
    ] = None,
    chroma_bin: Annotated[
        Path | None,
        typer.Option(envvar="CHROMA_BIN", help="Executable of Chroma; else beside --peer-python, or on the PATH."),
    ] = None,
    peer_python_path: Annotated[
        Path | None, typer.Option("--peer-python", envvar="PEER_PYTHON", help="Python of the peers' environment.")
    ] = None,
    url: UrlOption = None,
    workers: WorkersOption = 2,
    scenario: Annotated[list[str] | None, typer.Option(help="Scenario to run instead of all; may be repeated.")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Repeat everything, in turn; the medians count.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of one timed round.")] = Options().seconds,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; the median counts.")] = Options().rounds,
    checks: Annotated[int, typer.Option(min=1, help="Answers checked per scenario.")] = Options().checks,
    processes: Annotated[int, typer.Option(min=1, help="Generator processes per lane.")] = Options().processes,
    results: ResultsOption = _RESULTS,
) -> None:
    """Do the same work with ours and with the peers; print one table with ratios and targets."""
    options = Options(seconds=seconds, rounds=rounds, checks=checks, processes=processes)
    with _errors_explained():
        require_matplotlib()
        chosen = _choose(scenario or [])
        contestants = Contestants(
            ours=_ours(url, workers),
            workers=workers,
            chroma=_chroma(peer or [], chroma_bin, peer_python_path),
            embedded=_embedded(peer or [], peer_python_path),
        )
        dataset = _load(data_directory, records)
        report = compare(contestants, dataset, options, chosen, repeat=repeat, command=_command(), say=_print_progress)
        _publish(report, results)


@app.command()
def peers(*, into: Annotated[Path, typer.Option(help="Directory of the new environment.")]) -> None:
    """Make an environment with all peers, for --peer-python."""
    with _errors_explained():
        python = make_environment(into)
    console.print(f"export PEER_PYTHON={shlex.quote(str(python.absolute()))}", soft_wrap=True, highlight=False)


@app.command("soak")
def soak_command(
    *,
    minutes: Annotated[float, typer.Option(min=0.05, help="How long.")],
    data_directory: DataOption = str(_DATA_DEFAULT),
    records: RecordsOption = 20_000,
    pace: Annotated[float, typer.Option(min=0.01, help="Times the usual 45 requests a second.")] = 1.0,
    writers: Annotated[int, typer.Option(min=2, help="Connections that write.")] = 8,
    readers: Annotated[int, typer.Option(min=3, help="Connections that read.")] = 32,
    url: UrlOption = None,
    workers: WorkersOption = 4,
    results: ResultsOption = _RESULTS,
) -> None:
    """Mixed work at a steady pace: p50, p99, lag, memory and disk of every minute. Exit code 1 after an error."""
    with _errors_explained():
        require_matplotlib()
        crowd = Crowd(writers=writers, readers=readers)
        _soak(_ours(url, workers), _load(data_directory, records), minutes, pace, crowd, results)


@app.command("stream")
def stream_command(
    *,
    records: Annotated[int, typer.Option(min=1000, help="Records to stream.")] = 1_000_000,
    ways: Annotated[
        list[str] | None, typer.Option("--way", help=f"How: {', '.join(WAYS)}. Repeat it for several; default: all.")
    ] = None,
    data_directory: DataOption = str(_DATA_DEFAULT),
    peer: Annotated[list[str] | None, typer.Option(help="Peer beside which to add 20,000 records: `chroma`.")] = None,
    chroma_bin: Annotated[Path | None, typer.Option(envvar="CHROMA_BIN", help="Chroma's server program.")] = None,
    reads: Annotated[bool, typer.Option("--reads/--no-reads", help="Whether somebody asks meanwhile.")] = True,
    workers: WorkersOption = 2,
    results: ResultsOption = _RESULTS,
) -> None:
    """One client streams records: rate, memory on both sides, and what readers notice."""
    with _errors_explained():
        require_matplotlib()
        chosen = [way for way in WAYS if way in (ways or WAYS)]
        if set(ways or WAYS) - set(chosen):
            raise typer.BadParameter(f"choose from {', '.join(WAYS)}", param_hint="--way")
        base = _load(data_directory, min(records, _BASE_RECORDS_MAX))
        beside = Beside() if reads else Beside(idle_seconds=0)
        _stream(base, chosen, records, beside, workers, results, _chroma(peer or [], chroma_bin, None))


def _stream(
    base: data.Dataset,
    ways: list[Way],
    records: int,
    beside: Beside,
    workers: int,
    results: Path,
    peer: Program | None = None,
) -> None:
    facts = machine.describe()
    rate = (peer.label, peer_rate(peer, base)) if peer is not None else None
    streams = [stream(our_program(workers), base, way, records, _print_look, beside) for way in ways]
    content = {"command": _command(), "machine": facts, "dataset": base.name, "peer": rate}
    file = write_json(results, f"{base.name}-stream", content | {"streams": [item.to_json() for item in streams]})
    print_streams(streams, rate, facts, console)
    _print_files(file, plot_streams(streams, base.name, file.with_suffix(".png")))


def _print_look(look: Look) -> None:
    server = f"worker {look.worker_mib:,.0f}, compactor {look.compactor_mib:,.0f}, builder {look.builder_mib:,.0f} MiB"
    held = f"client {look.client_mib:,.0f}, {server}"
    console.print(f"{look.seconds:.0f} s: {look.position:,} lines; {held}", style="dim", highlight=False, soft_wrap=True)


@app.command()
def feed(
    *,
    records: RecordsOption = 20_000,
    writes: Annotated[int, typer.Option(min=1, help="Small writes whose history is read.")] = 5_000,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to listen live.")] = 20.0,
    data_directory: DataOption = str(_DATA_DEFAULT),
    workers: WorkersOption = 2,
    results: ResultsOption = _RESULTS,
) -> None:
    """One listener follows a collection: the rate of its history, and how soon a change is there."""
    with _errors_explained():
        _follow(_load(data_directory, records), writes, seconds, workers, results)


@app.command("growth")
def growth_command(
    *,
    to: Annotated[int, typer.Option(min=1000, help="Records in the end.")] = 1_000_000,
    start: Annotated[int, typer.Option("--from", min=1000, help="Records of the first size.")] = 20_000,
    data_directory: DataOption = str(_DATA_DEFAULT),
    minutes: Annotated[float, typer.Option(min=0.1, help="No further size is begun after so long.")] = 60.0,
    workers: WorkersOption = 2,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of one timed round.")] = Options().seconds,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; the median counts.")] = Options().rounds,
    results: ResultsOption = _RESULTS,
) -> None:
    """Latency, recall, ingest and memory as one collection grows."""
    with _errors_explained():
        require_matplotlib()
        options = Options(seconds=seconds, rounds=rounds)
        plan = Plan(sizes=sizes_between(start, to), seconds_max=60 * minutes, options=options)
        _grow(our_program(workers), _load(data_directory, min(to, _BASE_RECORDS_MAX)), plan, results)


@app.command()
def servers(
    *,
    data_directory: DataOption = str(_DATA_DEFAULT),
    records: RecordsOption = 20_000,
    workers: WorkersOption = 2,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of one timed round.")] = Options().seconds,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; the median counts.")] = Options().rounds,
    results: ResultsOption = _RESULTS,
) -> None:
    """Our application, and an empty handler, behind Hypercorn, uvicorn and granian."""
    with _errors_explained():
        options = Options(seconds=seconds, rounds=rounds)
        _compare_servers(_load(data_directory, records), options, workers, results)


@app.command("profile")
def profile_command(
    *,
    data_directory: DataOption = str(_DATA_DEFAULT),
    records: RecordsOption = 20_000,
    queries: Annotated[int, typer.Option(min=10, help="Timed calls of each layer.")] = 500,
) -> None:
    """Where the time of an embedded query goes, layer by layer."""
    with _errors_explained():
        _print_profile(profile(_load(data_directory, records), queries))


@app.command("auth")
def auth_command(
    *,
    requests: Annotated[int, typer.Option(min=10, help="Requests of a round.")] = 2_000,
    guesses: Annotated[int, typer.Option(min=10, help="Wrong tokens of each kind.")] = 20_000,
) -> None:
    """What authentication costs a request, and whether the time of a refusal tells something. In process."""
    costs, guessed = measure_costs(requests), measure_guesses(guesses)
    for cost in costs:
        console.print(f"{cost.name:36}{cost.microseconds:8.1f} us a request{cost.added:+8.1f}", highlight=False)
    for guess in guessed:
        console.print(f"wrong token, {guess.kind:32}{guess.median:8.0f} ns{guess.p90:8.0f} p90", highlight=False)


@app.command()
def smoke(*, url: UrlOption = None, workers: WorkersOption = 2) -> None:
    """Run everything small and short on made-up data; fail if something does not run or answers wrongly."""
    options = Options(seconds=0.2, rounds=1, checks=40, batch=250)
    started = time.perf_counter()
    with _errors_explained(), tempfile.TemporaryDirectory(prefix="load-test-smoke-") as results:
        require_matplotlib()
        contestants = Contestants(ours=_ours(url, workers), workers=workers, chroma=None, embedded={})
        dataset = data.synthetic(2000, queries=100)
        report = compare(contestants, dataset, options, list(SCENARIOS), repeat=1, command="smoke", say=_print_progress)
        _publish(report, Path(results))
        _require_recall(report.columns["ours"])
        _soak(contestants.ours, dataset, 0.05, 1.0, Crowd(), Path(results))
        plan = Plan(sizes=[1000, 2000], seconds_max=60, options=options)
        _grow(our_program(workers), data.synthetic(1000, queries=100), plan, Path(results))
        _compare_servers(dataset, options, workers, Path(results))
        _print_profile(profile(dataset, 20))
        _stream(dataset, ["arrow", "client"], 2_000, Beside(records=1_000, idle_seconds=0.5), workers, Path(results))
        _follow(data.synthetic(1000, queries=10), 200, 1.0, workers, Path(results))
        auth_command(requests=50, guesses=50)
    console.print(f"smoke: everything ran, in {time.perf_counter() - started:.1f} s")


@app.command()
def scenarios() -> None:
    """List the scenarios."""
    for scenario in SCENARIOS:
        console.print(f"{scenario.name:24}{scenario.help}", highlight=False, soft_wrap=True)


def _print_profile(layers: dict[str, list[Layer]]) -> None:
    for kind, rows in layers.items():
        console.print(f"{kind}: processor time of a query, us (10 % of calls are below; median)", highlight=False)
        for row in rows:
            console.print(f"  {row.name:48}{row.low_us:8.0f}{row.median_us:8.0f}", highlight=False)


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


def _chroma(peers: list[str], chroma_bin: Path | None, python: Path | None) -> Program | None:
    unknown = [name for name in peers if name not in ("chroma", *PEERS)]
    if unknown:
        raise typer.BadParameter(f"no such peer; take some of {['chroma', *PEERS]}. names={unknown}")
    if "chroma" not in peers:
        return None
    program = peer_program(chroma_bin, beside=python)
    if program is None:
        raise Unavailable("no chroma executable; give --chroma-bin, CHROMA_BIN, --peer-python, or put it on the PATH")
    return program


def _embedded(peers: list[str], python: Path | None) -> dict[str, Path]:
    """The interpreter for each library that was named; made sure of, so that nothing is measured in vain."""
    chosen = {name: peer_python(python) for name in peers if name in PEERS}
    for name, its_python in chosen.items():
        require_engine(name, its_python)
    return chosen


def _ours(url: str | None, workers: int) -> Program | RemoteServer:
    return RemoteServer(url) if url else our_program(workers)


def _load(directory: str, records: int) -> data.Dataset:
    return data.synthetic(records) if directory == "synthetic" else data.load(Path(directory), records)


def _soak(
    server: Program | RemoteServer, dataset: data.Dataset, minutes: float, pace: float, crowd: Crowd, results: Path
) -> None:
    """Run, and show and write what there is, also after an error."""
    facts = machine.describe()
    with workload_of(dataset, Options()) as workload, started(server) as running_server:
        soaked = Soak(running_server.label)
        try:
            soak(running_server, workload, minutes=minutes, pace=pace, crowd=crowd, result=soaked, say=_print_minute)
        finally:
            if soaked.minutes:
                content = {"command": _command(), "machine": facts, "dataset": dataset.name, "pace": pace}
                file = write_json(results, f"{dataset.name}-soak", content | soaked.to_json())
                _print_files(file, plot_soak(soaked, dataset.name, file.with_suffix(".png")))
    console.print(f"soak: recall@10 {soaked.recall:.4f} at the end, when all that was deleted is back", highlight=False)


def _print_minute(minute: Minute) -> None:
    latencies = ", ".join(f"{kind} {p50:.1f}/{minute.p99_ms[kind]:.1f}" for kind, p50 in minute.p50_ms.items())
    sizes = (("memory", minute.memory_bytes), ("un-evictable", minute.unevictable_bytes_max), ("disk", minute.disk_bytes))
    held = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in sizes if size is not None)
    lag = f"{minute.lag_seconds_p50:.2f}/{minute.lag_seconds_max:.2f} s" if minute.lag_seconds_max is not None else "-"
    line = f"minute {minute.number}: p50/p99 ms: {latencies}; lag p50/most {lag}; {held}"
    console.print(line, highlight=False, soft_wrap=True)


def _grow(program: Program, base: data.Dataset, plan: Plan, results: Path) -> None:
    facts, grown = machine.describe(), Growth(program.label)
    try:
        grow(program, base, plan, grown, _print_size)
    finally:
        if grown.sizes:
            content = {"command": _command(), "machine": facts, "dataset": base.name}
            file = write_json(results, f"{base.name}-growth", content | grown.to_json())
            _print_files(file, plot_growth(grown, base.name, file.with_suffix(".png")))
    print_growth(grown, facts, console)
    if len(grown.sizes) < len(plan.sizes):
        console.print(f"time was up after {grown.sizes[-1].records:,} records; give more --minutes", highlight=False)


def _print_size(size: Size) -> None:
    figures = ", ".join(f"{name} {p50:.2f} ms ({size.recall[name]:.3f})" for name, p50 in size.p50_ms.items())
    written = f"{size.ingest_per_second:,.0f} vectors/s, settled in {size.settle_seconds:.0f} s"
    console.print(f"{size.records:,} records: {written}; {figures}", style="dim", highlight=False, soft_wrap=True)


def _follow(dataset: data.Dataset, writes: int, seconds: float, workers: int, results: Path) -> None:
    facts, lines = machine.describe(), list[str]()
    followed = follow(our_program(workers), dataset, writes, seconds, lines.append)
    print_followed(lines, facts, console)
    content = {"command": _command(), "machine": facts, "dataset": dataset.name}
    _print_files(write_json(results, f"{dataset.name}-feed", content | followed.to_json()))


def _compare_servers(dataset: data.Dataset, options: Options, workers: int, results: Path) -> None:
    facts = machine.describe()
    with workload_of(dataset, options) as workload:
        columns = compare_servers(workload, workers, _print_progress)
    print_servers(columns, facts, console)
    content = {"command": _command(), "machine": facts, "dataset": dataset.name, "workers": workers}
    _print_files(write_json(results, f"{dataset.name}-servers", content | {"columns": [c.to_json() for c in columns]}))


def _command() -> str:
    return shlex.join(["python", "-m", "load_tests", *sys.argv[1:]])


def _print_files(*files: Path) -> None:
    for file in files:
        console.print(f"written to {file}", soft_wrap=True, highlight=False)


def _publish(report: Report, results: Path) -> None:
    report.print(console)
    file = report.write(results)
    _print_files(file, *plot_comparison(report.columns, report.dataset, file.with_suffix("")))


def _print_progress(label: str, scenario: str, measures: list[Measure]) -> None:
    figures = ", ".join(f"{m.name} {format_value(m)} {m.unit}".strip() for m in measures)
    console.print(f"{label}: {scenario}: {figures}", style="dim", highlight=False, soft_wrap=True)


def _require_recall(column: Column) -> None:
    for scenario, measures in column.measures.items():
        for measure in measures:
            if measure.name == "recall@10" and (measure.value or 0) < _SMOKE_RECALL_MIN:
                raise WrongAnswer(f"{scenario}: recall is too low. recall={measure.value} least={_SMOKE_RECALL_MIN}")
