"""What the SQLite log promises beyond `LogStore`: files, several processes, full disks, damage."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import pytest

from chroma_async.errors import (
    DirectoryReplacedError,
    FormatError,
    InsufficientStorageError,
    LogCorrupt,
    LogTruncated,
    ResourceLimitError,
)
from chroma_async.model import CollectionId, Lsn
from chroma_async.wal import NewEntry, SqliteLog
from chroma_async.wal.sqlite.turns import FileLock, SharedLsn

pytestmark = pytest.mark.anyio

A = CollectionId("aaaaaaaa-0000-4000-8000-000000000000")
B = CollectionId("bbbbbbbb-0000-4000-8000-000000000000")

APPENDER = """
import sys
from pathlib import Path
import anyio
from chroma_async.errors import LogConflict
from chroma_async.wal import NewEntry, SqliteLog

async def main(directory, name, count):
    log = await SqliteLog.open(Path(directory))
    for number in range(int(count)):
        while True:
            try:
                lsn = await log.append([NewEntry(f"{name}.{number}".encode(), 0)], after=log.barrier())
            except LogConflict:
                continue
            break
        print(lsn, f"{name}.{number}")
    await log.close()

anyio.run(main, *sys.argv[1:])
"""


def entry(payload: bytes = b"x") -> NewEntry:
    return NewEntry(payload, 0, A)


def sql(directory: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(directory / "log.sqlite3")) as connection, connection:
        return connection.execute(statement).fetchall()


async def payloads(log: SqliteLog) -> list[bytes | None]:
    return [found.payload async for found in log.read(after=Lsn(0))]


async def test_a_log_that_was_moved_away_or_replaced_takes_nothing_until_it_is_back(tmp_path: Path) -> None:
    here, away = tmp_path / "data", tmp_path / "away"
    log = await SqliteLog.open(here)
    await log.append([entry(b"1")], after=Lsn(0))
    here.rename(away)
    with pytest.raises(DirectoryReplacedError, match="beneath this process: restart it"):
        await log.append([entry(b"lost")], after=Lsn(1))
    assert not here.exists()
    other = await SqliteLog.open(here)
    for refused in (log.append([entry(b"lost")], after=Lsn(1)), log.note_applied(A, through=Lsn(1)), log.tidy()):
        with pytest.raises(DirectoryReplacedError):
            await refused
    await other.append([entry(b"other")], after=Lsn(0))
    assert await payloads(other) == [b"other"]
    await other.close()
    here.rename(tmp_path / "other")
    away.rename(here)
    await log.append([entry(b"2")], after=Lsn(1))
    assert await payloads(log) == [b"1", b"2"]
    await log.close()


async def test_several_processes_append_at_once_and_lose_nothing(tmp_path: Path) -> None:
    # Opened here first, so that a process which exits never is the last one and closes the file for all.
    log = await SqliteLog.open(tmp_path)
    children = [
        subprocess.Popen([sys.executable, "-c", APPENDER, str(tmp_path), f"p{n}", "60"], stdout=subprocess.PIPE, text=True)
        for n in range(3)
    ]
    told: dict[int, bytes] = {}
    for child in children:
        output, _ = await asyncio.to_thread(child.communicate, timeout=60)
        assert child.returncode == 0
        told |= {int(lsn): name.encode() for lsn, name in (line.split() for line in output.splitlines())}
    assert log.barrier() == 180
    assert sorted(told) == list(range(1, 181))
    assert await payloads(log) == [told[lsn] for lsn in range(1, 181)]
    await log.close()


async def test_a_log_that_nobody_closed_is_whole_when_opened_again(tmp_path: Path) -> None:
    script = APPENDER.replace("await log.close()", "import os; sys.stdout.flush(); os._exit(0)")
    subprocess.run([sys.executable, "-c", script, str(tmp_path), "p", "20"], check=True, stdout=subprocess.PIPE)
    log = await SqliteLog.open(tmp_path, create=False)
    assert await payloads(log) == [f"p.{n}".encode() for n in range(20)]
    await log.close()


async def test_a_script_that_forgets_to_close_ends_all_the_same(tmp_path: Path) -> None:
    script = APPENDER.replace("    await log.close()\n", "    globals()['kept'] = log\n")
    arguments = [sys.executable, "-c", script, str(tmp_path), "p", "1"]
    done = await asyncio.to_thread(subprocess.run, arguments, timeout=20, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (0, b"1 p.0\n")


async def test_create_false_refuses_a_directory_without_a_log(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no log in this directory"):
        await SqliteLog.open(tmp_path, create=False)
    assert list(tmp_path.iterdir()) == []


async def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    await (await SqliteLog.open(tmp_path)).close()
    sql(tmp_path, "UPDATE log SET format = 2")
    with pytest.raises(FormatError, match="format=2 known=1"):
        await SqliteLog.open(tmp_path)


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "log.sqlite3").write_bytes(b"these are my holiday pictures" * 1000)
    with pytest.raises(FormatError, match="not a log"):
        await SqliteLog.open(tmp_path)
    assert (tmp_path / "log.sqlite3").read_bytes() == b"these are my holiday pictures" * 1000


async def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    sql(tmp_path, "CREATE TABLE entries (lsn)")
    with pytest.raises(FormatError, match="not a log"):
        await SqliteLog.open(tmp_path)
    assert sql(tmp_path, "SELECT name FROM sqlite_master") == [("entries",)]


async def test_creation_that_was_interrupted_is_finished_by_the_next_one(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "log.sqlite3")) as connection:
        connection.execute("PRAGMA page_size = 8192")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
    log = await SqliteLog.open(tmp_path)
    assert await log.append([entry()], after=Lsn(0)) == 1
    await log.close()


async def test_the_file_is_made_as_measured(tmp_path: Path) -> None:
    await (await SqliteLog.open(tmp_path)).close()
    pragmas = [sql(tmp_path, f"PRAGMA {name}")[0][0] for name in ("page_size", "auto_vacuum", "journal_mode")]
    assert pragmas == [8192, 2, "wal"]


async def test_an_unknown_durability_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"commit, interval or off\. durability='often'"):
        await SqliteLog.open(tmp_path, durability="often")  # type: ignore[arg-type]


@pytest.mark.parametrize(("durability", "synchronous"), [("commit", 2), ("interval", 1), ("off", 1)])
async def test_durability_decides_whether_a_commit_is_synced(tmp_path: Path, durability: str, synchronous: int) -> None:
    log = await SqliteLog.open(tmp_path, durability=durability)  # type: ignore[arg-type]
    assert list(await log._writer.execute_fetchall("PRAGMA synchronous")) == [(synchronous,)]
    await log.append([entry()], after=Lsn(0))
    assert await payloads(log) == [b"x"]
    await log.close()


async def test_lsns_of_a_lost_tail_are_reported_and_not_given_away_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Projections may have applied them: an entry of the same number would be passed over."""
    log = await SqliteLog.open(tmp_path)
    await log.append([entry(), entry()], after=Lsn(0))
    await log.close()
    shared = SharedLsn(tmp_path / "log.committed")
    shared.set(5)
    shared.close()
    log = await SqliteLog.open(tmp_path)
    assert "log.tail_lost newest=2 published=5 entries=3" in caplog.text
    assert await log.append([entry()], after=log.barrier()) == 6
    kept = [found.payload is not None async for found in log.read(after=Lsn(0))]
    assert kept == [True, True, False, False, False, True]
    await log.close()


