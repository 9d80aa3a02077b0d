"""The command line of the acceptance runs: `python -m load_tests accept ...`."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from load_tests import data, machine
from load_tests.acceptance.verdict import Verdict
from load_tests.errors import LoadTestError, RequestFailed, WrongAnswer
from load_tests.servers import Program, our_program

_ROOT = Path(__file__).resolve().parents[1]
_DATA_DEFAULT = _ROOT.parent / "../shared/data"
_RESULTS = _ROOT / "results"
_WIDTH_MIN = 110

app = typer.Typer(
    help="Show that the database keeps its promises; the exit code is 1 when one is broken.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
console = Console(width=max(Console().width, _WIDTH_MIN))

DataOption = Annotated[
    str, typer.Option("--data", envvar="CHROMA_ASYNC_DATA", help="Directory of the data, or `synthetic`.")
]
RecordsOption = Annotated[int, typer.Option(min=500, help="Records to take.")]
SecondsOption = Annotated[float, typer.Option(min=1.0, help="How long all of them write and read.")]
RoundsOption = Annotated[int, typer.Option(min=1, help="How often something is killed.")]
SeedOption = Annotated[int | None, typer.Option(help="Repeats the choices of an earlier run.")]


@app.command()
def ingest(*, data_directory: DataOption = str(_DATA_DEFAULT), records: RecordsOption = 50_000) -> None:
    """Ingest over HTTP beside readers; everybody sees what was acknowledged; recall for each distance."""
    from load_tests.acceptance.ingest import accept_ingest

    with _judged("ingest") as verdict:
        dataset = _load(data_directory, records, verdict)
        with tempfile.TemporaryDirectory(prefix="accept-") as directory:
            accept_ingest(_program(verdict), dataset, Path(directory), verdict)


@app.command()
def together(
    *,
    data_directory: DataOption = str(_DATA_DEFAULT),
    records: RecordsOption = 50_000,
    seconds: SecondsOption = 60.0,
    seed: SeedOption = None,
) -> None:
    """Two workers, an embedded engine and the command line write and read one directory at once."""
    from load_tests.acceptance.together import accept_together

    with _judged("together") as verdict:
        dataset = _load(data_directory, records, verdict)
        accept_together(_program(verdict), dataset, verdict, seconds=seconds, seed=seed)


@app.command()
def kill(
    *,
    data_directory: DataOption = str(_DATA_DEFAULT),
    records: RecordsOption = 50_000,
    rounds: RoundsOption = 10,
    seed: SeedOption = None,
) -> None:
    """Kill -9 workers, the compactor, the whole server and an embedded client in the middle of writes."""
    from load_tests.acceptance.kill import accept_kill

    with _judged("kill") as verdict:
        dataset = _load(data_directory, records, verdict)
        accept_kill(_program(verdict), dataset, verdict, rounds=rounds, seed=seed)


def _program(verdict: Verdict) -> Program:
    program = our_program(workers=2)
    verdict.facts["server"] = f"{program.label}, 2 workers"
    return program


def _load(directory: str, records: int, verdict: Verdict) -> data.Dataset:
    dataset = data.synthetic(records) if directory == "synthetic" else data.load(Path(directory), records)
    verdict.facts["data"] = f"{dataset.name}, {dataset.vectors.shape[1]} dimensions"
    return dataset


@contextmanager
def _judged(name: str) -> Generator[Verdict, None, None]:
    """Print and write the verdict, also after an error, which is a violation too unless something was not there."""
    verdict = Verdict(name, facts=dict(machine.describe()))
    try:
        yield verdict
    except (RequestFailed, WrongAnswer) as error:
        verdict.violations.append(f"{type(error).__name__}: {error}")
    except LoadTestError as error:
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    verdict.print(console)
    console.print(f"written to {verdict.write(_RESULTS)}", soft_wrap=True, highlight=False)
    if verdict.violations:
        raise typer.Exit(1)
