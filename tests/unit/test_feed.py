"""The change feed of an engine: what it says of each write, where it goes on, and how it ends."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.clock import ManualClock
from tests.support.engines import (
    PATH,
    TINY,
    Records,
    compactor_at,
    contents,
    create_collection,
    delete_collection,
    engine_at,
    settle,
)
from tests.support.handles import no_handles
from tests.support.waiting import soon

from chroma_async.client.watching import Mirror
from chroma_async.core.memtable import Row
from chroma_async.engine.changes import SNAPSHOT_ROWS
from chroma_async.engine.engine import Engine
from chroma_async.engine.feed import Feed
from chroma_async.engine.feeds import LOOK_SECONDS
from chroma_async.engine.read_view import View
from chroma_async.errors import (
    GoneError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceLimitError,
    UnavailableError,
)
from chroma_async.model import Slots
from chroma_async.protocol import (
    CreateCollection,
    CreateDatabase,
    CreateTenant,
    DeleteDatabase,
    DeleteRecords,
    ModifyCollection,
    PurgeCollection,
    Reset,
    WatchCollection,
    WatchDatabase,
)
from chroma_async.protocol.changes import KINDS, Change

pytestmark = pytest.mark.anyio

KEEPING = replace(TINY, log_retention_bytes=None)
UNWATCHED = replace(KEEPING, follow_interval_seconds=600)
"""Nobody but feeds looks at the log's end."""
EVERYTHING = "documents,embeddings,metadatas,uris"


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with engine_at(tmp_path, KEEPING) as opened:
        yield opened


@pytest.fixture
async def things(engine: Engine) -> Records:
    return Records(engine, (await create_collection(engine)).id)


@asynccontextmanager
async def by_the_clock(path: Path) -> AsyncIterator[tuple[Records, ManualClock]]:
    """A collection of an engine for which time passes when a test says so."""
    clock = ManualClock()
    async with engine_at(path, UNWATCHED, clock=clock) as engine:
        yield Records(engine, (await create_collection(engine)).id), clock


def told(engine: Engine, metric: str, **labels: str) -> float | None:
    return engine.metrics.registry.get_sample_value(f"chroma_async_{metric}", labels)


async def watch(records: Records, **fields: Any) -> Feed:
    return await records.engine.dispatch(WatchCollection(**records._address, **fields))  # type: ignore[return-value]


async def watch_database(engine: Engine, **fields: Any) -> Feed:
    return await engine.dispatch(WatchDatabase(**PATH, **fields))  # type: ignore[return-value]


@asynccontextmanager
async def left_at_the_end(feed: Feed) -> AsyncIterator[Feed]:
    try:
        yield feed
    finally:
        await feed.aclose()


async def take(feed: Feed, count: int) -> list[Change]:
    """The next changes, heartbeats apart."""
    found: list[Change] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            change = await anext(feed)
            if change.kind != "heartbeat":
                found.append(change)
    return found


async def take_all(feed: Feed) -> list[Change]:
    """Changes until the feed ends by itself."""
    async with asyncio.timeout(10):
        return [change async for change in feed if change.kind != "heartbeat"]


async def until_now(feed: Feed) -> list[Change]:
    """All that there is now: until a heartbeat after the first one."""
    found: list[Change] = []
    beats = 0
    async with asyncio.timeout(10):
        while beats < 2:
            change = await anext(feed)
            if change.kind == "heartbeat":
                beats += 1
            else:
                found.append(change)
    await feed.aclose()
    return found


async def history(records: Records, **fields: Any) -> list[Change]:
    return await until_now(await watch(records, heartbeat="0.1", **fields))


def kinds(changes: list[Change]) -> list[str]:
    return [change.kind for change in changes]


def mirrored(mirror: Mirror) -> dict[str, list[Any]]:
    found = mirror.records.items()
    return {key: [tuple(r.embedding.tolist()), r.document, r.metadata, r.uri] for key, r in found}  # type: ignore[union-attr]


# ---- what it says


