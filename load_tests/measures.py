"""What a scenario reports: figures, and columns of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any, Literal

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One figure; None where the server or the machine does not tell."""

    name: str
    value: float | None
    unit: str
    better: Better
    runs: tuple[float, ...] = ()
    """The figures of repeated runs, of which `value` is the median; empty after a single run."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What happened within one short piece of time, from `second` after the start on."""

    second: float
    p50_ms: float
    p99_ms: float
    per_second: float


@dataclass(slots=True)
class Column:
    """All figures of one server or library, by scenario, in the order measured.

    `key` is what targets call it: `ours`, or the name of a peer.
    """

    key: str
    label: str
    measures: dict[str, list[Measure]] = field(default_factory=dict[str, list[Measure]])
    notes: dict[str, float] = field(default_factory=dict[str, float])
    timelines: dict[str, list[Moment]] = field(default_factory=dict[str, list[Moment]])

    def find(self, scenario: str, name: str) -> Measure | None:
        """One figure, or None."""
        return next((m for m in self.measures.get(scenario, []) if m.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def times_better(measure: Measure, peer: Measure) -> float | None:
    """How many times better than the peer's, also where less is better; None where there is nothing to divide."""
    if not measure.value or not peer.value:
        return None
    ratio = measure.value / peer.value
    return ratio if measure.better == "higher" else 1 / ratio


def median_column(runs: list[Column]) -> Column:
    """One column out of several runs: the median of each figure, and all notes. Timelines are those of the first."""
    first = runs[0]
    if len(runs) == 1:
        return first
    notes = {f"run {number}: {name}": value for number, run in enumerate(runs, 1) for name, value in run.notes.items()}
    measures = {
        scenario: [_median(measure, [run.find(scenario, measure.name) for run in runs]) for measure in measures]
        for scenario, measures in first.measures.items()
    }
    return Column(first.key, first.label, measures, notes, first.timelines)


def _median(measure: Measure, runs: list[Measure | None]) -> Measure:
    values = [run.value for run in runs if run is not None and run.value is not None]
    return replace(measure, value=median(values) if values else None, runs=tuple(values))
