"""Histories that nobody thought of: crashes, takeovers, cancelled callers, lost writes. A failing seed fails again.

Thousands of seeds: `CHROMA_ASYNC_SEEDS=5000 pytest tests/simulation`; one: `CHROMA_ASYNC_SEED=17 pytest tests/simulation`.
"""

import asyncio
import os
from pathlib import Path

import pytest
from tests.simulation.history import History

STEPS = 60


def seeds() -> list[int]:
    if "CHROMA_ASYNC_SEED" in os.environ:
        return [int(os.environ["CHROMA_ASYNC_SEED"])]
    return list(range(int(os.environ.get("CHROMA_ASYNC_SEEDS", "24"))))


@pytest.mark.parametrize("seed", seeds())
def test_acknowledged_history_is_what_every_process_reads(seed: int, tmp_path: Path) -> None:
    asyncio.run(History(tmp_path, seed).run(STEPS))


@pytest.mark.parametrize("seed", seeds()[::2])
def test_without_fsync_a_power_cut_takes_the_newest_writes_at_most(seed: int, tmp_path: Path) -> None:
    asyncio.run(History(tmp_path, seed, durability="off").run(STEPS))
