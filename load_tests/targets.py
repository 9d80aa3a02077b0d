"""What is expected of our figures: one row each, against a peer, against a limit, or against another figure of ours.

A peer is named as `--peer` names it; `empty handler` is the server of `limit.py`, `ours` our own column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from load_tests.data import FILTERS
from load_tests.measures import Column, Measure, times_better

_ROUNDING = 1e-9

Columns = Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A figure of ours beside what it is compared with, as text. `met` is None where nothing was expected."""

    ratio: str
    target: str = ""
    met: bool | None = None


class Target(Protocol):
    """Something expected of one figure of ours."""

    @property
    def scenario(self) -> str:
        """Of which scenario."""
        ...

    @property
    def measure(self) -> str:
        """Of which measure in it."""
        ...

    @property
    def peer(self) -> str:
        """Whose figure it is compared with."""
        ...

    def judge(self, measure: Measure, columns: Columns) -> Verdict | None:
        """Compare; None where what it is compared with was not measured."""
        ...


@dataclass(frozen=True, slots=True)
class Times:
    """At least so many times better than the peer."""

    scenario: str
    measure: str
    peer: str
    times: float

    def judge(self, measure: Measure, columns: Columns) -> Verdict | None:
        """See `Target`."""
        ratio = ratio_to(self.peer, self.scenario, measure, columns)
        if ratio is None:
            return None
        return Verdict(_ratio_text(ratio, self.peer), f"{self.times:g} x", round(ratio, 3) >= self.times - _ROUNDING)


@dataclass(frozen=True, slots=True)
class Within:
    """At most so many times a time in another row or column, and `slack` on top, in the unit of the measure."""

    scenario: str
    measure: str
    peer: str
    of: str
    """The scenario of the other figure."""
    times: float
    slack: float = 0.0

    def judge(self, measure: Measure, columns: Columns) -> Verdict | None:
        """See `Target`."""
        column = columns.get(self.peer)
        other = column.find(self.of, self.measure) if column else None
        if measure.value is None or other is None or not other.value:
            return None
        name = self.of if self.peer == "ours" else self.peer
        target = f"<= {self.times:g} x" + (f" + {self.slack:g} {measure.unit}" if self.slack else "")
        within = measure.value <= self.times * other.value + self.slack
        return Verdict(f"takes {measure.value / other.value:.2f} x {name}", target, within)


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A figure that stands for itself."""

    scenario: str
    measure: str
    value: float
    peer: str = ""

    def judge(self, measure: Measure, columns: Columns) -> Verdict | None:
        """See `Target`."""
        if measure.value is None:
            return None
        return Verdict("", f">= {self.value:g}", round(measure.value, 3) >= self.value)


_RECALL_MIN = 0.97

TARGETS: tuple[Target, ...] = (
    Times("ingest", "acknowledged", "chroma", 30),
    Times("ingest", "indexed", "chroma", 5),
    Times("resources", "memory (PSS)", "chroma", 1),
    Times("resources", "disk", "chroma", 1.5),
    Times("query 1", "throughput", "chroma", 4),
    Times("query 16", "throughput", "chroma", 8),
    Times("query 16", "throughput", "empty handler", 0.6),
    Times("query 16", "p99", "chroma", 8),
    *(Times(f"filter {share}", "throughput", "chroma", 25) for share in FILTERS),
    *(Within(f"filter {share}", "p50", "ours", "query 4", 1.5) for share in FILTERS),
    Times("contains", "throughput", "chroma", 20),
    Times("get ids", "throughput", "chroma", 8),
    Times("get filter", "throughput", "chroma", 15),
    Times("deep page", "throughput", "chroma", 20),
    Times("upserts beside queries", "query p99", "chroma", 20),
    Times("upserts beside queries", "upserts", "chroma", 50),
    Times("restart", "first query after", "chroma", 3),
    *(
        Within(f"embedded query{what}", "p50", "usearch", f"embedded query{what}", 2, slack=100)
        for what in ("", ", documents")
    ),
    *(Times(f"embedded filter {share}", "p50", "qdrant-edge", 1) for share in FILTERS),
    *(Times(f"embedded filter {share}", "recall@10", "qdrant-edge", 1) for share in FILTERS),
)


def verdicts(scenario: str, measure: Measure, columns: Columns) -> Iterator[Verdict]:
    """All that can be said of one figure of ours: each target, then plain ratios to the peers that have none."""
    if measure.name == "recall@10" and (verdict := AtLeast(scenario, measure.name, _RECALL_MIN).judge(measure, columns)):
        yield verdict
    rows = [row for row in TARGETS if (row.scenario, row.measure) == (scenario, measure.name)]
    for row in rows:
        if verdict := row.judge(measure, columns):
            yield verdict
    if measure.name == "recall@10":
        return  # says more than its ratio does
    for peer in columns:
        ratio = ratio_to(peer, scenario, measure, columns)
        if ratio is not None and peer not in {"ours", "empty handler", *(row.peer for row in rows)}:
            yield Verdict(_ratio_text(ratio, peer))


def ratio_to(peer: str, scenario: str, measure: Measure, columns: Columns) -> float | None:
    """How many times better than the peer's ours is; None where one of them is unknown."""
    theirs = columns[peer].find(scenario, measure.name) if peer in columns else None
    return times_better(measure, theirs) if theirs else None


def _ratio_text(ratio: float, peer: str) -> str:
    return f"{ratio:.2f} x {peer}"
