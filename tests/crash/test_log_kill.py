"""With real SQLite and a real SIGKILL: what was acknowledged is there, and nothing is stuck."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest

from chroma_async.model import CollectionId, Lsn
from chroma_async.wal import NewEntry, SqliteLog

pytestmark = pytest.mark.anyio

APPEND_FOR_EVER = """
import sys
from pathlib import Path
import anyio
from chroma_async.wal import NewEntry, SqliteLog

async def main(directory, entries, size):
    log = await SqliteLog.open(Path(directory))
    while True:
        async with log.exclusive():
            after = log.barrier()
            batch = [NewEntry(f"{after}.{i}.".encode() + b"x" * int(size), 0, "c") for i in range(int(entries))]
            lsn = await log.append(batch, after=after, rows={"last": str(after + len(batch)).encode()})
        print(lsn, flush=True)
        if lsn % 40 == 1 and lsn > 100:
            await log.truncate_collection("c", through=lsn - 100)

anyio.run(main, *sys.argv[1:])
"""

HOLD_FOR_EVER = """
import sys
from pathlib import Path
import anyio
from chroma_async.wal import SqliteLog

async def main(directory):
    log = await SqliteLog.open(Path(directory))
    async with log.exclusive():
        print("held", flush=True)
        await anyio.sleep(600)

anyio.run(main, *sys.argv[1:])
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)


def kill_after(seconds: float, children: list[subprocess.Popen[str]]) -> int:
    """Let the children run from their first acknowledged append on, kill them, return the highest LSN they reported."""
    assert all(child.stdout is not None and child.stdout.readline() for child in children)
    time.sleep(seconds)
    for child in children:
        child.kill()
    lines = [line for child in children for line in child.communicate()[0].split("\n")[:-1]]
    return max((int(line) for line in lines), default=1)


@pytest.mark.parametrize(("entries", "size", "processes"), [(1, 100, 1), (3, 2_000, 2), (2, 700_000, 1)])
async def test_acknowledged_entries_survive_kill(tmp_path: Path, entries: int, size: int, processes: int) -> None:
    dice = random.Random(size)
    for _ in range(4):
        children = [start(APPEND_FOR_EVER, str(tmp_path), str(entries), str(size)) for _ in range(processes)]
        acknowledged = kill_after(dice.random() * 0.25, children) + entries - 1
        with anyio.fail_after(5):
            log = await SqliteLog.open(tmp_path, create=False)
            end = log.barrier()
            assert end >= acknowledged
            assert end % entries == 0
            assert await log.catalog() == await _expected_catalog(log, end)
            await _check_whole(log, end, entries, size)
            await log.close()


async def _expected_catalog(log: SqliteLog, end: int) -> object:
    catalog = await log.catalog()
    assert catalog.lsn == end
    return type(catalog)(Lsn(end), {"last": str(end).encode()})


async def _check_whole(log: SqliteLog, end: int, entries: int, size: int) -> None:
    oldest = await log.oldest()
    found = [entry async for entry in log.read(after=Lsn(oldest - 1))]
    assert [entry.lsn for entry in found] == list(range(oldest, end + 1))
    for entry in found:
        first, position = divmod(entry.lsn - 1, entries)
        expected = f"{first * entries}.{position}.".encode() + b"x" * size
        assert entry.payload in (None, expected)
    assert all(entry.payload for entry in found[-entries:])


async def test_the_log_is_free_as_soon_as_its_holder_is_killed(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    holder = start(HOLD_FOR_EVER, str(tmp_path))
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    appended: list[Lsn] = []

    async def append() -> None:
        appended.append(await log.append([NewEntry(b"x", 0, CollectionId("c"))], after=Lsn(0)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(append)
        await anyio.sleep(0.1)
        assert appended == []
        with anyio.fail_after(2):
            holder.kill()
            while not appended:
                await anyio.sleep(0.001)
    holder.communicate()
    assert appended == [1]
    await log.close()
