"""The command behind `scripts/simulate`: plays many seeds, says how many, and what they found."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.simulation.history import COVERED, STEPS
from tests.simulation.play import Played, play, play_quietly

FAILURES_MAX = 10
REPORT_SECONDS = 30.0
SEEDS_OF_A_PROCESS = 100
"""Then another one takes its place: what a crash leaves open in it must not add up."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000, help="how many (default: 2,000)")
    parser.add_argument("--first", type=int, default=0, help="the first one (default: 0)")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each history (default: {STEPS})")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that play at once")
    options = parser.parse_args(arguments)
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    started = time.monotonic()
    total = play_all(list(seeds), options.steps, options.processes)
    report(total, time.monotonic() - started)
    return 1 if total.failures else 0


def play_all(seeds: list[int], steps: int, processes: int) -> Played:
    """Play seeds in several processes, which are replaced now and then; stop when too many have failed."""
    total, told_at, size = Played(), time.monotonic(), processes * SEEDS_OF_A_PROCESS
    for first in range(0, len(seeds), size):
        for played in play_block(seeds[first : first + size], steps, processes):
            total.add(played)
            for failure in played.failures:
                print(f"FAILED: {failure}\n", flush=True)
            if time.monotonic() - told_at > REPORT_SECONDS:
                told_at = time.monotonic()
                print(f"{total.seeds:,} of {len(seeds):,} seeds, {len(total.failures)} failures", flush=True)
        if len(total.failures) >= FAILURES_MAX:
            break
    return total


def play_block(seeds: list[int], steps: int, processes: int) -> Iterator[Played]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(seeds)), context, play_quietly) as pool:
        for playing in as_completed([pool.submit(play, seed, steps) for seed in seeds]):
            yield playing.result()


def report(total: Played, seconds: float) -> None:
    print("visited, in all histories together:")
    for name in sorted({*COVERED, *total.seen}):
        if not name.startswith("step: "):
            print(f"  {total.seen[name]:>10,}  {name}")
    print(
        f"simulation: {total.seeds:,} seeds, {total.histories:,} histories, {total.steps:,} steps, "
        f"{len(total.failures)} failures, {seconds:,.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