@pytest.mark.parametrize("stale", [0, 1, 2**64 - 1])
async def test_the_shared_number_is_made_true_when_a_log_is_opened(tmp_path: Path, stale: int) -> None:
    log = await SqliteLog.open(tmp_path)
    await log.append([entry(), entry()], after=Lsn(0))
    await log.close()
    shared = SharedLsn(tmp_path / "log.committed")
    shared.set(stale)
    shared.close()
    log = await SqliteLog.open(tmp_path)
    assert log.barrier() == 2
    await log.close()


async def test_nobody_is_given_an_entry_before_everybody_may_ask_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit is there before its process has told of it: who was given it then could tell somebody who does not see it."""
    writer, reader, other = [await SqliteLog.open(tmp_path) for _ in range(3)]

    async def given(collection: CollectionId | None) -> tuple[list[Lsn], Lsn]:
        history = await reader.history(collection, after=Lsn(0), bytes_max=2**20)
        return [found.lsn for found in history.entries], history.through

    await writer.append([entry(b"1")], after=Lsn(0))
    with monkeypatch.context() as patched:
        patched.setattr(SharedLsn, "set", lambda shared, newest: None)
        await writer.append([entry(b"2")], after=Lsn(1))
    assert sql(tmp_path, "SELECT max(lsn) FROM entries") == [(2,)]
    assert [await given(A), await given(None)] == [([1], 1), ([1], 1)]
    assert await payloads(reader) == [b"1"]
    assert reader.barrier() == other.barrier() == 1
    writer._shared.set(2)
    assert [await given(A), await given(None)] == [([1, 2], 2), ([1, 2], 2)]
    assert await payloads(other) == [b"1", b"2"]
    for log in (writer, reader, other):
        await log.close()


async def test_a_full_disk_is_told_from_other_failures_and_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    log, other = await SqliteLog.open(tmp_path), await SqliteLog.open(tmp_path)
    await log.append([entry()], after=Lsn(0), rows={"k": b"old"})
    (pages,) = next(iter(await log._writer.execute_fetchall("PRAGMA page_count")))
    await log._writer.execute_fetchall(f"PRAGMA max_page_count = {pages + 10}")
    with pytest.raises(InsufficientStorageError, match="full"):
        await log.append([entry(), entry(b"y" * 1_000_000)], after=Lsn(1), rows={"k": b"new"})
    assert not log._writer.in_transaction
    assert log.barrier() == 1
    assert await payloads(log) == [b"x"]
    with anyio.fail_after(5):
        assert await other.append([entry(b"z")], after=Lsn(1)) == 2
        assert await log.append([entry(b"small")], after=Lsn(2)) == 3
    assert (await log.catalog()).rows == {"k": b"old"}
    await log.close()
    await other.close()


async def test_a_read_only_log_says_so(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    await log._writer.execute("PRAGMA query_only = ON")
    with pytest.raises(ResourceLimitError, match="readonly"):
        await log.append([entry()], after=Lsn(0))
    await log._writer.execute("PRAGMA query_only = OFF")
    assert await log.append([entry()], after=Lsn(0)) == 1
    await log.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE entries SET payload = x'00'",
        "UPDATE entries SET payload = NULL",
        "UPDATE entries SET collection = NULL",
        "UPDATE entries SET time_ns = 1",
        "UPDATE entries SET operation_id = 'another'",
        "UPDATE entries SET crc = crc + 1",
    ],
)
async def test_damage_to_any_column_of_an_entry_is_noticed(tmp_path: Path, damage: str) -> None:
    log = await SqliteLog.open(tmp_path)
    await log.append([entry()], after=Lsn(0))
    sql(tmp_path, damage)
    with pytest.raises(LogCorrupt, match="lsn=1"):
        await payloads(log)
    await log.close()


async def test_damage_to_a_catalog_row_is_noticed(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    await log.append([entry()], after=Lsn(0), rows={"k": b"value"})
    sql(tmp_path, "UPDATE catalog SET value = x'00'")
    with pytest.raises(LogCorrupt, match="key='k'"):
        await log.catalog()
    await log.close()


async def test_the_schema_refuses_an_lsn_that_leaves_a_hole(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    await log.append([entry()], after=Lsn(0))
    with pytest.raises(sqlite3.IntegrityError, match="does not follow"):
        sql(tmp_path, "INSERT INTO entries VALUES (3, NULL, 0, 0, NULL, NULL)")
    await log.close()


async def test_truncation_gives_the_space_back(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    for after in range(60):
        await log.append([entry(b"y" * 1_000_000)], after=Lsn(after))
    file = tmp_path / "log.sqlite3"
    assert await log.size_bytes() > 60_000_000
    await log.truncate_collection(A, through=Lsn(60))
    assert await log.append([entry()], after=Lsn(60)) == 61
    await log.close()
    assert file.stat().st_size < 12_000_000
    assert sql(tmp_path, "PRAGMA integrity_check") == [("ok",)]


async def steps_of(connection: aiosqlite.Connection, work: Callable[[], Awaitable[object]]) -> int:
    """How many steps SQLite takes for something, in tens."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    await connection.set_progress_handler(count, 10)
    await work()
    await connection.set_progress_handler(None, 0)  # type: ignore[arg-type]
    return steps


