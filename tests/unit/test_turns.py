"""Turns and forks: what a child has a copy of must neither keep others waiting nor outlive its parent."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from chroma_async.wal.sqlite import turns
from chroma_async.wal.sqlite.turns import FileLock, Turn, pinned, unpinned

pytestmark = pytest.mark.anyio


@contextmanager
def forked() -> Generator[None]:
    """A child that does nothing, until the block ends."""
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def waiting(turn: Turn, taken: threading.Event) -> threading.Thread:
    def take() -> None:
        turn.take()
        taken.set()
        turn.release()

    thread = threading.Thread(target=take)
    thread.start()
    return thread


async def test_a_fork_while_somebody_waits_keeps_nobody_waiting(tmp_path: Path) -> None:
    """The child has a copy of the gate that the waiter holds."""
    path, taken = tmp_path / "a.lock", threading.Event()
    first = Turn(path)
    assert first.try_take()
    thread = waiting(Turn(path), taken)
    time.sleep(0.2)  # it is inside the gate now
    with forked():
        first.release()
        assert taken.wait(10)
        thread.join()
        with anyio.fail_after(10):
            (await FileLock(path).acquire()).release()


HOLDER = """
import os, signal, sys, threading, time
from pathlib import Path
from chroma_async.wal.sqlite.turns import Turn
turn = Turn(Path(sys.argv[1]))
assert turn.try_take()
threading.Thread(target=Turn(Path(sys.argv[1])).take, daemon=True).start()
time.sleep(0.2)
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_a_killed_holder_leaves_nothing_to_its_child(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    holder = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(holder, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        child = int(killed.stdout.readline())
        assert killed.wait() == -signal.SIGKILL
    try:
        os.kill(child, 0)
        with anyio.fail_after(10):
            (await FileLock(path).acquire()).release()
    finally:
        os.kill(child, signal.SIGKILL)


async def test_a_fork_does_not_keep_a_pin(tmp_path: Path) -> None:
    path = tmp_path / "a.pin"
    async with pinned(path):
        child = forked()
        child.__enter__()
    try:
        with unpinned(path) as free:
            assert free
    finally:
        child.__exit__(None, None, None)


async def test_a_child_that_forgets_a_turn_leaves_it_to_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    turn = Turn(path)
    assert turn.try_take()
    child = os.fork()
    if child == 0:
        mine = Turn(path)  # has the number of the descriptor that the copy had
        turn.release()
        os._exit(int(mine.try_take()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    turn.release()


async def test_a_turn_that_is_long_in_coming_is_told_with_its_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(turns, "SLOW_SECONDS", 0.1)
    path = tmp_path / "a.lock"
    first = Turn(path)
    assert first.try_take()
    with caplog.at_level(logging.INFO, "chroma_async.log"), anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:

            async def take() -> None:
                (await FileLock(path).acquire()).release()

            tasks.start_soon(take)
            while "log.turn_slow" not in caplog.text:
                await anyio.sleep(0.01)
            assert f"holder={os.getpid()}" in caplog.text
            first.release()
    assert "log.turn_came" in caplog.text
