"""The table for people and the JSON for later."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from load_tests.bench import Options
from load_tests.measures import Measure, meets_target, times_better


@dataclass(slots=True)
class Column:
    """All figures of one server, by scenario, in the order measured."""

    label: str
    measures: dict[str, list[Measure]] = field(default_factory=dict[str, list[Measure]])
    notes: dict[str, float] = field(default_factory=dict[str, float])

    def find(self, scenario: str, name: str) -> Measure | None:
        """One figure, or None."""
        return next((m for m in self.measures.get(scenario, []) if m.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What the generator reaches against an empty server, in requests per second."""

    connections: int
    answer_bytes: int
    per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A finished run."""

    dataset: str
    options: Options
    machine: dict[str, str]
    ours: Column | None
    peer: Column | None
    ceilings: list[Ceiling]

    def print(self, console: Console) -> None:
        """Show machine, generator and table."""
        for key, value in self.machine.items():
            console.print(f"{key:10} {value}", highlight=False)
        for ceiling in self.ceilings:
            console.print(
                f"generator  {ceiling.per_second:,.0f} requests/s at {ceiling.connections} connections against an empty"
                f" server that answers {ceiling.answer_bytes:,} bytes",
                highlight=False,
            )
        console.print(self._table())
        console.print(
            f"Server and generator share the machine's {self.machine['cores']} cores: compare ratios, not absolute"
            " figures. A ratio above 1 is in our favour, also where less is better.",
            highlight=False,
        )
        self._print_notes(console)

    def write(self, directory: Path) -> Path:
        """Write everything as JSON and return the file."""
        directory.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC)
        file = directory / f"{now:%Y%m%dT%H%M%SZ}-{self.dataset}.json"
        file.write_bytes(orjson.dumps(self._to_json(now), option=orjson.OPT_INDENT_2))
        return file

    def _table(self) -> Table:
        columns = [column for column in (self.peer, self.ours) if column]
        table = Table(title=self.dataset)
        for heading in ("scenario", "measure"):
            table.add_column(heading)
        for column in columns:
            table.add_column(column.label, justify="right")
        for heading in ("ratio", "target", ""):
            table.add_column(heading, justify="right")
        for scenario, measures in columns[-1].measures.items():
            for position, measure in enumerate(measures):
                last = position == len(measures) - 1
                table.add_row("" if position else scenario, *self._row(scenario, measure), end_section=last)
        return table

    def _row(self, scenario: str, measure: Measure) -> list[str]:
        columns = [column for column in (self.peer, self.ours) if column]
        cells = [format_value(column.find(scenario, measure.name)) for column in columns]
        peer = self.peer.find(scenario, measure.name) if self.peer and self.ours else None
        ratio = times_better(measure, peer) if peer else None
        met = meets_target(measure, peer) if peer else None
        return [
            f"{measure.name} {measure.unit}".strip(),
            *cells,
            f"{ratio:.2f} x" if ratio is not None else "",
            str(measure.target) if measure.target else "",
            {True: "met", False: "missed", None: ""}[met],
        ]

    def _print_notes(self, console: Console) -> None:
        for column in (self.peer, self.ours):
            for name, value in column.notes.items() if column else ():
                console.print(f"note: {column.label if column else ''}: {name} {value:g}", highlight=False)

    def _to_json(self, now: datetime) -> dict[str, Any]:
        return {
            "finished_at": now.isoformat(timespec="seconds"),
            "dataset": self.dataset,
            "options": asdict(self.options),
            "machine": self.machine,
            "generator": [asdict(ceiling) for ceiling in self.ceilings],
            "servers": {
                role: {
                    "label": column.label,
                    "notes": column.notes,
                    "scenarios": {
                        scenario: {measure.name: measure.to_json() for measure in measures}
                        for scenario, measures in column.measures.items()
                    },
                }
                for role, column in (("peer", self.peer), ("ours", self.ours))
                if column
            },
        }


def format_value(measure: Measure | None) -> str:
    """A figure with three or more digits that mean something."""
    if measure is None or measure.value is None:
        return "-"
    value = measure.value
    if not measure.unit:
        return f"{value:.3f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
