"""How much of the log is kept for feeds: the window, how people write it, and what ends it before its time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.engines import TINY, Records, compactor_at, create_collection, delete_collection, engine_at, settle

from chroma_async.cli.retention import parse_retention
from chroma_async.core.retention import LAG_BYTES_MAX, Ledger, Retention
from chroma_async.engine import compactor as compacting
from chroma_async.engine.engine import Engine
from chroma_async.engine.follower import Follower
from chroma_async.engine.purge import purge
from chroma_async.errors import UnavailableError
from chroma_async.model import CollectionId, Lsn
from chroma_async.protocol import PurgeCollection
from chroma_async.settings import EngineSettings
from chroma_async.wal import SqliteLog

SECOND = 10**9
KEEPING = replace(TINY, log_retention_bytes=2**20)


def ledger_of(bytes_max: int | None, seconds: float | None, *entries: tuple[int, float, int]) -> Ledger:
    """Entries are LSN, seconds, bytes."""
    ledger = Ledger(Retention(bytes_max, seconds))
    for lsn, at, size in entries:
        ledger.add(Lsn(lsn), int(at * SECOND), size)
    return ledger


def test_the_newest_bytes_are_kept() -> None:
    ledger = ledger_of(100, None, (1, 0, 60), (2, 0, 50), (3, 0, 50))
    assert ledger.look(1000 * SECOND) == 1


def test_what_is_young_is_kept_whatever_it_weighs() -> None:
    ledger = ledger_of(100, None, (1, 0, 600), (2, 0, 500))
    assert ledger.look(1 * SECOND) == 0
    assert ledger.look(3 * SECOND) == 2


def test_what_is_young_is_not_kept_beyond_all_measure() -> None:
    ledger = ledger_of(100, None, (1, 0, LAG_BYTES_MAX), (2, 0, 500))
    assert ledger.look(1 * SECOND) == 1


def test_what_is_old_is_not_kept() -> None:
    ledger = ledger_of(None, 60, (1, 0, 10), (2, 50, 10), (3, 100, 10))
    assert ledger.look(100 * SECOND) == 1
    assert ledger.look(300 * SECOND) == 3


def test_nothing_is_kept_where_retention_is_off() -> None:
    assert ledger_of(0, None, (1, 0, 10), (2, 0, 10)).look(0) == 2
    assert ledger_of(None, 0, (1, 0, 10), (2, 0, 10)).look(0) == 2


def test_everything_is_kept_without_limits() -> None:
    assert ledger_of(None, None, (1, 0, 10), (2, 0, 10)).look(10**12 * SECOND) == 0


def test_a_ledger_does_not_grow_with_the_log() -> None:
    ledger = ledger_of(2**20, None, *((lsn, lsn * 0.001, 100) for lsn in range(1, 100_000)))
    ledger.look(100 * SECOND)
    assert len(ledger._buckets) < 200


def test_entries_that_are_known_are_not_counted_twice() -> None:
    ledger = ledger_of(100, None, (5, 0, 90), (3, 0, 90), (5, 0, 90))
    assert ledger.look(1000 * SECOND) == 0


def test_a_clock_that_goes_back_frees_nothing_too_early() -> None:
    ledger = ledger_of(None, 60, (1, 1000, 10), (2, 10, 10))
    assert ledger.look(20 * SECOND) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("off", (0, None)),
        ("7d", (None, 604_800.0)),
        ("1GB", (10**9, None)),
        ("1.5 GiB", (3 * 2**29, None)),
        ("12h, 500MB", (500 * 10**6, 43_200.0)),
        ("500mb,30m", (500 * 10**6, 1_800.0)),
    ],
)
def test_a_retention_is_read_as_people_write_it(text: str, expected: tuple[int | None, float | None]) -> None:
    assert parse_retention(text) == expected


@pytest.mark.parametrize("text", ["", "7", "7x", "7d,8d", "1GB,2GB", "-1GB", "1GB;7d"])
def test_what_is_no_retention_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(ValueError, match="give a time"):
        parse_retention(text)


# ---- in a directory


async def kept(engine: Engine) -> int:
    return sum(weight.size_bytes for weight in await engine.log.weights())


async def some_records(engine: Engine, name: str = "things") -> Records:
    collection = await create_collection(engine, name)
    records = Records(engine, collection.id)
    for number in range(20):
        await records.upsert([f"{number}"], [[float(number), 1.0]], documents=[f"secret-{name}-{number}"])
    return records


@pytest.mark.anyio
async def test_applied_entries_stay_and_are_not_read_again_by_who_starts(tmp_path: Path) -> None:
    async with engine_at(tmp_path, KEEPING) as engine, compactor_at(tmp_path, KEEPING) as compactor:
        records = await some_records(engine)
        await settle(compactor)
        assert len((await engine.log.history(records.id, after=Lsn(0), bytes_max=2**20)).entries) == 20
        async with engine_at(tmp_path, KEEPING) as other:
            assert other.follower.sinks() == {}
            assert await Records(other, records.id).count() == 20


@pytest.mark.anyio
async def test_what_is_kept_too_long_is_freed_and_its_place_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chroma_async.core.retention.LAG_SECONDS", 0.0)
    settings = replace(KEEPING, log_retention_bytes=500)
    async with engine_at(tmp_path, settings) as engine, compactor_at(tmp_path, settings) as compactor:
        records = await some_records(engine)
        await settle(compactor)
        await settle(compactor)
        assert 0 < await kept(engine) <= 500
        assert (await engine.log.freed_through())[CollectionId(records.id)] == await engine.log.oldest() - 1


@pytest.mark.anyio
async def test_a_successor_goes_on_with_the_same_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine_at(tmp_path, KEEPING) as engine:
        async with compactor_at(tmp_path, KEEPING) as compactor:
            await some_records(engine)
            await settle(compactor)
        before = await kept(engine)
        monkeypatch.setattr("chroma_async.core.retention.LAG_SECONDS", 0.0)
        smaller = replace(KEEPING, log_retention_bytes=before // 2)
        async with compactor_at(tmp_path, smaller) as compactor:
            await settle(compactor)
            assert 0 < await kept(engine) <= before // 2


@pytest.mark.anyio
async def test_a_deleted_collection_leaves_the_log_at_once(tmp_path: Path) -> None:
    async with engine_at(tmp_path, KEEPING) as engine, compactor_at(tmp_path, KEEPING) as compactor:
        await some_records(engine)
        await settle(compactor)
        await delete_collection(engine)
        await settle(compactor)
        assert await engine.log.holding() == frozenset()


@pytest.mark.anyio
async def test_a_collection_that_was_deleted_while_nobody_compacted_leaves_the_log_too(tmp_path: Path) -> None:
    async with engine_at(tmp_path, KEEPING) as engine:
        async with compactor_at(tmp_path, KEEPING) as compactor:
            await some_records(engine)
            await settle(compactor)
        await delete_collection(engine)
        async with compactor_at(tmp_path, KEEPING) as compactor:
            await settle(compactor)
            assert await engine.log.holding() == frozenset()


@pytest.mark.anyio
async def test_a_disk_without_room_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine_at(tmp_path, KEEPING) as engine, compactor_at(tmp_path, KEEPING) as compactor:
        await some_records(engine)
        await settle(compactor)
        assert await kept(engine)
        monkeypatch.setattr(compacting, "free_bytes", lambda path: 2 * KEEPING.disk_reserve_bytes - 1)
        await settle(compactor)
        assert await kept(engine) == 0


@pytest.mark.anyio
async def test_a_pinned_log_keeps_everything_until_it_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chroma_async.core.retention.LAG_SECONDS", 0.0)
    settings = replace(KEEPING, log_retention_bytes=1)
    async with engine_at(tmp_path, settings) as engine, compactor_at(tmp_path, settings) as compactor:
        async with engine.log.pinned():
            await some_records(engine)
            for _ in range(5):
                await compactor.step()
            before = await kept(engine)
        assert before > 1000
        await settle(compactor)
        assert await kept(engine) == 0


@pytest.mark.anyio
@pytest.mark.parametrize("beside", [True, False])
async def test_a_purge_leaves_nothing_of_what_was_kept(tmp_path: Path, beside: bool) -> None:
    async with engine_at(tmp_path, KEEPING) as engine, compactor_at(tmp_path, KEEPING) as compactor:
        purged, other = await some_records(engine, "purged"), await some_records(engine, "other")
        await purged.delete(["3"])
        await settle(compactor)
        if beside:
            task = asyncio.create_task(engine.dispatch(PurgeCollection(**purged._address, wait_seconds=20)))
            while not task.done():
                await compactor.step()
                await asyncio.sleep(0.01)
            assert (await task).done
    if not beside:
        await purge(tmp_path, ["purged"], settings=KEEPING)
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"secret-purged-3" not in content
    assert b"secret-other-3" in content
    async with engine_at(tmp_path, KEEPING) as engine:
        assert await engine.log.holding() == {other.id}


@pytest.mark.anyio
async def test_a_collection_that_is_made_while_a_compactor_begins_is_not_taken_for_a_deleted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine_at(tmp_path, KEEPING) as engine:
        start, made = Follower.start, list[Records]()

        async def start_late(self: Follower[Any]) -> None:
            await start(self)
            if not made:
                made.append(await some_records(engine))

        monkeypatch.setattr(Follower, "start", start_late)
        async with compactor_at(tmp_path, KEEPING) as compactor:
            assert compactor._room._erased == {}
            await settle(compactor)
        assert await made[0].count() == 20


@pytest.mark.anyio
async def test_a_purge_frees_nothing_that_is_written_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine_at(tmp_path, KEEPING) as engine:
        records, late = await some_records(engine), list[Records]()
        scrub, holding = SqliteLog.scrub, SqliteLog.holding
        calls: list[int] = []

        async def holding_late(self: SqliteLog) -> frozenset[CollectionId]:
            calls.append(1)
            if len(calls) == 2:  # of the purge itself; the first is its compactor's
                late.append(await some_records(engine, "late"))
                await records.upsert(["late"], [[1.0, 2.0]])
            return await holding(self)

        async def scrub_if_possible(self: SqliteLog) -> None:
            with suppress(UnavailableError):  # this engine reads the log
                await scrub(self)

        monkeypatch.setattr(SqliteLog, "holding", holding_late)
        monkeypatch.setattr(SqliteLog, "scrub", scrub_if_possible)
        await purge(tmp_path, settings=KEEPING)
        assert late
    async with engine_at(tmp_path, KEEPING) as engine, compactor_at(tmp_path, KEEPING) as compactor:
        await settle(compactor)
        assert await Records(engine, records.id).count() == 21
        assert await Records(engine, late[0].id).count() == 20


def test_what_is_kept_by_default_is_little() -> None:
    """A directory must not take a good deal more than before: docs/decisions/0017."""
    assert EngineSettings().log_retention_bytes == 2**20