async def test_where_histories_begin_is_told_and_moved_at_the_same_cost_however_much_is_kept(tmp_path: Path) -> None:
    """Every feed that connects again asks for it, and the retention moves it with the log's turn held."""
    told: list[int] = []
    moved: list[int] = []
    for count in (200, 20_000):
        log = await SqliteLog.open(tmp_path / str(count), durability="off")
        await log.append([entry()] * count, after=Lsn(0))
        await log.note_applied(A, through=Lsn(count))
        moved.append(await steps_of(log._writer, lambda log=log: log.truncate(through=Lsn(10))))  # type: ignore[misc]
        told.append(await steps_of(log._reader, log.freed_through))
        assert await log.freed_through() == {A: 10}
        await log.close()
    assert told[1] < 2 * told[0] + 10
    assert moved[1] < 2 * moved[0]


async def test_a_log_of_0_1_0_knows_what_was_applied_and_where_its_histories_begin(tmp_path: Path) -> None:
    """It noted neither; its freed entries tell, as far as they are kept, and what they told is noted for good."""
    log = await SqliteLog.open(tmp_path)
    await log.append([entry(), entry(), NewEntry(b"x", 0, B), entry()], after=Lsn(0))
    await log.truncate_collection(A, through=Lsn(2), keep_after=Lsn(1))
    await log.close()
    sql(tmp_path, "DROP TABLE freed")
    sql(tmp_path, "DROP TABLE truncated")
    log = await SqliteLog.open(tmp_path)
    assert await log.freed_through() == await log.noted_applied() == {A: 2}
    with pytest.raises(LogTruncated):
        await log.history(A, after=Lsn(1), bytes_max=100)
    assert [found.lsn for found in (await log.history(A, after=Lsn(2), bytes_max=100)).entries] == [4]
    await log.truncate_collection(B, through=Lsn(3))
    assert await log.oldest() == 4
    assert await log.freed_through() == await log.noted_applied() == {A: 2, B: 3}
    await log.close()