async def test_each_write_is_one_change_with_what_it_carried(things: Records) -> None:
    await things.add(
        ["a", "b"], [[1.0, 2.0], [3.0, 4.0]], documents=["one", None], metadatas=[{"n": 1}, None], uris=[None, "u"]
    )
    await things.update(["a"], metadatas=[{"n": None, "m": [1, 2]}])
    await things.upsert(["b"], [[5.0, 6.0]])
    await things.delete(["a", "nobody"])
    added, updated, upserted, deleted = await history(things, after="0", include=EVERYTHING)
    assert kinds([added, updated, upserted, deleted]) == ["add", "update", "upsert", "delete"]
    assert (added.ids, added.documents, added.metadatas, added.uris) == (
        ["a", "b"],
        ["one", None],
        [{"n": 1}, None],
        [None, "u"],
    )
    assert np.array_equal(np.stack(added.embeddings or []), [[1, 2], [3, 4]])  # type: ignore[arg-type]
    assert (updated.ids, updated.metadatas, updated.embeddings) == (["a"], [{"n": None, "m": [1, 2]}], None)
    assert (upserted.ids, upserted.documents) == (["b"], None)
    assert deleted.ids == ["a", "nobody"]
    lsns = [change.lsn for change in (added, updated, upserted, deleted)]
    assert lsns == list(range(lsns[0], lsns[0] + 4))
    assert [change.cursor for change in (added, updated)] == [str(lsn) for lsn in lsns[:2]]
    assert all(change.time is not None and change.time > 1.7e9 for change in (added, updated, upserted, deleted))


async def test_only_what_was_asked_for_is_included(things: Records) -> None:
    await things.add(["a"], [[1.0]], documents=["one"], metadatas=[{"n": 1}], uris=["u"])
    (bare,) = await history(things, after="0")
    assert (bare.ids, bare.documents, bare.embeddings, bare.metadatas, bare.uris) == (["a"], None, None, None, None)
    (some,) = await history(things, after="0", include="uris,documents")
    assert (some.documents, some.embeddings, some.metadatas, some.uris) == (["one"], None, None, ["u"])


async def test_a_vector_that_an_update_leaves_out_is_none(things: Records) -> None:
    await things.add(["a", "b"], [[1.0], [2.0]])
    await things.update(["a", "b"], [None, [3.0]])
    updated = (await history(things, after="0", include="embeddings"))[1]
    assert updated.embeddings is not None
    assert updated.embeddings[0] is None
    assert np.array_equal(updated.embeddings[1], [3.0])  # type: ignore[arg-type]


async def test_json_says_the_same(things: Records) -> None:
    await things.add(["a", "b"], [[1.5], [2.5]], documents=["eins\u2028zwei", None], metadatas=[{"n": 1}, None])
    (change,) = await history(things, after="0", include=EVERYTHING)
    again = Change.from_json(change.to_json())
    assert (again.kind, again.lsn, again.time, again.cursor, again.ids, again.documents, again.metadatas, again.uris) == (
        (change.kind, change.lsn, change.time, change.cursor, change.ids, change.documents, change.metadatas, change.uris)
    )
    assert np.array_equal(again.embeddings, change.embeddings)  # type: ignore[arg-type]
    assert b"\n" not in change.to_json()


async def test_kinds_can_be_chosen(things: Records) -> None:
    await things.add(["a"], [[1.0]])
    await things.update(["a"], documents=["d"])
    await things.delete(["a"])
    assert kinds(await history(things, after="0", kinds="add,delete")) == ["add", "delete"]


async def test_a_filter_looks_at_the_metadata_that_a_write_carries_and_lets_deletions_pass(things: Records) -> None:
    await things.add(["a", "b", "c"], [[1.0], [2.0], [3.0]], documents=["x", "y", "z"], metadatas=[{"n": 1}, {"n": 2}, None])
    await things.update(["a"], documents=["new"])
    await things.update(["a", "c"], metadatas=[{"m": 1}, {"n": 2}])
    await things.delete(["a"])
    found = await history(things, after="0", where='{"n": 2}', include="documents")
    assert [(change.kind, change.ids) for change in found] == [("add", ["b"]), ("update", ["c"]), ("delete", ["a"])]
    assert found[0].documents == ["y"]


async def test_a_filter_says_what_to_do_with_records_that_lack_the_field(things: Records) -> None:
    await things.add(["a", "b"], [[1.0], [2.0]], metadatas=[{"n": 1}, None])
    assert await history(things, after="0", where='{"n": {"$ne": 1}}') == []
    (found,) = await history(things, after="0", where='{"n": {"$ne": 1}}', missing="include")
    assert found.ids == ["b"]


# ---- where it goes on


