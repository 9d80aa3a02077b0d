"""The same application behind Hypercorn, which we ship, and behind other ASGI servers; and an empty handler behind each."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from load_tests.alternatives import COMMANDS, alternative
from load_tests.bench import Workload
from load_tests.compare import Say, measure_server
from load_tests.limit import measure_empty, measure_limit
from load_tests.measures import Column
from load_tests.report import format_value
from load_tests.scenarios import choose
from load_tests.servers import our_program, running

_SCENARIOS = ["ingest", "query 1", "query 16"]
_ROWS = (
    ("query 1", "throughput"),
    ("query 1", "p50"),
    ("query 16", "throughput"),
    ("query 16", "p50"),
    ("query 16", "p99"),
    ("empty handler, query 1", "throughput"),
    ("empty handler, query 16", "throughput"),
    ("empty handler, query 16", "p99"),
    ("empty handler, plain requests, query 1", "throughput"),
    ("empty handler, plain requests, query 16", "throughput"),
    ("empty handler, plain requests, query 16", "p99"),
)


def compare_servers(workload: Workload, workers: int, say: Say) -> list[Column]:
    """A column for each server, ours first.

    Raises:
        LoadTestError: a server is missing, or answers wrongly.
    """
    chosen = choose(_SCENARIOS)
    ours = measure_server("ours", our_program(workers), workload, chosen, say)
    _add(ours, measure_limit(workload, workers), say)
    _add(ours, measure_limit(workload, workers, plain=True), say, "empty handler, plain requests")
    columns = [ours]
    for name in COMMANDS:
        column = measure_server(name, alternative(name, workers), workload, chosen, say)
        with running(alternative(name, workers, answer_bytes=workload.answer_bytes)) as server:
            _add(column, measure_empty(server.address, workload), say)
        columns.append(column)
    return columns


def _add(column: Column, empty: Column, say: Say, name: str = "empty handler") -> None:
    for scenario, measures in empty.measures.items():
        column.measures[f"{name}, {scenario}"] = measures
        say(column.label, f"{name}, {scenario}", measures)


def print_servers(columns: list[Column], facts: dict[str, str], console: Console) -> None:
    """Show machine and table; notes say when others kept the machine busy."""
    for key, value in facts.items():
        console.print(f"{key:10} {value}", highlight=False)
    table = Table("", "")
    for column in columns:
        label = f"{column.label} (Hypercorn)" if column.key == "ours" else column.label
        table.add_column(label, justify="right")
    for scenario, name in _ROWS:
        measures = [column.find(scenario, name) for column in columns]
        unit = next((measure.unit for measure in measures if measure), "")
        table.add_row(scenario, f"{name} {unit}", *(format_value(measure) for measure in measures))
    console.print(table)
    for column in columns:
        for note, count in column.notes.items():
            console.print(f"note: {column.label}: {note} {count:g}", highlight=False)
