"""Histories that nobody thought of: crashes, takeovers, cancelled callers, lost writes, failing disks.

Thousands of seeds: `scripts/simulate --seeds 5000`; one: `scripts/simulate --seed 17`, or here `CHROMA_ASYNC_SEED=17`.
"""

import os
from functools import cache

import pytest
from tests.simulation.history import COVERED
from tests.simulation.play import Played, play


def seeds() -> list[int]:
    if "CHROMA_ASYNC_SEED" in os.environ:
        return [int(os.environ["CHROMA_ASYNC_SEED"])]
    return list(range(int(os.environ.get("CHROMA_ASYNC_SEEDS", "24"))))


@cache
def played(seed: int) -> Played:
    return play(seed)


@pytest.mark.parametrize("seed", seeds())
def test_acknowledged_history_is_what_every_process_reads(seed: int) -> None:
    """With and without fsync, and on the log of SQLite: the variants of a seed are those of `play.variants`."""
    found = played(seed)
    assert not found.failures, "\n".join(found.failures)


@pytest.mark.skipif(len(seeds()) < 24, reason="a few histories visit a few states")
def test_histories_visit_what_they_are_for() -> None:
    total = Played()
    for seed in seeds():
        total.add(played(seed))
    assert not [name for name in COVERED if not total.seen[name]]
    views = sum(total.seen[f"step: {name}"] for name in ("read", "view"))
    older = sum(total.seen[f"{name}: on an older base"] for name in ("read", "view"))
    assert older > views / 10