async def test_a_feed_without_a_position_begins_now(things: Records) -> None:
    await things.add(["a"], [[1.0]])
    async with left_at_the_end(await watch(things)) as feed:
        first = await anext(feed)
        assert (first.kind, first.cursor) == ("heartbeat", str(things.engine.follower.position))
        await things.add(["b"], [[2.0]])
        (change,) = await take(feed, 1)
        assert change.ids == ["b"]


async def test_a_feed_goes_on_after_its_position(things: Records) -> None:
    for number in range(5):
        await things.add([f"{number}"], [[1.0]])
    changes = await history(things, after="0")
    for number, change in enumerate(changes):
        assert [item.ids for item in await history(things, after=change.cursor)] == [[f"{n}"] for n in range(number + 1, 5)]


async def test_changes_of_other_processes_come_at_the_next_look(tmp_path: Path) -> None:
    async with by_the_clock(tmp_path) as (things, clock), engine_at(tmp_path, UNWATCHED) as other:
        async with left_at_the_end(await watch(things)) as feed:
            await anext(feed)
            for number in range(10):
                waiting = asyncio.create_task(take(feed, 1))
                await clock.asleep(LOOK_SECONDS)
                await Records(other, things.id).add([f"{number}"], [[1.0]])
                await clock.advance(LOOK_SECONDS)
                assert [change.ids for change in await soon(waiting)] == [[f"{number}"]]
        assert LOOK_SECONDS <= 0.05


async def test_a_quiet_feed_beats_and_moves_on_past_what_is_not_its_own(tmp_path: Path) -> None:
    async with by_the_clock(tmp_path) as (things, clock):
        other = Records(things.engine, (await create_collection(things.engine, "other")).id)
        async with left_at_the_end(await watch(things, heartbeat="8")) as feed:
            await anext(feed)
            for _ in range(2):
                await other.add(["x"], [[1.0]])
                waiting = asyncio.create_task(anext(feed))
                await clock.asleep(8)
                await clock.advance(7.5)
                await clock.asleep(LOOK_SECONDS)
                assert not waiting.done()
                await clock.advance(0.5)
                beat = await soon(waiting)
                assert (beat.kind, beat.cursor) == ("heartbeat", str(things.engine.position))


