"""Work in pieces: done by the thread that asks, and by others where they have nothing else to do."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Iterator
from functools import partial

import pytest

from chroma_async.seams import InlineWorkers, NobodyWaits, ThreadWorkers, require_wanted, while_wanted, workers

WAIT_SECONDS = 30.0


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadWorkers]:
    """Two threads beside the caller's, on a machine with three processors."""
    monkeypatch.setattr(workers, "_processors", lambda: 3)
    pool = ThreadWorkers(2, "test")
    yield pool
    pool.close()


@pytest.mark.anyio
async def test_a_function_that_nobody_waits_for_any_more_is_not_begun(threads: ThreadWorkers) -> None:
    all_busy, held, begun = threading.Barrier(3, timeout=WAIT_SECONDS), threading.Event(), list[int]()

    def hold() -> None:
        all_busy.wait()
        held.wait(WAIT_SECONDS)

    holding = [asyncio.create_task(threads.run(hold)) for _ in range(2)]
    await asyncio.to_thread(all_busy.wait)
    waiting = [asyncio.create_task(threads.run(partial(begun.append, number))) for number in range(4)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    waiting[2].cancel()
    await asyncio.sleep(0)
    held.set()
    await asyncio.gather(*holding, waiting[0], waiting[3])
    assert sorted(begun) == [0, 3]


@pytest.mark.anyio
async def test_work_that_asks_is_given_up_when_nobody_waits_for_it(threads: ThreadWorkers) -> None:
    steps, began, ended = 0, threading.Event(), threading.Event()

    def work() -> None:
        nonlocal steps
        try:
            while True:
                require_wanted()
                steps += 1
                began.set()
                time.sleep(0.001)
        finally:
            ended.set()

    task = asyncio.create_task(threads.run(work))
    assert await asyncio.to_thread(began.wait, WAIT_SECONDS)
    task.cancel()
    assert await asyncio.to_thread(ended.wait, WAIT_SECONDS)
    assert steps
    require_wanted()  # what has no caller is wanted
    with pytest.raises(NobodyWaits), while_wanted(lambda: False):
        require_wanted()


def test_each_piece_is_run_once_and_the_outcomes_are_in_order(threads: ThreadWorkers) -> None:
    for count in (0, 1, 2, 3, 50):
        runs: list[int] = []

        def piece(number: int, runs: list[int] = runs) -> int:
            runs.append(number)
            return number * 2

        assert threads.share([partial(piece, number) for number in range(count)]) == [2 * number for number in range(count)]
        assert sorted(runs) == list(range(count))
    assert InlineWorkers().share([lambda: 1, lambda: 2]) == [1, 2]


def test_pieces_are_run_at_the_same_time(threads: ThreadWorkers) -> None:
    all_there = threading.Barrier(3, timeout=WAIT_SECONDS)

    def piece() -> str:
        all_there.wait()
        return threading.current_thread().name

    assert len(set(threads.share([piece] * 3))) == 3


def test_threads_that_are_busy_are_not_waited_for(threads: ThreadWorkers) -> None:
    all_busy, go_on = threading.Barrier(4, timeout=WAIT_SECONDS), threading.Event()
    told: list[bool] = []

    def long() -> None:
        all_busy.wait()
        told.append(go_on.wait(WAIT_SECONDS))

    other = threading.Thread(target=threads.share, args=([long] * 3,))
    other.start()
    all_busy.wait()
    try:
        here = threading.current_thread()
        assert threads.share([threading.current_thread] * 5) == [here] * 5
    finally:
        go_on.set()
        other.join()
    assert told == [True] * 3, "they were still busy"


@pytest.mark.parametrize("who", ["caller", "helper"])
def test_an_error_comes_out_after_what_others_have_begun(threads: ThreadWorkers, who: str) -> None:
    ended: list[str] = []
    failing = ["one"]
    all_there = threading.Barrier(3, timeout=WAIT_SECONDS)
    caller = threading.current_thread()

    def piece() -> None:
        all_there.wait()
        if (threading.current_thread() is caller) == (who == "caller") and failing:
            failing.pop()
            raise ValueError("of one piece")
        time.sleep(0.5)
        ended.append("begun before")

    with pytest.raises(ValueError, match="of one piece"):
        threads.share([piece, piece, piece, *[partial(ended.append, "begun after")] * 50])
    assert ended == ["begun before"] * 2
    all_there = threading.Barrier(3, timeout=WAIT_SECONDS)
    threads.share([all_there.wait] * 3)  # the threads go on


def test_what_was_shared_is_let_go_though_a_thread_has_not_come_yet(threads: ThreadWorkers) -> None:
    all_busy, go_on = threading.Barrier(4, timeout=WAIT_SECONDS), threading.Event()

    def long() -> None:
        all_busy.wait()
        go_on.wait(WAIT_SECONDS)

    class Held:
        pass

    other = threading.Thread(target=threads.share, args=([long] * 3,))
    other.start()
    all_busy.wait()
    try:
        held = Held()
        seen = weakref.ref(held)
        threads.share([partial(id, held)] * 2)
        del held
        assert seen() is None
    finally:
        go_on.set()
        other.join()
