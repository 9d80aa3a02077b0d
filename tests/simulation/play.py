"""Plays seeds: which histories a seed stands for, and what they came to. Shared by the tests and by `scripts/simulate`."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.simulation.history import STEPS, History
from tests.simulation.world import LogKind, Regime

MEMORY_FILES = Path("/dev/shm")
"""Where files cost no disk. Nothing is lost in earnest here, so nothing has to be kept."""


@dataclass(frozen=True)
class Variant:
    durability: Regime
    log_kind: LogKind


def variants(seed: int) -> list[Variant]:
    """Each seed is played with the log in memory; most a second time: with fsyncs in intervals, with processes of different
    durability, or without fsync. Every eighth one is played on SQLite's log as well.
    """
    chosen = [Variant("commit", "memory")]
    lazy: tuple[Regime, ...] = ("off", "mixed", "off", "interval")
    chosen.append(Variant(lazy[seed % 4], "memory"))
    if seed % 8 == 1:
        chosen.append(Variant("commit" if seed % 16 == 1 else "off", "sqlite"))
    return chosen


@dataclass
class Played:
    """What some seeds came to."""

    seeds: int = 0
    histories: int = 0
    steps: int = 0
    seen: Counter[str] = field(default_factory=Counter[str])
    failures: list[str] = field(default_factory=list[str])

    def add(self, other: Played) -> None:
        self.seeds += other.seeds
        self.histories += other.histories
        self.steps += other.steps
        self.seen.update(other.seen)
        self.failures.extend(other.failures)


def play(seed: int, steps: int = STEPS) -> Played:
    """Play all histories of a seed, each in a directory that is gone afterwards."""
    played = Played(seeds=1)
    for variant in variants(seed):
        place = MEMORY_FILES if MEMORY_FILES.is_dir() else None
        with tempfile.TemporaryDirectory(prefix="chroma_async-simulation-", dir=place) as directory:
            history = History(Path(directory), seed, variant.durability, variant.log_kind)
            try:
                asyncio.run(history.run(steps))
            except AssertionError as error:
                played.failures.append(f"{variant.log_kind} log, durability {variant.durability}, {error}")
        played.histories += 1
        played.steps += len(history.steps)
        played.seen.update(history.seen)
        played.seen.update(f"step: {name}" for name in history.steps)
    return played


def play_quietly() -> None:
    """Leave out of the output of this process what the engine logs: faults are logged as they would be in earnest."""
    logging.disable(logging.CRITICAL)