async def test_a_feed_of_what_is_filtered_out_beats_too(things: Records) -> None:
    async with left_at_the_end(await watch(things, heartbeat="0.1", kinds="delete")) as feed:
        beats = 0

        async def write() -> None:
            number = 0
            while beats < 3:
                number += 1
                await things.add([f"{number}"], [[1.0]])
                await asyncio.sleep(0)

        async def listen() -> None:
            nonlocal beats
            while beats < 3:
                assert (await anext(feed)).kind == "heartbeat"
                beats += 1

        async with asyncio.timeout(10):
            await asyncio.gather(write(), listen())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"after": "-1"}, "after takes an LSN"),
        ({"after": "x"}, "after takes an LSN"),
        ({"after": "9" * 20}, "after takes an LSN"),
        ({"include": "distances"}, "include takes some of documents"),
        ({"kinds": "replace"}, "kinds takes some of add"),
        ({"where": "{"}, "where takes a filter as JSON"),
        ({"where": '{"$near": 1}'}, "near"),
        ({"heartbeat": "0"}, "heartbeat takes 0.1 to 3600"),
        ({"heartbeat": "nan"}, "heartbeat takes 0.1 to 3600"),
        ({"snapshot": "true", "after": "1"}, "leave out `after`, or `snapshot`"),
    ],
)
async def test_what_can_not_be_meant_so_is_refused(things: Records, fields: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        await watch(things, **fields)


async def test_a_collection_that_is_not_there_has_no_feed(engine: Engine) -> None:
    with pytest.raises(NotFoundError):
        await watch(Records(engine, "00000000-0000-4000-8000-000000000000"))
    with pytest.raises(NotFoundError):
        await engine.dispatch(WatchDatabase(tenant="default_tenant", database="nothing"))


# ---- snapshots, and what is kept no more


async def test_a_snapshot_and_what_follows_it_are_the_collection(tmp_path: Path, things: Records) -> None:
    rng = np.random.default_rng(7)
    async with compactor_at(tmp_path, KEEPING) as compactor:
        for number in range(30):
            ids = [f"{key}" for key in rng.integers(0, 60, 20)]
            await things.upsert(ids, rng.normal(size=(20, 4)), metadatas=[{"n": number, "k": None} for _ in ids])
            if number % 3 == 0:
                await things.delete([f"{key}" for key in rng.integers(0, 60, 5)])
            if number % 7 == 0:
                await compactor.step()
    mirror = Mirror()
    async with left_at_the_end(await watch(things, snapshot="true", include=EVERYTHING)) as feed:
        begin, *_ = await take(feed, 1)
        assert (begin.kind, begin.cursor) == ("snapshot_begin", None)
        mirror.apply(begin)
        await things.upsert(["new", "0"], rng.normal(size=(2, 4)), documents=["a", "b"])
        while not mirror.is_whole:
            (change,) = await take(feed, 1)
            assert (change.kind == "snapshot_end") == (change.cursor is not None)
            mirror.apply(change)
        (change,) = await take(feed, 1)
        mirror.apply(change)
    assert mirrored(mirror) == contents(await things.get())
    assert list(mirror.records) == (await things.get()).columns.ids


async def test_a_snapshot_may_be_empty_or_filtered(things: Records) -> None:
    assert kinds(await history(things, snapshot="true")) == ["snapshot_begin", "snapshot_end"]
    await things.add(["a", "b"], [[1.0], [2.0]], metadatas=[{"n": 1}, {"n": 2}])
    found = await history(things, snapshot="true", where='{"n": 2}', include="metadatas", kinds="delete")
    assert kinds(found) == ["snapshot_begin", "snapshot", "snapshot_end"]
    assert (found[1].ids, found[1].metadatas) == (["b"], [{"n": 2}])


async def test_a_position_that_is_not_kept_is_gone_and_a_snapshot_begins_again_without_a_gap(
    tmp_path: Path, things: Records
) -> None:
    mirror = Mirror()
    await things.add(["a", "b"], [[1.0], [2.0]])
    for change in await history(things, after="0", include=EVERYTHING):
        mirror.apply(change)
    async with compactor_at(tmp_path, TINY) as compactor:  # which keeps nothing
        await things.delete(["a"])
        await things.add(["c"], [[3.0]])
        await settle(compactor)
    with pytest.raises(GoneError, match="begin again from a snapshot"):
        await watch(things, after=mirror.position)
    for change in await history(things, snapshot="true", include=EVERYTHING):
        mirror.apply(change)
    await things.upsert(["b"], [[4.0]])
    for change in await history(things, after=mirror.position, include=EVERYTHING):
        mirror.apply(change)
    assert mirrored(mirror) == contents(await things.get())


async def test_from_the_oldest_that_is_kept_is_never_gone(tmp_path: Path, things: Records) -> None:
    await things.add(["a"], [[1.0]])
    async with compactor_at(tmp_path, TINY) as compactor:
        await settle(compactor)
    await things.add(["b"], [[1.0]])
    assert [change.ids for change in await history(things, after="0")] == [["b"]]


async def test_nobody_is_told_to_go_on_after_0_which_means_the_oldest_kept(things: Records) -> None:
    """What is freed before such a one comes back would be skipped."""
    for feed in (await watch(things, after="0"), await watch_database(things.engine, after="0")):
        first = await anext(feed)
        assert (first.kind, first.lsn, first.cursor) == ("heartbeat", 0, None)
        await feed.aclose()


async def test_a_feed_that_is_overtaken_ends_and_says_so(tmp_path: Path, things: Records) -> None:
    for number in range(50):
        await things.add([f"{number}"], [[1.0]], documents=["x" * 100_000])
    async with left_at_the_end(await watch(things, after="0")) as feed:
        await take(feed, 2)
        async with compactor_at(tmp_path, TINY) as compactor:
            await settle(compactor)
        with pytest.raises(GoneError):
            await take(feed, 50)
    assert told(things.engine, "feeds_ended_total", why="GoneError") == 1


async def test_a_position_of_another_log_is_gone(engine: Engine, things: Records) -> None:
    with pytest.raises(GoneError, match="the log ends before it"):
        await watch(things, after=str(engine.follower.position + 1))
    with pytest.raises(GoneError, match="another log"):
        await watch(things, after="0", log="somebody-elses")
    with pytest.raises(GoneError, match="another log"):
        await watch_database(engine, after="1-somebody-elses")
    await (await watch(things, after="0", log=engine.log.identity)).aclose()


async def test_a_purge_frees_what_feeds_have_not_read(tmp_path: Path, things: Records) -> None:
    await things.add(["a"], [[1.0]])
    async with compactor_at(tmp_path, KEEPING) as compactor:
        await settle(compactor)
        assert len(await history(things, after="0")) == 1
        purging = asyncio.create_task(things.engine.dispatch(PurgeCollection(**things._address, wait_seconds=20)))
        while not purging.done():
            await compactor.step()
            await asyncio.sleep(0.01)
        assert (await purging).done
    assert await history(things, after="0") == []
    with pytest.raises(GoneError):
        await watch(things, after="1")


async def test_a_quiet_collection_is_not_gone_because_others_are_not(
    tmp_path: Path, engine: Engine, things: Records
) -> None:
    await things.add(["a"], [[1.0]])
    (change,) = await history(things, after="0")
    other = Records(engine, (await create_collection(engine, "other")).id)
    async with compactor_at(tmp_path, TINY) as compactor:
        for number in range(20):
            await other.add([f"{number}"], [[1.0]])
        await settle(compactor)
    assert await history(things, after=change.cursor) == []


# ---- ends


async def test_a_feed_of_a_deleted_collection_gives_the_rest_and_a_last_change(engine: Engine, things: Records) -> None:
    feed = await watch(things, after="0")
    await anext(feed)
    await things.add(["a"], [[1.0]])
    await delete_collection(engine)
    found = await take_all(feed)
    assert kinds(found) == ["add", "collection_deleted"]


async def test_a_waiting_feed_learns_that_its_collection_was_deleted(tmp_path: Path) -> None:
    async with by_the_clock(tmp_path) as (things, clock):
        feed = await watch(things)
        await anext(feed)
        waiting = asyncio.create_task(take_all(feed))
        await clock.round(LOOK_SECONDS)
        assert not waiting.done()
        await delete_collection(things.engine)
        await clock.advance(LOOK_SECONDS)
        assert kinds(await soon(waiting)) == ["collection_deleted"]


@pytest.mark.parametrize("end", ["reset", "database"])
async def test_feeds_end_with_all_that_is_deleted(tmp_path: Path, end: str) -> None:
    async with engine_at(tmp_path, KEEPING) as engine:
        await engine.dispatch(CreateDatabase(tenant="default_tenant", name="second"))
        address = {"tenant": "default_tenant", "database": "second"}
        made = await engine.dispatch(CreateCollection(**address, name="things"))
        one: Any = await engine.dispatch(WatchCollection(**address, collection_id=made.id))
        whole: Any = await engine.dispatch(WatchDatabase(**address))
        await anext(one)
        await anext(whole)
        call = Reset() if end == "reset" else DeleteDatabase(**address)
        await engine.dispatch(call)
        assert kinds(await take_all(one)) == ["collection_deleted"]
        assert kinds(await take_all(whole)) == ["database_deleted"]


async def test_a_stopping_process_ends_its_feeds_at_once_and_begins_none(tmp_path: Path) -> None:
    async with by_the_clock(tmp_path) as (things, clock):
        feed = await watch(things)
        await anext(feed)
        waiting = asyncio.create_task(take_all(feed))
        await clock.asleep(LOOK_SECONDS)
        things.engine.feeds.stop()
        assert await soon(waiting) == []
        with pytest.raises(UnavailableError, match="stopping"):
            await watch(things)


async def test_a_feed_that_is_left_ends_for_who_waits(tmp_path: Path) -> None:
    async with by_the_clock(tmp_path) as (things, clock):
        feed = await watch(things)
        await anext(feed)
        assert told(things.engine, "feeds") == 1
        waiting = asyncio.create_task(take_all(feed))
        await clock.asleep(LOOK_SECONDS)
        await feed.aclose()
        assert await soon(waiting) == []
        assert told(things.engine, "feeds") == 0
        assert told(things.engine, "feeds_ended_total", why="left") == 1


@pytest.mark.parametrize("where", [None, '{"n": 2}'], ids=["shown", "filtered"])
@pytest.mark.parametrize("whole", [False, True], ids=["collection", "database"])
async def test_a_snapshot_that_is_left_while_it_is_read_ends_there_and_lets_go_of_its_view(
    tmp_path: Path, engine: Engine, things: Records, where: str | None, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[View] = []
    rows_of = View.rows

    def note(view: View, slots: Slots) -> list[Row]:
        read.append(view)
        return rows_of(view, slots)

    ids = [f"{number}" for number in range(20 * SNAPSHOT_ROWS)]
    await things.add(ids, np.zeros((len(ids), 1), dtype=np.float32), metadatas=[{"n": 1} for _ in ids])
    async with compactor_at(tmp_path, KEEPING) as compactor:
        await settle(compactor)
    monkeypatch.setattr(View, "rows", note)
    chosen = {"snapshot": "true", "where": where}
    feed = await (watch_database(engine, **chosen) if whole else watch(things, **chosen))
    await anext(feed)
    reading = asyncio.create_task(take_all(feed))
    await asyncio.sleep(0)
    await feed.aclose()
    assert await reading == []
    assert len(read) == 1
    assert read[0]._tables is not None
    assert not read[0]._tables._connection.in_transaction
    assert await take_all(feed) == []


async def test_a_snapshot_that_is_left_while_it_is_opened_is_not_read(engine: Engine, things: Records) -> None:
    await things.add(["a"], [[1.0]])
    one, whole = await watch(things, snapshot="true"), await watch_database(engine, snapshot="true")
    for feed, before in ((one, []), (whole, ["snapshot_begin"])):  # a database's begins before there is a view
        reading = asyncio.create_task(take_all(feed))
        await asyncio.sleep(0)
        await feed.aclose()
        assert kinds(await reading) == before
        assert feed._reading.ag_frame is None  # over, and with it what it held


async def test_nobody_looks_for_news_while_nobody_waits(tmp_path: Path) -> None:
    async with by_the_clock(tmp_path) as (things, clock), left_at_the_end(await watch(things)) as feed:
        await anext(feed)
        for number in range(2):
            assert clock.sleeping(LOOK_SECONDS) == 0
            waiting = asyncio.create_task(take(feed, 1))
            await clock.round(LOOK_SECONDS)
            (looking,) = [task for task in asyncio.all_tasks() if task.get_name() == "chroma_async.feeds"]
            await things.add([f"{number}"], [[1.0]])
            await clock.advance(LOOK_SECONDS)
            await soon(waiting)
            await clock.asleep(LOOK_SECONDS)
            await clock.advance(LOOK_SECONDS)
            await soon(looking)


async def test_who_waits_is_asked_when_the_log_has_moved_and_not_otherwise(tmp_path: Path) -> None:
    async with by_the_clock(tmp_path) as (things, clock):
        asked, engine = 0, things.engine

        def is_news() -> bool:
            nonlocal asked
            asked += 1
            return engine.position >= target

        async def looks(count: int) -> int:
            for _ in range(count):
                await clock.round(LOOK_SECONDS)
            return asked

        target = engine.position + 2
        waiting = asyncio.create_task(engine.feeds.wait("me", is_news, 30.0))
        assert await looks(5) == 2  # before it waits, and since the log may have moved just then
        await things.add(["a"], [[1.0]])
        assert await looks(5) == 3
        await things.add(["b"], [[1.0]])
        await clock.advance(LOOK_SECONDS)
        await soon(waiting)
        assert asked == 4


async def test_a_damaged_entry_ends_a_feed_with_an_error(tmp_path: Path, engine: Engine, things: Records) -> None:
    await things.add(["a"], [[1.0]])
    await things.add(["b"], [[1.0]])
    with sqlite3.connect(tmp_path / "log.sqlite3") as connection:
        connection.execute("UPDATE entries SET crc = crc + 1 WHERE lsn = ?", (engine.follower.position,))
    connection.close()
    feed = await watch(things, after="0")
    assert [change.ids for change in await take(feed, 1)] == [["a"]]
    with pytest.raises(InternalError, match="damaged"):
        await take(feed, 1)


async def test_a_lack_of_file_handles_is_no_damage_to_a_feed_either(tmp_path: Path, things: Records) -> None:
    await things.add(["a"], [[1.0]])
    async with compactor_at(tmp_path, TINY) as compactor:
        await settle(compactor)
    async with engine_at(tmp_path, KEEPING) as engine:  # one that has not opened the collection's files
        for feed in (
            await watch(Records(engine, things.id), snapshot="true"),
            await watch_database(engine, snapshot="true"),
        ):
            with no_handles(), pytest.raises(ResourceLimitError, match="no file handles left"):
                await take(feed, 3)
        assert told(engine, "feeds_ended_total", why="ResourceLimitError") == 2
        feed = await watch(Records(engine, things.id), snapshot="true")
        assert kinds(await take(feed, 3)) == ["snapshot_begin", "snapshot", "snapshot_end"]
        await feed.aclose()


# ---- databases


async def test_a_database_tells_of_all_of_its_collections_and_of_no_others(engine: Engine, things: Records) -> None:
    await engine.dispatch(CreateTenant(name="other_tenant"))
    await engine.dispatch(CreateDatabase(tenant="other_tenant", name="default_database"))
    elsewhere = {"tenant": "other_tenant", "database": "default_database"}
    foreign = await engine.dispatch(CreateCollection(**elsewhere, name="foreign"))
    async with left_at_the_end(await watch_database(engine, include="documents")) as feed:
        await anext(feed)
        await things.add(["a"], [[1.0]], documents=["d"])
        await Records(engine, foreign.id).engine.dispatch(DeleteRecords(**elsewhere, collection_id=foreign.id, ids=["x"]))
        made = await create_collection(engine, "second")
        await Records(engine, made.id).add(["b"], [[1.0]])
        await engine.dispatch(ModifyCollection(**PATH, collection_id=made.id, new_name="renamed"))
        await Records(engine, made.id).delete(["b"])
        await delete_collection(engine, "renamed")
        found = await take(feed, 6)
    assert [(change.kind, change.name) for change in found] == [
        ("add", "things"),
        ("collection_created", "second"),
        ("add", "second"),
        ("collection_modified", "renamed"),
        ("delete", "renamed"),
        ("collection_deleted", "renamed"),
    ]
    assert {change.collection for change in found} == {things.id, made.id}
    assert found[0].documents == ["d"]


async def test_a_database_goes_on_after_a_cursor(engine: Engine, things: Records) -> None:
    for number in range(3):
        await things.add([f"{number}"], [[1.0]])
    found = await until_now(await watch_database(engine, after="0", heartbeat="0.1"))
    assert kinds(found) == ["collection_created", "add", "add", "add"]
    for number, change in enumerate(found):
        rest = await until_now(await watch_database(engine, after=change.cursor, heartbeat="0.1"))
        assert [item.lsn for item in rest] == [item.lsn for item in found[number + 1 :]]
    with pytest.raises(InvalidArgumentError, match="a cursor as a feed gave it"):
        await watch_database(engine, after="17")


async def test_a_database_tells_of_a_deletion_to_who_was_away(tmp_path: Path, engine: Engine, things: Records) -> None:
    await things.add(["a"], [[1.0]])
    (*_, last) = await until_now(await watch_database(engine, after="0", heartbeat="0.1"))
    await things.add(["b"], [[1.0]])
    await delete_collection(engine)
    async with compactor_at(tmp_path, KEEPING) as compactor:
        await settle(compactor)
    found = await until_now(await watch_database(engine, after=last.cursor, heartbeat="0.1"))
    assert [(change.kind, change.name) for change in found] == [("collection_deleted", "things")]


async def test_a_cursor_of_a_database_is_gone_with_what_followed_it(tmp_path: Path, engine: Engine, things: Records) -> None:
    await things.add(["a"], [[1.0]])
    (*_, last) = await until_now(await watch_database(engine, after="0", heartbeat="0.1"))
    await things.add(["b"], [[1.0]])
    async with compactor_at(tmp_path, TINY) as compactor:
        await settle(compactor)
    with pytest.raises(GoneError):
        await watch_database(engine, after=last.cursor)


async def test_a_snapshot_of_a_database_and_what_follows_it_are_its_collections(tmp_path: Path, engine: Engine) -> None:
    collections = [Records(engine, (await create_collection(engine, f"c-{n}")).id) for n in range(3)]
    for records in collections[:2]:
        await records.add(["a", "b"], [[1.0], [2.0]], documents=["x", None])
    mirrors: dict[str, Mirror] = {}
    feed = await watch_database(engine, snapshot="true", include=EVERYTHING, heartbeat="0.1")
    async with left_at_the_end(feed), asyncio.timeout(10):
        wrote = 0
        while True:
            change = await anext(feed)
            if change.kind in ("snapshot_begin", "snapshot") and wrote < 20:
                # what is written while the snapshot is read is in it, or follows it, and never both
                wrote += 1
                await collections[wrote % 3].upsert(
                    ["a", f"{wrote}"], [[wrote], [2.0]], metadatas=[{"n": wrote}, {f"{wrote}": 1}]
                )
                await collections[wrote % 2].update(["b"], metadatas=[{f"b{wrote}": 1}])
            if change.collection is not None:
                mirrors.setdefault(change.collection, Mirror()).apply(change)
            if change.kind == "heartbeat" and change.lsn == engine.follower.position:
                break
    assert set(mirrors) == {records.id for records in collections}
    for records in collections:
        assert mirrored(mirrors[records.id]) == contents(await records.get())


async def test_a_snapshot_of_a_database_knows_what_was_made_and_renamed_before_it_is_read(
    engine: Engine, things: Records
) -> None:
    async with left_at_the_end(await watch_database(engine, snapshot="true")) as feed:
        made = Records(engine, (await create_collection(engine, "second")).id)
        await engine.dispatch(ModifyCollection(**PATH, collection_id=things.id, new_name="renamed"))
        shown = await take(feed, 4)
        await made.add(["a"], [[1.0]])
        await things.add(["b"], [[1.0]])
        found = await take(feed, 2)
    assert kinds(shown) == ["snapshot_begin", "snapshot", "snapshot", "snapshot_end"]
    assert {change.name for change in shown[1:3]} == {"second", "renamed"}
    assert [(change.kind, change.name, change.ids) for change in found] == [
        ("add", "second", ["a"]),
        ("add", "renamed", ["b"]),
    ]


async def test_kinds_of_a_database_can_be_chosen(engine: Engine, things: Records) -> None:
    await things.add(["a"], [[1.0]])
    await delete_collection(engine)
    chosen = "collection_created,collection_deleted"
    found = await until_now(await watch_database(engine, after="0", heartbeat="0.1", kinds=chosen))
    assert kinds(found) == ["collection_created", "collection_deleted"]
    assert set(KINDS) >= {"add", "collection_deleted"}


# ---- while much happens


async def test_what_another_process_has_seen_is_not_gone_before_its_writer_has_told_of_it(
    tmp_path: Path, things: Records
) -> None:
    """Between a commit and the telling of it a feed of one process may give what others do not know of yet."""
    async with engine_at(tmp_path) as other:
        told = other.log.barrier()
        other.log._shared._words = np.array([told, 0], dtype=np.uint64)  # type: ignore[attr-defined]
        await things.add(["a"], [[1, 2, 3]])
        newest = things.engine.log.barrier()
        assert other.log.barrier() == told < newest
        feed = await watch(Records(other, things.id), after=str(newest), heartbeat="0.1")
        await feed.aclose()
        with pytest.raises(GoneError, match="the log ends before it"):
            await watch(Records(other, things.id), after=str(newest + 1))


async def test_who_comes_and_goes_sees_every_change_once_and_in_order(tmp_path: Path, things: Records) -> None:
    """Writers in two processes, a compactor that frees, and a feed that is left and begun again at random."""
    rng = np.random.default_rng(3)
    settings = replace(TINY, log_retention_bytes=2**20)
    written: list[int] = []
    is_done = False

    async def write(engine: Engine, name: str) -> None:
        records = Records(engine, things.id)
        for number in range(40):
            ids = [f"{name}-{key}" for key in rng.integers(0, 30, 6)]
            choice = rng.integers(0, 4)
            if choice == 0:
                await records.delete(ids)
            elif choice == 1:
                await records.update(ids, metadatas=[{f"f{number % 3}": number} for _ in ids])
            else:
                await records.write("add" if choice == 2 else "upsert", ids, rng.normal(size=(6, 3)), documents=["d"] * 6)
            written.append(1)

    async def compact() -> None:
        async with compactor_at(tmp_path, settings) as compactor:
            while not is_done:
                await compactor.step()
                await asyncio.sleep(0.01)

    seen: list[int] = []
    mirror = Mirror(position="0")

    async def follow(engines: list[Engine]) -> None:
        while not (is_done and mirror.position == str(engines[0].log.barrier())):
            engine = engines[rng.integers(0, len(engines))]
            feed = await watch(Records(engine, things.id), after=mirror.position, include=EVERYTHING, heartbeat="0.1")
            for _ in range(rng.integers(1, 12)):
                change = await anext(feed)
                mirror.apply(change)
                if change.kind != "heartbeat":
                    seen.append(change.lsn)
            await feed.aclose()

    async with engine_at(tmp_path, settings) as other, asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        engines = [things.engine, other]
        following = [tasks.create_task(compact()), tasks.create_task(follow(engines))]
        await asyncio.gather(*(write(engines[number % 2], f"w{number}") for number in range(4)))
        is_done = True
        await asyncio.gather(*following)
    assert seen == sorted(set(seen))
    assert len(seen) == len(written)
    assert mirrored(mirror) == contents(await things.get())
    assert list(mirror.records) == (await things.get()).columns.ids
