"""The long load tests' own judgement: true neighbours of rows that are not kept, lag, growth."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from load_tests import data, growth
from load_tests.api import Progress
from load_tests.bench import Options, Workload
from load_tests.errors import WrongAnswer
from load_tests.growth import Growth, Nearest, Size, Supply, burst_between, sizes_between
from load_tests.servers import our_program, running
from load_tests.soak import Crowd, Minute, Soak, require_flat, soak
from load_tests.watch import lag_seconds

SIZE = Size(
    records=1000,
    ingest_per_second=10_000.0,
    burst_per_second=10_000.0,
    busy_retries=0,
    settle_seconds=1.0,
    is_settled=True,
    lag_seconds_max=0.1,
    p50_ms={"query, HTTP": 1.0, "filter 1 %, HTTP": 1.0},
    recall={"query, HTTP": 1.0},
    unevictable_mib={"worker": 100.0},
)


def test_sizes_go_up_to_the_last() -> None:
    assert sizes_between(20_000, 1_000_000) == [20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000]
    assert sizes_between(1000, 3000) == [1000, 2000, 3000]
    assert sizes_between(1000, 1000) == [1000]


def test_a_burst_does_not_reach_the_next_size() -> None:
    assert burst_between(sizes_between(20_000, 1_000_000)) == 10_000
    assert burst_between(sizes_between(40_000, 200_000)) == 5_000
    assert burst_between([1000]) == 500


def test_rows_beyond_the_data_set_are_its_own_with_a_little_noise() -> None:
    base = data.synthetic(100, queries=5, ndim=16)
    supply = Supply(base)
    first, second = supply.part(0, 80), supply.part(80, 60)
    assert [*first.ids, *second.ids] == [f"record-{row}" for row in range(140)]
    assert np.array_equal(np.concatenate([first.vectors, second.vectors[:20]]), base.vectors)
    similarities = np.einsum("ij,ij->i", second.vectors[20:], base.vectors[:40])
    assert similarities.min() > 0.95
    assert similarities.max() < 1
    assert second.metadatas[30]["n_mod_100"] == 10


@pytest.mark.parametrize("kind", list(growth.KINDS))
def test_nearest_follows_rows_that_come_in_parts(kind: str) -> None:
    base = data.synthetic(3000, queries=4, ndim=16)
    nearest = Nearest(base.queries)
    for first in range(0, 3000, 700):
        nearest.extend(first, base.vectors[first : first + 700])
    selection = growth.KINDS[kind]
    similarities = base.queries @ base.vectors.T
    for number in range(4):
        if selection is not None:
            similarities[number][~selection.rows(number, 3000)] = -9
        order = np.argsort(-similarities[number]).tolist()

        def recall(rows: list[int], number: int = number) -> float:
            distances = [float(1 - base.queries[number] @ base.vectors[row]) for row in rows]
            return nearest.recall(kind, number, [f"record-{row}" for row in rows], distances)

        assert recall(order[:10]) == 1.0
        assert recall([*order[:7], *order[20:23]]) == 0.7


def test_nearest_refuses_what_a_filter_excludes_and_distances_of_others() -> None:
    base = data.synthetic(1000, queries=1, ndim=16)
    nearest = Nearest(base.queries)
    nearest.extend(0, base.vectors)
    similarities = base.queries[0] @ base.vectors.T
    rows = np.argsort(-similarities).tolist()[:10]
    ids, distances = [f"record-{row}" for row in rows], (1 - similarities[rows]).tolist()
    with pytest.raises(WrongAnswer, match="excludes"):
        nearest.recall("filter 1 %", 0, ids, distances)
    with pytest.raises(WrongAnswer, match="distance"):
        nearest.recall("query", 0, ids, [distance + 0.01 for distance in distances])
    with pytest.raises(WrongAnswer, match="ten different"):
        nearest.recall("query", 0, [ids[0]] * 10, distances)


@pytest.mark.parametrize(
    ("last", "missed"),
    [
        (SIZE, []),
        (replace(SIZE, p50_ms={"query, HTTP": 3.1, "filter 1 %, HTTP": 5.9}), ["query, HTTP p50"]),
        (replace(SIZE, p50_ms={"query, HTTP": 2.9, "filter 1 %, HTTP": 6.1}), ["filter 1 %, HTTP p50"]),
        (replace(SIZE, ingest_per_second=7_900.0), ["ingest, acknowledged"]),
        (replace(SIZE, burst_per_second=7_900.0), ["burst, acknowledged"]),
        (replace(SIZE, recall={"query, HTTP": 0.96}), ["query, HTTP recall@10"]),
        (replace(SIZE, unevictable_mib={"worker": 300.0}), ["un-evictable memory, worker"]),
        (replace(SIZE, unevictable_mib={"worker": 100.0, "builder": 300.0}), ["un-evictable memory, builder"]),
    ],
)
def test_the_last_size_is_judged_by_the_first(last: Size, missed: list[str]) -> None:
    assert [name for name, verdict in Growth("ours", [SIZE, last]).verdicts() if not verdict.met] == missed


def test_lag_is_the_age_of_the_oldest_write_without_an_index() -> None:
    totals: deque[tuple[float, int]] = deque()
    assert lag_seconds(totals, 0.0, Progress(indexed=10, unindexed=0)) == 0.0
    assert lag_seconds(totals, 1.0, Progress(indexed=10, unindexed=5)) == 0.0
    assert lag_seconds(totals, 3.0, Progress(indexed=10, unindexed=9)) == 2.0
    assert lag_seconds(totals, 4.0, Progress(indexed=15, unindexed=4)) == 1.0
    assert lag_seconds(totals, 5.0, Progress(indexed=19, unindexed=0)) == 0.0


def test_a_short_soak_finds_everything_in_the_end(tmp_path: Path) -> None:
    result, said = Soak("ours"), list[Minute]()
    workload = Workload(data.synthetic(1000, queries=50, ndim=32), Options(), tmp_path)
    with running(our_program(workers=2)) as server:
        soak(server, workload, minutes=0.05, pace=1.0, crowd=Crowd(), result=result, say=said.append)
    assert said == result.minutes
    assert len(result.minutes) == 1
    assert result.minutes[0].count["query"] >= 50
    assert all(count > 0 for count in result.minutes[0].count.values())
    assert result.recall is not None
    assert result.recall >= 0.97


def minutes_of(memories: list[int]) -> list[Minute]:
    return [
        Minute(
            number=number,
            seconds=60.0,
            count={},
            p50_ms={},
            p99_ms={},
            busy_retries=0,
            lag_seconds_p50=None,
            lag_seconds_max=None,
            memory_bytes=memory,
            unevictable_bytes_max=None,
            disk_bytes=1_000,
        )
        for number, memory in enumerate(memories, 1)
    ]


def test_soak_is_judged_by_whether_memory_grows() -> None:
    require_flat(minutes_of([50, 90, 100, 100, 105, 109]))
    require_flat(minutes_of([10, 20, 40, 80]))  # too short a time to tell
    with pytest.raises(WrongAnswer, match="memory_bytes grow"):
        require_flat(minutes_of([50, 90, 100, 100, 105, 111]))
