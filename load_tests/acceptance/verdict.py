"""What an acceptance run comes to: figures with their limits, and every promise that was broken."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_SHOWN_MAX = 20
"""Violations that are printed; all of them are in the JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number. `at_least` and `at_most` are promises, None where a number is for information only."""

    name: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the promise is kept; true where there is none."""
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    @property
    def limit(self) -> str:
        """The promise, for people."""
        if self.at_least is not None:
            return f">= {_number(self.at_least)}"
        return f"<= {_number(self.at_most)}" if self.at_most is not None else ""


@dataclass(slots=True)
class Verdict:
    """A run in the making. Threads may add to it: each addition is one append to a list."""

    name: str
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    figures: list[Figure] = field(default_factory=list[Figure])
    violations: list[str] = field(default_factory=list[str])

    def add(
        self, name: str, value: float, unit: str = "", *, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        """Note a figure, and a violation if it is beyond its limit."""
        figure = Figure(name=name, value=float(value), unit=unit, at_least=at_least, at_most=at_most)
        self.figures.append(figure)
        if not figure.is_kept:
            self.violations.append(f"{name} is {_number(figure.value)} {unit}, must be {figure.limit}".replace("  ", " "))

    def require(self, kept: bool, message: str) -> None:
        """Note a violation unless `kept`."""
        if not kept:
            self.violations.append(message)

    def print(self, console: Console) -> None:
        """Show the table, and what was violated."""
        table = Table("figure", "", "promised", "", title=f"accept {self.name}")
        table.columns[1].justify = "right"
        for figure in self.figures:
            mark = "" if not figure.limit else "kept" if figure.is_kept else "BROKEN"
            table.add_row(figure.name, f"{_number(figure.value)} {figure.unit}".strip(), figure.limit, mark)
        for key, value in self.facts.items():
            console.print(f"{key:10} {value}", markup=False, highlight=False)
        console.print(table)
        for violation in self.violations[:_SHOWN_MAX]:
            console.print(f"[red]violation:[/red] {escape(violation)}", highlight=False, soft_wrap=True)
        if len(self.violations) > _SHOWN_MAX:
            console.print(f"... and {len(self.violations) - _SHOWN_MAX} more", highlight=False)
        console.print(f"accept {self.name}: {len(self.violations)} violations", highlight=False)

    def write(self, directory: Path) -> Path:
        """Write everything as JSON and return the file."""
        directory.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC)
        file = directory / f"{now:%Y%m%dT%H%M%SZ}-accept-{self.name}.json"
        report = {"finished_at": now.isoformat(timespec="seconds")} | asdict(self)
        file.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
        return file


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
