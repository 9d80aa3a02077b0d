"""What each durability costs: writes of one record and of many, beside what the disk's own fsync takes.

python -m load_tests.limits.durability --seconds 3 --rounds 3

Kinds of work take turns, so that a busy moment of the machine meets all of them; medians of the rounds are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from statistics import median, quantiles
from typing import Final, get_args

import numpy as np

from chroma_async import AsyncCollection, AsyncPersistentClient
from chroma_async.model import STAGES, Stage
from chroma_async.settings import Durability, EngineSettings

NDIM: Final = 384
BATCH: Final = 500
MANY_WRITERS: Final = 16
BATCH_WRITERS: Final = 4
FSYNC_BYTES: Final = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each kind of work")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--path", type=Path, help="directory on the disk to measure; default: the system's temporary one")
    options = parser.parse_args()
    found: dict[tuple[str, str], list[tuple[float, list[float]]]] = {}
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="load-test-", dir=options.path, ignore_cleanup_errors=True) as folder:
            found.setdefault(("fsync", ""), []).append(fsyncs(Path(folder) / "file", options.seconds))
            for durability in get_args(Durability):
                measured = asyncio.run(measure(Path(folder) / durability, durability, options.seconds))
                for kind, outcome in measured.items():
                    found.setdefault((durability, kind), []).append(outcome)
        print(f"round {number + 1} of {options.rounds}", flush=True)
    print(f"{'durability':<10} {'work':<34} {'per second':>12} {'p50 ms':>9} {'p99 ms':>9}")
    for (durability, kind), rounds in found.items():
        rate = median(rate for rate, _ in rounds)
        p50 = median(median(times) for _, times in rounds) * 1000
        p99 = median(quantiles(times, n=100)[98] for _, times in rounds if len(times) > 1) * 1000
        print(f"{durability:<10} {kind or f'the disk: append {FSYNC_BYTES} bytes':<34} {rate:12,.0f} {p50:9.2f} {p99:9.2f}")


def fsyncs(path: Path, seconds: float) -> tuple[float, list[float]]:
    """Append and fsync, as fast as the disk lets one; return appends a second, and the time of each."""
    times: list[float] = []
    begin = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        while time.perf_counter() - begin < seconds:
            started = time.perf_counter()
            file.write(b"x" * FSYNC_BYTES)
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return len(times) / (time.perf_counter() - begin), times


async def measure(path: Path, durability: Durability, seconds: float) -> dict[str, tuple[float, list[float]]]:
    """Return, by kind of work, records a second, and the time of each write in seconds."""
    found: dict[str, tuple[float, list[float]]] = {}
    async with AsyncPersistentClient(path, engine=EngineSettings(durability=durability)) as client:
        collection = await client.create_collection("durability", embedding_function=None)
        single = np.random.default_rng(0).standard_normal((1, NDIM)).astype(np.float32)
        many = np.random.default_rng(1).standard_normal((BATCH, NDIM)).astype(np.float32)

        def one(wait: Stage) -> Callable[[int], Coroutine[None, None, object]]:
            return lambda number: collection.upsert([f"{number}"], single, wait=wait)

        found["1 writer, 1 record"] = await _run(one("committed"), 1, 1, seconds)
        found[f"{MANY_WRITERS} writers, 1 record"] = await _run(one("committed"), MANY_WRITERS, 1, seconds)
        found[f"{BATCH_WRITERS} writers, {BATCH} records"] = await _run(
            lambda number: _batch(collection, number, many), BATCH_WRITERS, BATCH, seconds
        )
        await client.flush(wait="indexed", wait_seconds=600)
        if durability == "commit":
            for wait in STAGES[1:]:
                found[f"1 writer, 1 record, wait={wait}"] = await _run(one(wait), 1, 1, seconds)
    return found


async def _batch(collection: AsyncCollection, number: int, vectors: np.ndarray) -> None:
    await collection.upsert([f"{number}-{row}" for row in range(len(vectors))], vectors)


async def _run(
    write: Callable[[int], Coroutine[None, None, object]], writers: int, records: int, seconds: float
) -> tuple[float, list[float]]:
    times: list[float] = []
    begin = time.perf_counter()

    async def worker(first: int) -> None:
        number = first
        while time.perf_counter() - begin < seconds:
            started = time.perf_counter()
            await write(number)
            times.append(time.perf_counter() - started)
            number += writers

    await asyncio.gather(*(worker(first) for first in range(writers)))
    return records * len(times) / (time.perf_counter() - begin), times


if __name__ == "__main__":
    main()
