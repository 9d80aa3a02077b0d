"""One holder at a time; the next one as soon as it is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chroma_async.engine.lock import LOCK_FILE, CompactorLock, FileCompactorLock, MemoryCompactorLock


@pytest.fixture(params=["file", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], CompactorLock]:
    holder: list[object] = []
    return (lambda: FileCompactorLock(tmp_path)) if request.param == "file" else (lambda: MemoryCompactorLock(holder))


def test_only_one_holds_the_lock(make: Callable[[], CompactorLock]) -> None:
    mine, other = make(), make()
    assert mine.try_acquire()
    assert mine.try_acquire()
    assert not other.try_acquire()
    other.release()
    assert not other.try_acquire()
    mine.release()
    mine.release()
    assert other.try_acquire()
    assert not mine.try_acquire()
    other.release()


def test_lock_names_its_holder_and_outlives_no_process(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from chroma_async.engine.lock import FileCompactorLock
lock = FileCompactorLock(Path({str(tmp_path)!r}))
print(lock.try_acquire(), flush=True)
input()
"""
    source = str(Path(__file__).parents[2] / "src")
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "True\n"
    assert (tmp_path / LOCK_FILE).read_text() == f"{child.pid}\n"
    lock = FileCompactorLock(tmp_path)
    assert not lock.try_acquire()
    child.kill()
    child.communicate()
    assert lock.try_acquire()
    lock.release()


def test_a_forked_child_neither_holds_nor_frees_the_lock(tmp_path: Path) -> None:
    """The parent's death must free it at once, though the child lives on."""
    script = f"""
import os, sys, time
from pathlib import Path
from chroma_async.engine.lock import FileCompactorLock
lock = FileCompactorLock(Path({str(tmp_path)!r}))
assert lock.try_acquire()
child = os.fork()
if child == 0:
    lock.release()
    time.sleep(60)
print(child, flush=True)
input()
"""
    source = str(Path(__file__).parents[2] / "src")
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        time.sleep(0.2)
        lock = FileCompactorLock(tmp_path)
        assert not lock.try_acquire()
        parent.kill()
        parent.wait()
        assert lock.try_acquire()
        lock.release()
    finally:
        os.kill(child, signal.SIGKILL)
        parent.communicate()
