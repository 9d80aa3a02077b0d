"""Every sentence of `LogStore` and `TruncatableLog`, for every log."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from chroma_async.errors import LogConflict, LogCorrupt, LogError, LogHole, LogReset, LogTruncated, StorageCorrupt
from chroma_async.model import CollectionId, Lsn
from chroma_async.wal import CatalogRows, Entry, MemoryLog, MemoryLogState, NewEntry, SqliteLog, TruncatableLog

pytestmark = pytest.mark.anyio

A = CollectionId("aaaaaaaa-0000-4000-8000-000000000000")
B = CollectionId("bbbbbbbb-0000-4000-8000-000000000000")


class MemoryMedium:
    def __init__(self) -> None:
        self.state = MemoryLogState()

    async def open(self) -> TruncatableLog:
        return MemoryLog(self.state)

    def flip_bit(self, lsn: int) -> None:
        stored = self.state.image.entries[lsn]
        payload = stored.entry.payload[:-1] + b"~"
        self.state.image.entries[lsn] = replace(stored, entry=replace(stored.entry, payload=payload))

    def drop_entry(self, lsn: int) -> None:
        del self.state.image.entries[lsn]


class SqliteMedium:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def open(self) -> TruncatableLog:
        return await SqliteLog.open(self.directory)

    def flip_bit(self, lsn: int) -> None:
        self._damage("UPDATE entries SET payload = CAST(substr(payload, 1, length(payload) - 1) || '~' AS BLOB)", lsn)

    def drop_entry(self, lsn: int) -> None:
        self._damage("DELETE FROM entries", lsn)

    def _damage(self, statement: str, lsn: int) -> None:
        with closing(sqlite3.connect(self.directory / "log.sqlite3")) as connection, connection:
            assert connection.execute(f"{statement} WHERE lsn = ?", (lsn,)).rowcount == 1


class Logs:
    """Opens handles on one log, as processes would, and closes them after the test."""

    def __init__(self, medium: MemoryMedium | SqliteMedium) -> None:
        self.medium = medium
        self._opened: list[TruncatableLog] = []

    async def open(self) -> TruncatableLog:
        log = await self.medium.open()
        self._opened.append(log)
        return log

    async def close(self) -> None:
        for log in self._opened:
            await log.close()


@pytest.fixture(params=["memory", "sqlite"])
async def logs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Logs]:
    opened = Logs(MemoryMedium() if request.param == "memory" else SqliteMedium(tmp_path))
    yield opened
    await opened.close()


@pytest.fixture
async def log(logs: Logs) -> TruncatableLog:
    return await logs.open()


def entry(payload: str = "x", collection: CollectionId | None = A, operation: str | None = None) -> NewEntry:
    return NewEntry(payload.encode(), 1_700_000_000_000_000_000, collection, operation)


async def fill(log: TruncatableLog, count: int, collection: CollectionId | None = A) -> None:
    """Append `count` entries whose payloads are their LSNs."""
    after = log.barrier()
    await log.append([entry(str(after + 1 + i), collection) for i in range(count)], after=after)


async def all_of(log: TruncatableLog, after: int = 0, through: int | None = None) -> list[Entry]:
    return [found async for found in log.read(after=Lsn(after), through=None if through is None else Lsn(through))]


async def lsns(log: TruncatableLog, after: int = 0, through: int | None = None) -> list[int]:
    return [found.lsn for found in await all_of(log, after, through)]


async def others_have_their_chance(log: TruncatableLog) -> None:
    """Read for a while, which nobody has to wait for: whoever can append meanwhile does."""
    for _ in range(30):
        await lsns(log)


async def lsns_before(
    error: type[LogError], match: str, log: TruncatableLog, between: Callable[[], Awaitable[None]] | None = None
) -> list[int]:
    """Return what a reader gets before the error that it must get."""
    seen: list[int] = []

    async def read() -> None:
        async for found in log.read(after=Lsn(0)):
            seen.append(found.lsn)
            if between is not None:
                await between()

    with pytest.raises(error, match=match):
        await read()
    return seen


# 1. Density


async def test_lsns_are_dense_and_begin_with_one(log: TruncatableLog) -> None:
    assert await log.append([entry()], after=Lsn(0)) == 1
    assert await log.append([entry(), entry(), entry()], after=Lsn(1)) == 2
    assert await log.append([entry()], after=Lsn(4)) == 5
    assert await lsns(log) == [1, 2, 3, 4, 5]


async def test_lsns_are_not_reused_after_everything_was_truncated(logs: Logs) -> None:
    log = await logs.open()
    await fill(log, 3)
    await log.truncate_collection(A, through=Lsn(3))
    assert await log.append([entry()], after=Lsn(3)) == 4
    assert await lsns(log, after=3) == [4]


async def test_lsns_are_not_reused_after_truncation_and_restart(logs: Logs) -> None:
    log = await logs.open()
    await fill(log, 3)
    await log.truncate_collection(A, through=Lsn(3))
    await log.close()
    again = await logs.open()
    assert (again.barrier(), await again.oldest()) == (3, 4)
    with pytest.raises(LogConflict):
        await again.append([entry()], after=Lsn(0))
    assert await again.append([entry()], after=Lsn(3)) == 4


# 2. All or none


async def test_appended_entries_come_back_as_they_were(logs: Logs) -> None:
    log = await logs.open()
    new = [NewEntry(b"\x00\xff" * 3, 7, A, "op"), NewEntry(b"", 8, None), NewEntry(b"z" * 100_000, 9, B)]
    await log.append(new, after=Lsn(0))
    await log.close()
    found = await all_of(await logs.open())
    assert found == [Entry(Lsn(lsn), e.collection, e.payload, e.time_ns) for lsn, e in enumerate(new, 1)]


async def test_an_append_that_fails_half_way_leaves_nothing(log: TruncatableLog) -> None:
    await log.append([entry()], after=Lsn(0), rows={"k": b"old"})
    unencodable = entry(operation="\ud800")
    with pytest.raises(UnicodeEncodeError):
        await log.append([entry(), unencodable], after=Lsn(1), rows={"k": b"new"})
    assert await lsns(log) == [1]
    assert dict((await log.catalog()).rows) == {"k": b"old"}
    assert await log.append([entry()], after=Lsn(1)) == 2


async def test_an_append_of_nothing_is_refused(log: TruncatableLog) -> None:
    with pytest.raises(ValueError, match="nothing to append"):
        await log.append([], after=Lsn(0), rows={"k": b"v"})
    assert dict((await log.catalog()).rows) == {}


# 3. The condition


@pytest.mark.parametrize("after", [0, 1, 3, 99])
async def test_an_append_that_names_another_end_changes_nothing(log: TruncatableLog, after: int) -> None:
    await log.append([entry(), entry()], after=Lsn(0), rows={"k": b"old"})
    with pytest.raises(LogConflict, match="newest=2"):
        await log.append([entry(), entry()], after=Lsn(after), rows={"k": b"new"})
    assert await lsns(log) == [1, 2]
    assert (await log.catalog()).rows == {"k": b"old"}
    assert log.barrier() == 2


async def test_an_append_notices_entries_of_another_handle(logs: Logs) -> None:
    one, two = await logs.open(), await logs.open()
    await fill(one, 1)
    with pytest.raises(LogConflict):
        await two.append([entry()], after=Lsn(0))
    assert await two.append([entry()], after=Lsn(1)) == 2
    assert await lsns(one) == [1, 2]


async def test_of_many_appends_after_one_lsn_exactly_one_wins(logs: Logs) -> None:
    handles = [await logs.open() for _ in range(3)]
    won: list[int] = []

    async def attempt(log: TruncatableLog, name: str) -> None:
        try:
            won.append(await log.append([entry(name)], after=Lsn(0)))
        except LogConflict:
            return

    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(attempt, handles[number % 3], str(number))
    assert won == [1]
    assert await lsns(handles[0]) == [1]


# 4. Cancellation


async def append_three(log: TruncatableLog, name: str, done: list[str]) -> None:
    async with log.exclusive():
        await log.append([entry(f"{name}.{i}") for i in range(3)], after=log.barrier(), rows={"last": name.encode()})
    done.append(name)


async def cancel_scope_after(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    with anyio.move_on_after(seconds):
        await work


async def cancel_task_after(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.wait((task,))


async def cancel_task_again_and_again_after(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)
    await asyncio.sleep(seconds)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)


@pytest.mark.parametrize("cancel_after", [cancel_scope_after, cancel_task_after, cancel_task_again_and_again_after])
async def test_a_cancelled_append_leaves_all_or_nothing_and_a_usable_log(
    logs: Logs, cancel_after: Callable[[float, Coroutine[Any, Any, None]], Awaitable[None]]
) -> None:
    one, two = await logs.open(), await logs.open()
    dice = random.Random(cancel_after.__name__)
    done: list[str] = []
    for number in range(200):
        beside = asyncio.create_task(append_three(dice.choice((one, two)), f"beside {number}", done))
        cancelled = append_three(dice.choice((one, two)), f"cancelled {number}", done)
        await cancel_after(dice.choice((0, 0.0002, 0.001, 0.003)) * dice.random(), cancelled)
        await beside
    found = await all_of(one)
    groups = {
        name: [i for other, i in map(name_and_number, found) if other == name] for name, _ in map(name_and_number, found)
    }
    assert [e.lsn for e in found] == list(range(1, len(found) + 1))
    assert all(numbers == ["0", "1", "2"] for numbers in groups.values())
    assert set(done) <= set(groups)
    assert 200 <= len(done) < 400
    assert one.barrier() == two.barrier() == len(found)
    assert (await two.catalog()).rows == {"last": list(groups)[-1].encode()}
    assert await one.append([entry()], after=Lsn(len(found))) == len(found) + 1


def name_and_number(found: Entry) -> tuple[str, str]:
    name, _, number = (found.payload or b"").decode().partition(".")
    return name, number


async def test_a_cancelled_waiter_does_not_keep_the_log(logs: Logs) -> None:
    holder, waiter, third = await logs.open(), await logs.open(), await logs.open()

    async def append(log: TruncatableLog, start: anyio.Event) -> None:
        await start.wait()
        await fill(log, 1)

    for _ in range(50):
        start = anyio.Event()
        tasks = [asyncio.create_task(append(log, start)) for log in (waiter, waiter, holder)]
        async with holder.exclusive():
            start.set()
            await asyncio.sleep(0.001)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks)
        with anyio.fail_after(5):
            await fill(third, 1)
    assert await lsns(third) == list(range(1, 51))


# 5. Operation ids


async def test_a_retry_appends_nothing_and_returns_the_first_lsn(logs: Logs) -> None:
    log = await logs.open()
    await fill(log, 1)
    batch = [entry("a", operation="one"), entry("b", operation="two")]
    assert await log.append(batch, after=Lsn(1), rows={"k": b"1"}) == 2
    assert await log.append([entry()], after=Lsn(3), rows={"k": b"2"}) == 4
    other = await logs.open()
    for after in (1, 4, 99):
        assert await log.append(batch, after=Lsn(after), rows={"k": b"3"}) == 2
        assert await other.append(batch[1:], after=Lsn(after)) == 3
    assert await lsns(log) == [1, 2, 3, 4]
    assert (await log.catalog()).rows == {"k": b"2"}


async def test_a_retry_is_recognised_after_its_entries_were_truncated_and_after_a_restart(logs: Logs) -> None:
    log = await logs.open()
    await log.append([entry(operation="one")], after=Lsn(0))
    await log.truncate_collection(A, through=Lsn(1))
    await log.close()
    again = await logs.open()
    assert await again.oldest() == 2
    assert await again.append([entry(operation="one")], after=Lsn(0)) == 1
    assert again.barrier() == 1


async def test_an_append_of_old_and_new_operations_is_refused_rather_than_guessed(log: TruncatableLog) -> None:
    await log.append([entry(operation="old")], after=Lsn(0))
    for new in (entry(operation="new"), entry()):
        with pytest.raises(ValueError, match="one by one"):
            await log.append([entry(operation="old"), new], after=Lsn(1))
        with pytest.raises(LogConflict):
            await log.append([entry(operation="old"), new], after=Lsn(0))
    assert await lsns(log) == [1]
    assert await log.append([entry(operation="new")], after=Lsn(1)) == 2


async def test_one_operation_id_on_two_entries_is_refused(log: TruncatableLog) -> None:
    with pytest.raises(ValueError, match="two entries"):
        await log.append([entry(operation="same"), entry(operation="same")], after=Lsn(0))
    assert await lsns(log) == []


# 6. Reading


async def test_read_begins_after_and_ends_through(log: TruncatableLog) -> None:
    await fill(log, 10)
    assert await lsns(log, after=3, through=6) == [4, 5, 6]
    assert await lsns(log, after=8) == [9, 10]
    assert await lsns(log, after=8, through=99) == [9, 10]
    assert await lsns(log, after=10) == []
    assert await lsns(log, after=4, through=4) == []
    assert await lsns(log, after=4, through=2) == []


async def test_read_pages_through_a_log_of_any_length(log: TruncatableLog) -> None:
    for after in range(0, 3000, 500):
        await log.append([entry(str(after + i + 1)) for i in range(500)], after=Lsn(after))
    await log.append([entry("y" * 3_000_000) for _ in range(7)], after=Lsn(3000))
    found = await all_of(log)
    assert [e.lsn for e in found] == list(range(1, 3008))
    assert [e.payload for e in found[:3000]] == [str(i).encode() for i in range(1, 3001)]
    assert {e.payload for e in found[3000:]} == {b"y" * 3_000_000}


async def test_read_ends_with_what_was_newest_when_it_began(logs: Logs) -> None:
    log, other = await logs.open(), await logs.open()
    await fill(log, 2)
    seen: list[int] = []
    async for found in log.read(after=Lsn(0)):
        seen.append(found.lsn)
        await fill(other, 1)
    assert seen == [1, 2]
    assert await lsns(log, after=2) == [3, 4]


async def test_a_damaged_entry_is_never_read(logs: Logs) -> None:
    log = await logs.open()
    await fill(log, 5)
    logs.medium.flip_bit(3)
    assert await lsns_before(LogCorrupt, "lsn=3", log) == [1, 2]
    assert await lsns(log, after=3) == [4, 5]


async def test_a_damaged_large_entry_is_never_read(logs: Logs) -> None:
    log = await logs.open()
    await log.append([entry("y" * 1_000_000), entry("z" * 1_000_000)], after=Lsn(0))
    logs.medium.flip_bit(2)
    with pytest.raises(LogCorrupt, match="lsn=2"):
        await all_of(log)


@pytest.mark.parametrize("missing", [[3], [3, 4], [5], [4, 5]])
async def test_a_missing_entry_stops_the_reader(logs: Logs, missing: list[int]) -> None:
    log = await logs.open()
    await fill(log, 5)
    for lsn in missing:
        logs.medium.drop_entry(lsn)
    before = list(range(1, missing[0]))
    assert await lsns_before(LogHole, f"after={before[-1]}", log) == before


async def test_reading_from_beyond_the_end_says_that_this_is_another_log(log: TruncatableLog) -> None:
    await fill(log, 2)
    with pytest.raises(LogReset, match="newest=2"):
        await lsns(log, after=3)


# 7 and 10. Truncation


async def test_truncation_frees_payloads_and_keeps_lsns_dense(log: TruncatableLog) -> None:
    await fill(log, 1, B)
    await fill(log, 2, A)
    await fill(log, 1, B)
    await fill(log, 1, A)
    await log.truncate_collection(A, through=Lsn(3))
    found = await all_of(log)
    assert [(e.lsn, e.collection, e.payload) for e in found] == [
        (1, B, b"1"),
        (2, A, None),
        (3, A, None),
        (4, B, b"4"),
        (5, A, b"5"),
    ]
    assert await log.oldest() == 1


async def test_what_is_empty_at_the_old_end_is_forgotten(log: TruncatableLog) -> None:
    await fill(log, 2, A)
    await fill(log, 2, None)
    await fill(log, 1, B)
    await fill(log, 2, A)
    await log.truncate_collection(A, through=Lsn(7))
    assert await log.oldest() == 5
    assert [e.payload for e in await all_of(log, after=4)] == [b"5", None, None]
    await log.truncate_collection(B, through=Lsn(7))
    assert await log.oldest() == 8
    assert await lsns(log, after=7) == []


async def test_truncation_forgets_nothing_above_keep_after(log: TruncatableLog) -> None:
    await fill(log, 3, A)
    await fill(log, 3, None)
    await log.truncate_collection(A, through=Lsn(3), keep_after=Lsn(0))
    assert await log.oldest() == 1
    assert [e.payload for e in await all_of(log)] == [None, None, None, b"4", b"5", b"6"]
    await log.truncate_collection(A, through=Lsn(3), keep_after=Lsn(2))
    assert await lsns(log, after=2) == [3, 4, 5, 6]
    await log.truncate_collection(A, through=Lsn(3), keep_after=Lsn(5))
    assert await log.oldest() == 6
    await log.truncate_collection(A, through=Lsn(3))
    assert await log.oldest() == 7


async def test_nothing_is_truncated_while_the_log_is_pinned(logs: Logs) -> None:
    log, other = await logs.open(), await logs.open()
    await fill(log, 2, A)
    async with other.pinned():
        async with log.pinned():
            assert not await log.truncate_collection(A, through=Lsn(2))
        assert not await log.truncate_collection(A, through=Lsn(2))
        assert not await other.truncate_collection(A, through=Lsn(2))
        await fill(log, 1, A)
        assert [e.payload for e in await all_of(log)] == [b"1", b"2", b"3"]
    assert await log.truncate_collection(A, through=Lsn(2))
    assert await lsns(log, after=2) == [3]
    assert await log.oldest() == 3


async def test_reading_what_was_truncated_says_so(logs: Logs) -> None:
    log, other = await logs.open(), await logs.open()
    await fill(log, 3, A)
    await fill(log, 1, B)
    await log.truncate_collection(A, through=Lsn(3))
    for after in (0, 2):
        with pytest.raises(LogTruncated, match="oldest=4"):
            await lsns(other, after=after)
    assert await lsns(other, after=3) == [4]


async def test_a_reader_that_is_overtaken_by_truncation_is_told(logs: Logs) -> None:
    log, other = await logs.open(), await logs.open()
    for after in range(4):
        await log.append([entry("y" * 5_000_000)], after=Lsn(after))
    truncate = partial(other.truncate_collection, A, through=Lsn(4))
    assert await lsns_before(LogTruncated, "oldest=5", log, truncate) in ([1], [1, 2])


async def test_what_was_noted_as_applied_is_known_for_ever(log: TruncatableLog) -> None:
    """Also when the freed entries are forgotten: whoever has applied less than that has lost something."""
    await log.append([entry(), entry(collection=B), entry()], after=Lsn(0))
    await log.truncate_collection(A, through=Lsn(3))
    await log.truncate_collection(A, through=Lsn(1))
    assert await log.noted_applied() == {A: 3}


async def test_truncation_of_many_entries_is_complete(log: TruncatableLog) -> None:
    for after in range(0, 3000, 500):
        await log.append([entry(str(i), A if i % 2 else B) for i in range(500)], after=Lsn(after))
    await log.truncate_collection(A, through=Lsn(2000))
    found = await all_of(log, after=int(await log.oldest()) - 1)
    assert sum(e.payload is None for e in found) in (999, 1000)
    assert all(e.payload is not None for e in found if e.collection == B or e.lsn > 2000)
    await log.truncate_collection(B, through=Lsn(3000))
    await log.truncate_collection(A, through=Lsn(3000))
    assert await log.oldest() == 3001


async def test_writers_and_a_reader_go_on_beside_truncation(logs: Logs) -> None:
    log, other = await logs.open(), await logs.open()
    await fill(log, 200, A)

    async def write() -> None:
        for _ in range(100):
            async with log.exclusive():
                await fill(log, 1, B)

    async def truncate() -> None:
        for through in range(0, 200, 10):
            await other.truncate_collection(A, through=Lsn(through), keep_after=Lsn(0))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        tasks.start_soon(truncate)
        for _ in range(20):
            found = await lsns(log)
            assert found == list(range(1, len(found) + 1))
    assert [e.lsn for e in await all_of(log) if e.payload is None] == list(range(1, 191))


# 8. The barrier


async def test_the_barrier_covers_what_any_handle_was_told(logs: Logs) -> None:
    one, two = await logs.open(), await logs.open()
    assert one.barrier() == two.barrier() == 0
    for after in range(20):
        await (one, two)[after % 2].append([entry()], after=Lsn(after))
        assert one.barrier() == two.barrier() == after + 1
    await one.truncate_collection(A, through=Lsn(20))
    assert two.barrier() == 20
    assert (await logs.open()).barrier() == 20


# 9. Exclusion


async def test_nobody_appends_while_another_holds_the_log(logs: Logs) -> None:
    holder, other = await logs.open(), await logs.open()
    start = anyio.Event()
    appended: list[str] = []

    async def append(log: TruncatableLog, name: str) -> None:
        await start.wait()
        async with log.exclusive():
            await fill(log, 1)
            appended.append(name)

    async with anyio.create_task_group() as tasks:
        for name, log in (("same", holder), ("other", other), ("other too", other)):
            tasks.start_soon(append, log, name)
        await anyio.sleep(0)
        async with holder.exclusive():
            start.set()
            await fill(holder, 1)
            await others_have_their_chance(other)
            assert appended == []
            await holder.append([entry("held")], after=Lsn(1))
    assert sorted(appended) == ["other", "other too", "same"]
    assert [e.payload for e in await all_of(other)] == [b"1", b"held", b"3", b"4", b"5"]


async def test_an_append_alone_waits_for_the_holder(logs: Logs) -> None:
    holder, other = await logs.open(), await logs.open()
    async with anyio.create_task_group() as tasks, holder.exclusive():
        tasks.start_soon(partial(other.append, [entry()], after=Lsn(1)))
        await others_have_their_chance(holder)
        await holder.append([entry()], after=Lsn(0))
    assert await lsns(holder) == [1, 2]


async def test_waiters_are_served_one_after_another(logs: Logs) -> None:
    handles = [await logs.open() for _ in range(3)]
    inside = 0
    served: list[int] = []

    async def work(number: int) -> None:
        nonlocal inside
        for _ in range(10):
            async with handles[number % 3].exclusive():
                inside += 1
                await anyio.sleep(0.0005)
                assert inside == 1
                inside -= 1
                served.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(work, number)
    assert sorted(served) == sorted(list(range(6)) * 10)
    # Nobody is through before everybody was served a few times.
    firsts = [served.index(number) for number in range(6)]
    lasts = [59 - served[::-1].index(number) for number in range(6)]
    assert max(firsts) < min(lasts)


async def test_the_holder_may_nest_and_may_let_its_tasks_append(log: TruncatableLog) -> None:
    with anyio.fail_after(5):
        async with log.exclusive(), log.exclusive():
            await asyncio.wait_for(log.append([entry("waited for")], after=Lsn(0)), 5)
            await log.truncate_collection(A, through=Lsn(1))
        await fill(log, 1)
    assert await lsns(log, after=1) == [2]


async def test_a_task_that_outlives_the_hold_it_was_started_in_takes_turns_like_others(logs: Logs) -> None:
    log, other = await logs.open(), await logs.open()
    late = anyio.Event()

    async def append() -> None:
        await late.wait()
        await log.append([entry()], after=Lsn(1))

    async with anyio.create_task_group() as tasks:
        async with log.exclusive():
            tasks.start_soon(append)
        async with other.exclusive():
            late.set()
            await others_have_their_chance(other)
            await other.append([entry()], after=Lsn(0))
    assert await lsns(log) == [1, 2]


async def test_an_error_inside_gives_the_log_back(logs: Logs) -> None:
    one, two = await logs.open(), await logs.open()
    with pytest.raises(ZeroDivisionError):
        async with one.exclusive():
            raise ZeroDivisionError
    with anyio.fail_after(5):
        await fill(two, 1)
        await fill(one, 1)


# 11. Catalog


async def test_catalog_rows_are_put_replaced_and_deleted_with_the_append(logs: Logs) -> None:
    one, two = await logs.open(), await logs.open()
    assert await one.catalog() == CatalogRows(Lsn(0), {})
    await one.append([entry()], after=Lsn(0), rows={"a": b"1", "b": b"", "\u00e9": b"\x00"})
    assert await two.catalog() == CatalogRows(Lsn(1), {"a": b"1", "b": b"", "\u00e9": b"\x00"})
    await two.append([entry(), entry()], after=Lsn(1), rows={"a": b"2", "b": None, "absent": None})
    assert await one.catalog() == CatalogRows(Lsn(3), {"a": b"2", "\u00e9": b"\x00"})
    await one.truncate_collection(A, through=Lsn(3))
    assert await two.catalog() == CatalogRows(Lsn(3), {"a": b"2", "\u00e9": b"\x00"})


async def test_the_catalog_and_its_lsn_are_of_one_instant(logs: Logs) -> None:
    log, other = await logs.open(), await logs.open()

    async def write() -> None:
        for after in range(100):
            await log.append([entry()], after=Lsn(after), rows={"lsn": str(after + 1).encode()})

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        lsn = 0
        while lsn < 100:
            catalog = await other.catalog()
            lsn = catalog.lsn
            assert catalog.rows == ({"lsn": str(lsn).encode()} if lsn else {})
            assert other.barrier() >= lsn
            await anyio.sleep(0)


# 12. Identity


async def test_identity_is_kept_and_tells_logs_apart(logs: Logs, tmp_path: Path) -> None:
    log = await logs.open()
    identity = log.identity
    await log.close()
    assert (await logs.open()).identity == identity
    for another in (MemoryLog(), await SqliteLog.open(tmp_path / "another")):
        assert another.identity != identity
        await another.close()


# 16. Closing


async def test_after_close_every_call_raises(log: TruncatableLog) -> None:
    await fill(log, 1)
    await log.close()
    await log.close()
    with pytest.raises(RuntimeError, match="closed"):
        await log.append([entry()], after=Lsn(1))
    with pytest.raises(RuntimeError, match="closed"):
        await all_of(log)
    with pytest.raises(RuntimeError, match="closed"):
        log.barrier()
    with pytest.raises(RuntimeError, match="closed"):
        async with log.exclusive():
            raise AssertionError
    with pytest.raises(RuntimeError, match="closed"):
        await log.catalog()
    with pytest.raises(RuntimeError, match="closed"):
        await log.truncate_collection(A, through=Lsn(1))
    with pytest.raises(RuntimeError, match="closed"):
        await log.oldest()
    with pytest.raises(RuntimeError, match="closed"):
        await log.size_bytes()


async def test_close_lets_a_running_append_finish_and_turns_away_those_that_wait(logs: Logs) -> None:
    log = await logs.open()
    appends = [asyncio.create_task(log.append([entry("y" * 2_000_000)], after=Lsn(after))) for after in range(4)]
    for _ in range(6):
        await asyncio.sleep(0)
    await log.close()
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    acknowledged = [lsn for lsn in outcomes if isinstance(lsn, int)]
    refused = [str(error) for error in outcomes if isinstance(error, RuntimeError)]
    assert 1 in acknowledged
    assert len(acknowledged) + len(refused) == 4
    assert all("closed" in message for message in refused)
    again = await logs.open()
    assert await lsns(again) == acknowledged
    await fill(again, 1)


async def test_an_operation_is_found_by_the_beginning_of_its_id_within_the_window(log: TruncatableLog) -> None:
    assert await log.operations(["a/", "b/"]) == {}
    await log.append([entry(operation="a/1"), entry(operation="b/2"), entry()], after=Lsn(0))
    assert await log.operations(["a/"]) == {"a/": ("a/1", Lsn(1))}
    assert await log.operations(["c", "b/2", "a/2", "/", "a/"]) == {"b/2": ("b/2", Lsn(2)), "a/": ("a/1", Lsn(1))}
    await log.truncate_collection(A, through=Lsn(2))
    assert await log.operations(["a/"]) == {"a/": ("a/1", Lsn(1))}


async def test_of_several_operations_with_one_beginning_the_greatest_is_found(log: TruncatableLog) -> None:
    names = ["a/2", "a/1", "a/10", "a/\U0001f600", "a/\uffff", "a/", "a", "b/9", "a0"]
    await log.append([entry(operation=name) for name in names], after=Lsn(0))
    assert await log.operations(["a/", "a/1", "a", "b"]) == {
        "a/": ("a/\U0001f600", Lsn(4)),
        "a/1": ("a/10", Lsn(3)),
        "a": ("a0", Lsn(9)),
        "b": ("b/9", Lsn(8)),
    }
    await log.append([entry(operation="a/3")], after=Lsn(9))
    assert await log.operations(["a/3", "a/4"]) == {"a/3": ("a/3", Lsn(10))}


# 10 and 15. What is kept beyond what waits, and its history


async def fill_both(log: TruncatableLog) -> None:
    """1 and 3 of A, 2 and 4 of B, and 5 of the catalog."""
    for collection in (A, B, A, B, None):
        await fill(log, 1, collection)


async def test_what_is_said_to_be_applied_stays_until_the_log_is_truncated(log: TruncatableLog) -> None:
    await fill_both(log)
    assert await log.note_applied(A, through=Lsn(3))
    assert [e.payload for e in await all_of(log)] == [b"1", b"2", b"3", b"4", b"5"]
    assert await log.noted_applied() == {A: 3}
    assert await log.freed_through() == {}
    assert await log.truncate(through=Lsn(2))
    assert [e.payload for e in await all_of(log, after=1)] == [b"2", b"3", b"4", b"5"]
    assert await log.freed_through() == {A: 1}


async def test_truncation_frees_nothing_that_waits(log: TruncatableLog) -> None:
    await fill_both(log)
    await log.note_applied(A, through=Lsn(1))
    assert await log.truncate(through=Lsn(5))
    assert [e.payload for e in await all_of(log, after=1)] == [b"2", b"3", b"4", b"5"]
    await log.note_applied(A, through=Lsn(5))
    await log.note_applied(B, through=Lsn(5))
    assert await log.truncate(through=Lsn(4))
    assert await lsns(log, after=4) == [5]


async def test_the_first_entry_that_waits_is_found_behind_those_that_are_kept(log: TruncatableLog) -> None:
    assert await log.first_unapplied() == 1
    await fill_both(log)
    assert await log.first_unapplied() == 1
    await log.note_applied(A, through=Lsn(3))
    assert await log.first_unapplied() == 2
    await log.note_applied(B, through=Lsn(4))
    assert await log.first_unapplied() == 6
    await fill(log, 1, A)
    assert await log.first_unapplied() == 6


async def test_collections_that_hold_something_are_known(log: TruncatableLog) -> None:
    await fill_both(log)
    assert await log.holding() == {A, B}
    await log.truncate_collection(A, through=Lsn(5), keep_after=Lsn(0))
    assert await log.holding() == {B}


async def test_a_history_is_read_in_pages_and_says_through_where(log: TruncatableLog) -> None:
    await fill_both(log)
    page = await log.history(A, after=Lsn(0), bytes_max=100)
    assert ([e.lsn for e in page.entries], page.through) == ([1, 3], 3)
    page = await log.history(A, after=Lsn(3), bytes_max=100)
    assert ([e.lsn for e in page.entries], page.through) == ([], 5)
    page = await log.history(A, after=Lsn(0), bytes_max=1)
    assert ([e.lsn for e in page.entries], page.through) == ([1], 1)
    page = await log.history(None, after=Lsn(1), bytes_max=3)
    assert ([e.lsn for e in page.entries], page.through) == ([2, 3, 4], 4)


async def test_a_page_of_history_has_one_entry_however_large(log: TruncatableLog) -> None:
    await log.append([entry("x" * 300_000), entry("y" * 300_000), entry("z")], after=Lsn(0))
    for collection in (A, None):
        page = await log.history(collection, after=Lsn(0), bytes_max=10)
        assert [e.lsn for e in page.entries] == [1]
        page = await log.history(collection, after=Lsn(1), bytes_max=10)
        assert [e.lsn for e in page.entries] == [2]


async def test_a_page_of_history_is_over_before_an_entry_that_is_too_much_for_it(log: TruncatableLog) -> None:
    await log.append([entry("s"), entry("x" * 300_000), entry("y"), entry("z")], after=Lsn(0))
    for collection in (A, None):
        pages = [await log.history(collection, after=Lsn(after), bytes_max=10) for after in (0, 1, 2)]
        assert [[e.lsn for e in page.entries] for page in pages] == [[1], [2], [3, 4]]
        assert [page.through for page in pages] == [1, 2, 4]


async def test_a_long_history_of_small_entries_is_whole(log: TruncatableLog) -> None:
    await log.append([entry(str(i), A if i % 3 else B) for i in range(3000)], after=Lsn(0))
    seen: list[int] = []
    after = Lsn(0)
    while (page := await log.history(A, after=after, bytes_max=2**20)).entries:
        seen += [e.lsn for e in page.entries]
        after = page.through
    assert seen == [lsn for lsn in range(1, 3001) if (lsn - 1) % 3]


async def test_a_history_never_skips_what_was_freed(logs: Logs) -> None:
    log, other = await logs.open(), await logs.open()
    await fill_both(log)
    await log.note_applied(A, through=Lsn(3))
    await log.truncate(through=Lsn(1))
    with pytest.raises(LogTruncated, match="oldest=1"):
        await other.history(A, after=Lsn(0), bytes_max=100)
    assert [e.lsn for e in (await other.history(A, after=Lsn(1), bytes_max=100)).entries] == [3]
    assert [e.lsn for e in (await other.history(B, after=Lsn(0), bytes_max=100)).entries] == [2, 4]
    with pytest.raises(LogTruncated):
        await other.history(None, after=Lsn(0), bytes_max=100)
    with pytest.raises(LogReset):
        await other.history(A, after=Lsn(6), bytes_max=100)


async def test_a_quiet_collection_has_a_history_from_its_last_entry_on_however_much_was_freed(log: TruncatableLog) -> None:
    await fill_both(log)
    await log.truncate_collection(A, through=Lsn(5), keep_after=Lsn(5))
    await log.truncate_collection(B, through=Lsn(5), keep_after=Lsn(5))
    assert await log.freed_through() == {A: 3, B: 4}
    page = await log.history(A, after=Lsn(3), bytes_max=100)
    assert (page.entries, page.through) == ([], 5)
    with pytest.raises(LogTruncated):
        await log.history(A, after=Lsn(2), bytes_max=100)


async def test_a_damaged_entry_ends_a_history_and_not_what_is_before_it(logs: Logs) -> None:
    log = await logs.open()
    await fill_both(log)
    logs.medium.flip_bit(3)
    for collection, first in ((A, [1]), (None, [1, 2])):
        assert [e.lsn for e in (await log.history(collection, after=Lsn(0), bytes_max=100)).entries] == first
        with pytest.raises(LogCorrupt):
            await log.history(collection, after=Lsn(first[-1]), bytes_max=100)


async def test_payloads_are_weighed_in_order(log: TruncatableLog) -> None:
    assert await log.weights() == []
    for first in range(0, 40_000, 10_000):
        await log.append([NewEntry(b"x" * 10, first + time, A) for time in range(10_000)], after=Lsn(first))
    weights = await log.weights()
    assert 16_000 < len(weights) < 32_800
    assert sum(weight.size_bytes for weight in weights) == 400_000
    assert [weight.through for weight in weights] == sorted(weight.through for weight in weights)
    assert weights[-1].through == 40_000
    assert all(weight.time_ns == weight.through - 1 for weight in weights)
    await log.truncate_collection(A, through=Lsn(39_999), keep_after=Lsn(0))
    assert sum(weight.size_bytes for weight in await log.weights()) == 10


async def test_nothing_is_freed_by_any_way_while_the_log_is_pinned(log: TruncatableLog) -> None:
    await fill_both(log)
    async with log.pinned():
        assert not await log.note_applied(A, through=Lsn(3))
        assert not await log.truncate(through=Lsn(5))
    assert await log.noted_applied() == {}
    assert [e.payload for e in await all_of(log)] == [b"1", b"2", b"3", b"4", b"5"]


async def test_where_a_history_begins_is_known_for_ever(logs: Logs) -> None:
    log = await logs.open()
    await fill_both(log)
    await log.truncate_collection(A, through=Lsn(3))
    await log.close()
    again = await logs.open()
    assert await again.freed_through() == {A: 3}


async def test_whose_an_entry_was_is_known_until_it_is_forgotten(logs: Logs) -> None:
    log = await logs.open()
    await log.append([entry("a", B), entry("b", A), entry("c", None)], after=Lsn(0))
    await log.go_on_after(Lsn(4))
    await log.truncate_collection(A, through=Lsn(3))
    asked = [Lsn(number) for number in range(7)]
    assert await log.owners(asked) == {1: B, 2: A, 3: None, 4: None}
    await log.truncate_collection(B, through=Lsn(1))
    assert 1 not in await log.owners(asked)


# 17. A lost end


async def test_a_log_goes_on_after_an_lsn_that_it_has_lost(logs: Logs) -> None:
    log, other = await logs.open(), await logs.open()
    await log.append([entry("a", A), entry("b", A)], after=Lsn(0))
    assert await log.first_lost() is None
    await log.go_on_after(Lsn(5))
    assert await log.first_lost() == 3
    assert other.barrier() == 5
    assert await other.append([entry("c", A)], after=Lsn(5)) == 6
    found = [item async for item in log.read(after=Lsn(0))]
    assert [(item.lsn, item.payload is None) for item in found] == [
        (1, False),
        (2, False),
        (3, True),
        (4, True),
        (5, True),
        (6, False),
    ]
    assert {item.collection for item in found[2:5]} == {None}


async def test_a_log_that_has_come_so_far_is_left_as_it_is(log: TruncatableLog) -> None:
    await fill(log, 3)
    before = await all_of(log)
    await log.go_on_after(Lsn(3))
    await log.go_on_after(Lsn(0))
    assert await all_of(log) == before


async def test_a_number_out_of_all_proportion_is_no_lost_end(log: TruncatableLog) -> None:
    await fill(log, 2)
    with pytest.raises(StorageCorrupt, match=r"restore a backup\. newest=2 applied=9000000000"):
        await log.go_on_after(Lsn(9_000_000_000))
    assert log.barrier() == 2
    assert await log.append([entry()], after=Lsn(2)) == 3
