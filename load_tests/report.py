"""The table for people and the JSON for later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from load_tests.bench import Options
from load_tests.measures import Column, Measure
from load_tests.targets import Verdict, verdicts

_MARKS = {True: "met", False: "missed", None: ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What the generator reaches against an empty server, in requests per second."""

    connections: int
    answer_bytes: int
    per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A finished comparison. `columns` has ours first, each under its key."""

    dataset: str
    options: Options
    repeat: int
    command: str
    machine: dict[str, str]
    columns: dict[str, Column]
    ceilings: list[Ceiling]

    def print(self, console: Console) -> None:
        """Show machine, generator, table, and what was unusual."""
        for key, value in self.machine.items():
            console.print(f"{key:10} {value}", highlight=False)
        for ceiling in self.ceilings:
            console.print(
                f"generator  {ceiling.per_second:,.0f} requests/s at {ceiling.connections} connections against an empty"
                f" server that answers {ceiling.answer_bytes:,} bytes",
                highlight=False,
            )
        console.print(self._table())
        met = [verdict.met for _, _, verdict in self._verdicts() if verdict.met is not None]
        console.print(f"{sum(met)} of {len(met)} targets met", highlight=False)
        console.print(
            f"Server and generator share the machine's {self.machine['cores']} cores: compare ratios, not absolute"
            " figures. A ratio above 1 is in our favour, also where less is better.",
            highlight=False,
        )
        for column in self.columns.values():
            for note, count in column.notes.items():
                console.print(f"note: {column.label}: {note} {count:g}", highlight=False)

    def write(self, directory: Path) -> Path:
        """Write everything as JSON and return the file."""
        return write_json(directory, self.dataset, self._to_json())

    def _rows(self) -> Iterator[tuple[str, Measure, bool]]:
        """Scenario, a measure of it, and whether it is its last one: ours first, then what only peers have."""
        for scenario in dict.fromkeys(name for column in self.columns.values() for name in column.measures):
            found = {m.name: m for column in reversed(self.columns.values()) for m in column.measures.get(scenario, [])}
            ours = [m.name for m in self.columns["ours"].measures.get(scenario, [])]
            names = list(dict.fromkeys([*ours, *found]))
            yield from ((scenario, found[name], name == names[-1]) for name in names)

    def _verdicts(self) -> Iterator[tuple[str, str, Verdict]]:
        for scenario, measures in self.columns["ours"].measures.items():
            for measure in measures:
                for verdict in verdicts(scenario, measure, self.columns):
                    yield scenario, measure.name, verdict

    def _table(self) -> Table:
        table = Table(title=self.dataset)
        for heading in ("scenario", "measure"):
            table.add_column(heading, no_wrap=True)
        for column in self.columns.values():
            table.add_column(column.label.replace(" ", "\n"), justify="right", no_wrap=True)
        for heading in ("ratio", "target", ""):
            table.add_column(heading, justify="right", no_wrap=True)
        shown = ""
        for scenario, measure, is_last in self._rows():
            cells = [format_value(column.find(scenario, measure.name)) for column in self.columns.values()]
            name = f"{measure.name} {measure.unit}".strip()
            table.add_row("" if scenario == shown else scenario, name, *cells, *self._said(scenario, measure.name))
            shown = scenario
            if is_last:
                table.add_section()
        return table

    def _said(self, scenario: str, name: str) -> list[str]:
        """Ratio, target and whether it is met: a line for each comparison."""
        measure = self.columns["ours"].find(scenario, name)
        said = list(verdicts(scenario, measure, self.columns)) if measure else []
        lines = ([v.ratio for v in said], [v.target for v in said], [_MARKS[v.met] for v in said])
        return ["\n".join(column) for column in lines]

    def _to_json(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "dataset": self.dataset,
            "options": asdict(self.options) | {"repeat": self.repeat},
            "machine": self.machine,
            "generator": [asdict(ceiling) for ceiling in self.ceilings],
            "columns": {key: column.to_json() for key, column in self.columns.items()},
            "verdicts": [
                {"scenario": scenario, "measure": measure} | asdict(verdict)
                for scenario, measure, verdict in self._verdicts()
            ],
        }


def write_json(directory: Path, name: str, content: dict[str, Any]) -> Path:
    """Write the results of a run with the time at which it ended; return the file, from which plots take their names."""
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    file = directory / f"{now:%Y%m%dT%H%M%SZ}-{name}.json"
    file.write_bytes(orjson.dumps({"finished_at": now.isoformat(timespec="seconds")} | content, option=orjson.OPT_INDENT_2))
    return file


def format_value(measure: Measure | None) -> str:
    """A figure with three or more digits that mean something."""
    if measure is None or measure.value is None:
        return "-"
    value = measure.value
    if not measure.unit:
        return f"{value:.3f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
