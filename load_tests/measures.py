"""What a scenario reports, and what is expected of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Target:
    """What our figure should be, as a multiple of the peer's; 1 means not worse."""

    times: float

    def __str__(self) -> str:
        return f"{self.times:g} x" if self.times != 1 else "not worse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One figure; None where the server or the machine does not tell."""

    name: str
    value: float | None
    unit: str
    better: Better
    target: Target | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def times_better(measure: Measure, peer: Measure) -> float | None:
    """How many times better than the peer's, also where less is better; None where there is nothing to divide."""
    if not measure.value or not peer.value:
        return None
    ratio = measure.value / peer.value
    return ratio if measure.better == "higher" else 1 / ratio


def meets_target(measure: Measure, peer: Measure) -> bool | None:
    """Whether the target is met, to the precision that the table shows; None without a target or a comparison."""
    ratio = times_better(measure, peer)
    if measure.target is None or ratio is None:
        return None
    return round(ratio, 3) >= measure.target.times