async def test_old_operation_ids_are_forgotten_beyond_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chroma_async.wal.sqlite.truncation.OPERATION_WINDOW", 3)
    log = await SqliteLog.open(tmp_path)
    for after in range(6):
        await log.append([NewEntry(b"x", 0, A, f"op {after + 1}")], after=Lsn(after))
    await log.truncate_collection(A, through=Lsn(6))
    assert sql(tmp_path, "SELECT lsn, operation_id FROM operations") == [(4, "op 4"), (5, "op 5"), (6, "op 6")]
    assert await log.append([NewEntry(b"x", 0, A, "op 4")], after=Lsn(6)) == 4
    assert await log.append([NewEntry(b"x", 0, A, "op 3")], after=Lsn(6)) == 7
    await log.close()


async def test_an_open_that_is_cancelled_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a connection that nobody closes: from Python 3.13 on such a one is a ResourceWarning."""
    opened, closed = list[int](), set[int]()
    original = sqlite3.connect

    def connect(*args: Any, factory: type[sqlite3.Connection] = sqlite3.Connection, **options: Any) -> sqlite3.Connection:
        number = len(opened)

        class Counted(factory):
            def close(self) -> None:
                super().close()
                closed.add(number)

        opened.append(number)
        return original(*args, factory=Counted, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)
    for step in range(12):
        task = asyncio.create_task(SqliteLog.open(tmp_path))
        await asyncio.sleep(step * 0.0003)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await (await task).close()
        del task
        with anyio.fail_after(5):
            await (await SqliteLog.open(tmp_path)).close()
    gc.collect()
    assert len(opened) >= 24
    assert closed == set(opened)


def test_an_open_that_is_cancelled_with_its_event_loop_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread would tell a closed loop of the connection, and end with a traceback on standard error."""
    original = sqlite3.connect

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        time.sleep(0.2)
        return original(*args, **options)

    async def begin() -> None:
        opening = asyncio.create_task(SqliteLog.open(tmp_path))
        await asyncio.sleep(0.1)
        assert not opening.done()

    monkeypatch.setattr(sqlite3, "connect", connect)
    before = set(threading.enumerate())
    asyncio.run(begin())
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("count", [1, 3])
async def test_the_turn_is_kept_until_a_cancelled_append_is_over(count: int, tmp_path: Path) -> None:
    log, before = await SqliteLog.open(tmp_path), asyncio.all_tasks()
    with closing(sqlite3.connect(tmp_path / "log.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # the connection's thread waits for it
        append = asyncio.create_task(log.append([entry()] * count, after=Lsn(0)))
        await asyncio.sleep(0.05)
        for task in asyncio.all_tasks() - before:  # as a loop that shuts down does: the log's own tasks too
            task.cancel()
        await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError), anyio.fail_after(0.2):
            (await FileLock(tmp_path / "log.lock").acquire()).release()
        other.execute("ROLLBACK")
    with pytest.raises(asyncio.CancelledError):
        await append
    newest = int(str(sql(tmp_path, "SELECT newest FROM bounds")[0][0]))
    assert newest == (1 if count == 1 else 0)
    assert await log.append([entry()] * 2, after=Lsn(newest)) == newest + 1
    await log.close()


@pytest.mark.parametrize("milliseconds", [0, 0.3, 1, 3])
async def test_a_loop_that_shuts_down_during_appends_leaves_all_or_nothing(tmp_path: Path, milliseconds: float) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from chroma_async.wal import NewEntry, SqliteLog

async def main(directory, milliseconds):
    log = await SqliteLog.open(Path(directory))
    for number in range(20):
        append = log.append([NewEntry(b"x", 0), NewEntry(b"x" * 100_000, 0)], after=2 * number)
        kept.append(asyncio.create_task(append))
    await asyncio.sleep(float(milliseconds) / 1000)
    kept.append(log)

kept = []
asyncio.run(main(*sys.argv[1:]))
"""
    arguments = [sys.executable, "-c", script, str(tmp_path), str(milliseconds)]
    await asyncio.to_thread(subprocess.run, arguments, check=True, timeout=20, stderr=subprocess.DEVNULL)
    log = await SqliteLog.open(tmp_path)
    end = log.barrier()
    assert end % 2 == 0
    assert len(await payloads(log)) == end
    assert await log.append([entry()], after=end) == end + 1
    await log.close()


async def test_the_file_lock_is_free_when_its_holder_forgets_it(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "a.lock")
    turn = await lock.acquire()
    del turn
    with anyio.fail_after(5):
        (await lock.acquire()).release()


async def test_the_file_lock_leaves_no_descriptors_open(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "a.lock")

    async def take() -> None:
        (await lock.acquire()).release()

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        turn = await lock.acquire()
        tasks = [asyncio.create_task(take()) for _ in range(3)]
        await asyncio.sleep(0.0005)
        tasks[0].cancel()
        turn.release()
        await asyncio.wait(tasks)
    (await lock.acquire()).release()
    with anyio.fail_after(10):  # who was cancelled may still be about to notice that it got the turn
        while len(os.listdir("/proc/self/fd")) > before:
            await asyncio.sleep(0.01)
