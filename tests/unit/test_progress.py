"""Writes that wait until they have come further than into the log, and flush."""

from __future__ import annotations

import asyncio
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
    as_batch,
    compactor_at,
    create_collection,
    delete_collection,
    engine_at,
    settle,
)
from tests.support.manifests import manifest_of
from tests.support.waiting import soon

from chroma_async.engine import Engine, open_engine
from chroma_async.engine import collection as collection_module
from chroma_async.engine.collection import LEVEL_INTERVAL_SECONDS, Wanted
from chroma_async.engine.compactor import COLLECTIONS, Compactor
from chroma_async.engine.open_readers import STALE_TICKS
from chroma_async.engine.progress import LOOK_SECONDS
from chroma_async.engine.read_times import LEVEL_SECONDS, READ_SECONDS
from chroma_async.engine.read_view import NotAtHand
from chroma_async.engine.search_times import SEARCH_TIMES_BYTES, SearchTimes
from chroma_async.errors import InvalidArgumentError, MalformedRequestError, NotFoundError
from chroma_async.index.packing import ScanBuilder
from chroma_async.index.scan import Scan
from chroma_async.model import Collection
from chroma_async.projections.records import RecordTables
from chroma_async.projections.store import RECORDS_FILE
from chroma_async.projections.view import SegmentView
from chroma_async.protocol import AddRecords, DeleteRecords, FlushCollection, FlushDatabase, WireRequest
from chroma_async.protocol.results import FlushResult, WriteResult
from chroma_async.server.shared_file import shared_file
from chroma_async.settings import EngineSettings

pytestmark = pytest.mark.anyio

SETTINGS = replace(TINY, graph_rows_min=100, segment_rows_max=400, apply_bytes_max=2**20)
UNWATCHED = replace(SETTINGS, follow_interval_seconds=600)
"""Nothing is done but what a test asks for."""


@asynccontextmanager
async def by_the_clock(path: Path) -> AsyncIterator[tuple[Engine, ManualClock]]:
    """An engine for which time passes when a test says so."""
    clock = ManualClock()
    async with engine_at(path, UNWATCHED, clock=clock) as engine:
        yield engine, clock


async def compact(path: Path, *, graphs: bool = True) -> None:
    """Apply what there is, and build the graphs that are due; or end before one is begun."""
    async with compactor_at(path, UNWATCHED) as compactor:
        if graphs:
            await settle(compactor)
        else:
            await compactor.step()


def unapplied_bytes(engine: Engine) -> float | None:
    """As the metrics tell of it, since the last upkeep."""
    return engine.metrics.registry.get_sample_value("chroma_async_unapplied_bytes")


async def add(engine: Engine, collection_id: str, first: int, count: int, **wait: Any) -> WriteResult:
    vectors = np.random.default_rng(first).standard_normal((count, 4)).astype(np.float32)
    ids = [f"r{row}" for row in range(first, first + count)]
    call = AddRecords(**PATH, collection_id=collection_id, ids=ids, embeddings=as_batch(vectors), **wait)
    return await engine.dispatch(call)


async def flush(engine: Engine, **wait: Any) -> FlushResult:
    return await engine.dispatch(FlushDatabase(**PATH, **wait))


async def test_a_write_that_does_not_wait_says_that_it_is_committed(tmp_path: Path) -> None:
    async with engine_at(tmp_path, SETTINGS) as engine:
        collection = await create_collection(engine)
        first = await add(engine, collection.id, 0, 1)
        second = await add(engine, collection.id, 1, 1, wait="committed", wait_seconds=30)
        assert (first.reached, second.reached) == ("committed", "committed")
        assert first.lsn is not None
        assert second.lsn == first.lsn + 1


async def test_a_write_waits_until_it_is_applied(tmp_path: Path) -> None:
    async with by_the_clock(tmp_path) as (engine, clock):
        collection = await create_collection(engine)
        waiting = asyncio.create_task(add(engine, collection.id, 0, 5, wait="applied"))
        await clock.round(LOOK_SECONDS)
        assert not waiting.done()
        assert await Records(engine, collection.id).count() == 5  # it is visible all the same
        await compact(tmp_path)
        await clock.advance(LOOK_SECONDS)
        result = await soon(waiting)
        assert result.reached == "indexed"  # so few need no graph
        assert manifest_of(tmp_path, collection.id).applied == result.lsn


async def test_a_write_waits_for_the_graph_that_is_due(tmp_path: Path) -> None:
    async with by_the_clock(tmp_path) as (engine, clock):
        collection = await create_collection(engine)
        waiting = asyncio.create_task(add(engine, collection.id, 0, 150, wait="indexed"))
        applied = asyncio.create_task(add(engine, collection.id, 150, 1, wait="applied"))
        await clock.asleep(LOOK_SECONDS)
        await compact(tmp_path, graphs=False)
        await clock.round(LOOK_SECONDS)
        assert (await soon(applied)).reached == "applied"
        assert not waiting.done()
        await compact(tmp_path)
        await clock.advance(LOOK_SECONDS)
        assert (await soon(waiting)).reached == "indexed"
        assert [segment.graph and segment.graph.rows for segment in manifest_of(tmp_path, collection.id).segments] == [151]


async def test_a_deletion_waits_too(tmp_path: Path) -> None:
    async with by_the_clock(tmp_path) as (engine, clock):
        collection = await create_collection(engine)
        await add(engine, collection.id, 0, 5)
        for target in ({"ids": ["r1"]}, {"where_document": {"$not_contains": "x"}}):
            call = DeleteRecords(**PATH, collection_id=collection.id, **target, wait="applied")
            waiting = asyncio.create_task(engine.dispatch(call))
            await clock.round(LOOK_SECONDS)
            assert not waiting.done()
            await compact(tmp_path)
            await clock.advance(LOOK_SECONDS)
            result = await soon(waiting)
            assert manifest_of(tmp_path, collection.id).applied == result.lsn
        await create_collection(engine, "other")  # its entry is the log's newest, and none of this collection's
        call = DeleteRecords(**PATH, collection_id=collection.id, where={"a": 1}, wait="applied")
        nothing = await soon(engine.dispatch(call))
        assert (nothing.deleted, nothing.lsn) == (0, None)


async def test_who_waits_too_long_is_told_how_far_it_came_and_nothing_is_lost(tmp_path: Path) -> None:
    async with by_the_clock(tmp_path) as (engine, clock):
        collection = await create_collection(engine)
        waiting = asyncio.create_task(add(engine, collection.id, 0, 150, wait="indexed", wait_seconds=0.2))
        await clock.asleep(LOOK_SECONDS)
        await clock.advance(0.19)
        await clock.asleep(LOOK_SECONDS)
        assert not waiting.done()
        await clock.advance(LOOK_SECONDS)
        result = await soon(waiting)
        assert result.reached == "committed"
        await compact(tmp_path, graphs=False)
        assert (await flush(engine, wait="indexed", wait_seconds=0)) == FlushResult(result.lsn, "applied", ["things"])
        await compact(tmp_path)
        assert (await flush(engine, wait="indexed", wait_seconds=0)) == FlushResult(result.lsn, "indexed", [])


async def test_flush_is_over_when_each_collection_has_applied_its_own(tmp_path: Path) -> None:
    """A quiet collection never applies the LSNs of others, and is not waited for."""
    async with by_the_clock(tmp_path) as (engine, clock):
        ids = [(await create_collection(engine, name)).id for name in ("one", "two", "three")]
        await add(engine, ids[0], 0, 3)
        await compact(tmp_path)
        result = await add(engine, ids[1], 0, 3)
        one = await soon(engine.dispatch(FlushCollection(**PATH, collection_id=ids[0])))
        assert (one.reached, one.waiting) == ("indexed", [])
        waiting = asyncio.create_task(flush(engine))
        await clock.round(LOOK_SECONDS)
        assert not waiting.done()
        await compact(tmp_path)
        await clock.advance(LOOK_SECONDS)
        assert await soon(waiting) == FlushResult(result.lsn, "indexed", [])


async def test_what_is_written_later_is_not_waited_for(tmp_path: Path) -> None:
    async with by_the_clock(tmp_path) as (engine, clock):
        collection = await create_collection(engine)
        await add(engine, collection.id, 0, 150)
        await compact(tmp_path, graphs=False)
        waiting = asyncio.create_task(flush(engine, wait="indexed"))
        await clock.round(LOOK_SECONDS)
        assert not waiting.done()
        await compact(tmp_path)
        await add(engine, collection.id, 150, 200)
        await compact(tmp_path, graphs=False)
        (segment,) = manifest_of(tmp_path, collection.id).segments
        assert (segment.rows, segment.graph and segment.graph.rows) == (350, 150)  # a larger graph is due
        await clock.advance(LOOK_SECONDS)
        assert (await soon(waiting)).reached == "indexed"
        last = await flush(engine, wait="indexed", wait_seconds=0)
        assert (last.reached, last.waiting) == ("applied", ["things"])


async def test_a_collection_that_is_deleted_is_not_waited_for(tmp_path: Path) -> None:
    async with by_the_clock(tmp_path) as (engine, clock):
        collection = await create_collection(engine)
        waiting = asyncio.create_task(add(engine, collection.id, 0, 3, wait="applied"))
        await clock.asleep(LOOK_SECONDS)
        await delete_collection(engine)
        await clock.advance(LOOK_SECONDS)
        assert (await soon(waiting)).reached == "committed"


async def test_a_damaged_collection_is_named_at_once(tmp_path: Path) -> None:
    async with engine_at(tmp_path, SETTINGS) as engine, compactor_at(tmp_path, SETTINGS) as compactor:
        collection = await create_collection(engine)
        await add(engine, collection.id, 0, 3)
        await settle(compactor)
    (tmp_path / "collections" / collection.id / "records.sqlite3").write_bytes(b"x" * 8192)
    async with engine_at(tmp_path, SETTINGS) as engine:
        result = await soon(flush(engine))
        assert (result.reached, result.waiting) == ("committed", ["things"])


async def test_nobody_waits_for_an_engine_that_stops(tmp_path: Path) -> None:
    async with by_the_clock(tmp_path) as (engine, clock):
        collection = await create_collection(engine)
        waiting = asyncio.create_task(add(engine, collection.id, 0, 3, wait="applied"))
        await clock.asleep(LOOK_SECONDS)
        engine.progress.stop()
        assert (await soon(waiting)).reached == "committed"
        assert (await soon(add(engine, collection.id, 3, 3, wait="applied"))).reached == "committed"
    async with by_the_clock(tmp_path) as (engine, clock):
        flushing = asyncio.create_task(flush(engine))
        await clock.asleep(LOOK_SECONDS)
    assert (await soon(flushing)).reached == "committed"


async def test_nobody_looks_any_more_for_who_gave_up(tmp_path: Path) -> None:
    async with by_the_clock(tmp_path) as (engine, clock):
        for name in ("one", "two"):
            await add(engine, (await create_collection(engine, name)).id, 0, 3)
        waiting = asyncio.create_task(flush(engine))
        await clock.round(LOOK_SECONDS)
        waiting.cancel()
        await asyncio.wait({waiting})
        (looking,) = [task for task in asyncio.all_tasks() if task.get_name() == "chroma_async.progress"]
        await clock.advance(LOOK_SECONDS)
        await soon(looking)
        assert clock.sleeping(LOOK_SECONDS) == 0


@pytest.mark.parametrize("durability", ["commit", "interval", "off"])
async def test_many_writers_wait_beside_a_compactor_of_its_own(tmp_path: Path, durability: Any) -> None:
    settings = EngineSettings(durability=durability)
    async with open_engine(tmp_path, settings) as engine:
        collection = await create_collection(engine)
        results = await asyncio.gather(
            *(add(engine, collection.id, 10 * number, 10, wait="indexed", wait_seconds=20) for number in range(20))
        )
        assert {result.reached for result in results} == {"indexed"}
        applied = manifest_of(tmp_path, collection.id).applied
        assert applied >= max(result.lsn or 0 for result in results)
        assert (await flush(engine, wait="committed")).waiting == []


async def test_flush_of_what_is_not_there_is_refused(tmp_path: Path) -> None:
    async with engine_at(tmp_path, SETTINGS) as engine:
        with pytest.raises(NotFoundError, match="nowhere"):
            await engine.dispatch(FlushDatabase(tenant=PATH["tenant"], database="nowhere"))
        missing = "00000000-0000-4000-8000-000000000000"
        with pytest.raises(NotFoundError, match=missing):
            await engine.dispatch(FlushCollection(**PATH, collection_id=missing))


@pytest.mark.parametrize("seconds", [-1, 3601, float("nan")])
async def test_a_time_to_wait_that_is_none_is_refused_before_anything_is_written(tmp_path: Path, seconds: float) -> None:
    async with engine_at(tmp_path, SETTINGS) as engine:
        collection = await create_collection(engine)
        with pytest.raises(InvalidArgumentError, match="wait_seconds must be from 0 to 3600"):
            await add(engine, collection.id, 0, 1, wait="applied", wait_seconds=seconds)
        with pytest.raises(InvalidArgumentError, match="wait_seconds"):
            await flush(engine, wait_seconds=seconds)
        assert await Records(engine, collection.id).count() == 0


def test_a_stage_that_does_not_exist_is_refused() -> None:
    path = {**PATH, "collection_id": "00000000-0000-4000-8000-000000000000"}
    with pytest.raises(MalformedRequestError, match="wait"):
        FlushCollection.decode(WireRequest(path, {}, b'{"wait": "eventually"}'))


async def test_metrics_tell_how_far_everything_has_come(tmp_path: Path) -> None:

    def told(engine: Engine, *names: str) -> list[float | None]:
        return [engine.metrics.registry.get_sample_value(f"chroma_async_{name}") for name in names]

    async with by_the_clock(tmp_path) as (engine, clock):
        collection = await create_collection(engine)
        last = (await add(engine, collection.id, 0, 150)).lsn or 0
        await add(engine, collection.id, 150, 1)
        await engine.upkeep()
        assert told(engine, "committed_lsn", "applied_lsn", "unapplied_entries") == [last + 1, last - 1, 2]
        for seconds in (0, 3, 5):
            await clock.advance(seconds)
            await engine.upkeep()
        assert told(engine, "lag_seconds") == [8]
        await compact(tmp_path, graphs=False)
        await engine.upkeep()
        assert told(engine, "applied_lsn", "unapplied_entries", "unapplied_bytes", "lag_seconds") == [last + 1, 0, 0, 0]
        await Records(engine, collection.id).query([[1, 2, 3, 4]])
        await engine.upkeep()
        assert told(engine, "unindexed_vectors") == [151]
        await compact(tmp_path)
        await Records(engine, collection.id).query([[1, 2, 3, 4]])  # which sees that there is a newer base
        await engine.refresh()
        await engine.upkeep()
        assert told(engine, "unindexed_vectors") == [0]


async def test_much_that_comes_is_folded_before_the_next_read_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection_module, "FOLD_AT_HAND_BYTES", 1_000)
    async with engine_at(tmp_path, UNWATCHED) as engine, compactor_at(tmp_path, UNWATCHED) as compactor:
        collection = await create_collection(engine)
        records, reader = Records(engine, collection.id), engine.follower.sink(collection.id)
        await add(engine, collection.id, 0, 10)
        await settle(compactor)
        await add(engine, collection.id, 10, 100)
        assert not reader.has_much_to_fold  # nobody has asked
        assert [len(found.ids) for found in (await records.query([[1, 2, 3, 4]], n_results=200)).columns] == [110]
        assert not reader.has_much_to_fold
        await add(engine, collection.id, 110, 10)
        assert not reader.has_much_to_fold  # little: a read may do that itself
        last = await add(engine, collection.id, 120, 100)
        assert reader.has_much_to_fold
        await engine.refresh()
        assert (reader.has_much_to_fold, reader._tail.memtable.through) == (False, last.lsn)
        vectors = np.random.default_rng(120).standard_normal((100, 4)).astype(np.float32)
        nearest = await records.query(vectors[:5].tolist(), n_results=1)
        assert [list(found.ids) for found in nearest.columns] == [[f"r{row}"] for row in range(120, 125)]
        assert await records.count() == 220


async def test_a_read_that_must_not_wait_does_not_while_entries_are_folded_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine_at(tmp_path, UNWATCHED) as engine, compactor_at(tmp_path, UNWATCHED) as compactor:
        collection = await create_collection(engine)
        reader = engine.follower.sink(collection.id)
        await add(engine, collection.id, 0, 10)
        await settle(compactor)
        assert await Records(engine, collection.id).count() == 10
        await add(engine, collection.id, 10, 100)
        with reader.view(at_hand=True) as view:
            assert view.image.live == 110
        monkeypatch.setattr(reader, "_goes_ahead", True)
        with pytest.raises(NotAtHand), reader.view(at_hand=True):
            pass
        monkeypatch.undo()
        monkeypatch.setattr(collection_module, "COLUMNS_AT_HAND_ROWS", 99)
        with pytest.raises(NotAtHand), reader.view(columns=True, at_hand=True):
            pass
        with reader.view(columns=True) as view:
            assert view.image.has_columns
        with reader.view(columns=True, at_hand=True) as view:
            assert view.image.live == 110


async def test_what_nobody_has_read_for_a_while_is_let_go_of_and_read_rightly_again(tmp_path: Path) -> None:
    async with by_the_clock(tmp_path) as (engine, clock), compactor_at(tmp_path, UNWATCHED) as compactor:
        collection = await create_collection(engine)
        records, reader = Records(engine, collection.id), engine.follower.sink(collection.id)
        await add(engine, collection.id, 0, 10)
        await settle(compactor)
        assert await records.count() == 10
        await add(engine, collection.id, 10, 10)
        await settle(compactor)
        await engine.upkeep()
        assert unapplied_bytes(engine) == 0
        assert reader.manifest.version == manifest_of(tmp_path, collection.id).version  # read lately: kept level
        await clock.advance(LEVEL_SECONDS)
        await add(engine, collection.id, 20, 10)
        await engine.upkeep()
        assert unapplied_bytes(engine)  # nothing of it is applied
        await settle(compactor)
        await add(engine, collection.id, 30, 5)
        await engine.upkeep()
        assert (reader.manifest.version, len(reader.entries)) == (0, 1)
        found = await records.get()
        assert found.columns.ids == [f"r{row}" for row in range(35)]


async def test_what_is_folded_of_a_collection_that_nobody_reads_keeps_no_entries(tmp_path: Path) -> None:
    """Entries that were applied are counted no more, so nothing may keep them in memory."""
    async with by_the_clock(tmp_path) as (engine, clock), compactor_at(tmp_path, UNWATCHED) as compactor:
        collection = await create_collection(engine)
        records, reader = Records(engine, collection.id), engine.follower.sink(collection.id)
        await add(engine, collection.id, 0, 10)
        await settle(compactor)
        assert await records.count() == 10
        await engine.refresh()
        await add(engine, collection.id, 10, 10)
        assert await records.count() == 20
        await settle(compactor)
        await add(engine, collection.id, 20, 10)
        assert await records.count() == 30
        await clock.advance(READ_SECONDS - 1)
        await engine.upkeep()  # takes the newest base, which is not due again soon
        assert len(reader._tail.memtable.vectors()[1]) == 10
        await settle(compactor)
        await clock.advance(1)
        before = reader.manifest.version
        await engine.upkeep()
        assert unapplied_bytes(engine) == 0
        assert (reader.manifest.version, len(reader._tail.memtable.vectors()[1])) == (before, 0)
        await add(engine, collection.id, 30, 10)
        assert (await records.get()).columns.ids == [f"r{row}" for row in range(40)]


@pytest.mark.parametrize("is_searched", [False, True])
async def test_base_of_what_is_not_read_now_is_taken_and_packed_later(tmp_path: Path, is_searched: bool) -> None:
    """What was applied is forgotten, and nobody gets the old base without it; only for searches rows are packed."""
    async with by_the_clock(tmp_path) as (engine, clock), compactor_at(tmp_path, UNWATCHED) as compactor:
        collection = await create_collection(engine)
        records, reader = Records(engine, collection.id), engine.follower.sink(collection.id)
        await add(engine, collection.id, 0, 10)
        await settle(compactor)
        assert len((await records.query([[1, 2, 3, 4]], n_results=20)).columns[0].ids) == 10
        await add(engine, collection.id, 10, 10)
        await settle(compactor)
        with reader.view() as view:  # of an instant before what follows
            await clock.advance(READ_SECONDS - 1)
            await add(engine, collection.id, 20, 10)
            await settle(compactor)
            await engine.upkeep()  # takes the newest base, which is not due again soon
            await clock.advance(1)
            before = reader.manifest.version
            await add(engine, collection.id, 30, 10)
            tables = RecordTables(tmp_path / COLLECTIONS / collection.id / RECORDS_FILE, writable=False)
            with tables.transaction():
                assert tables.version() == before
                await settle(compactor)
                await engine.upkeep()
                assert unapplied_bytes(engine) == 0
                assert reader._try_pin(tables, Wanted(columns=False, newest=False, tail=True, search=False)) is None
            tables.close()
            assert reader.manifest.version == before < manifest_of(tmp_path, collection.id).version
            assert len(view.slots(None, None, "include")) == 20
        await add(engine, collection.id, 40, 10)
        with pytest.raises(NotAtHand), reader.view(at_hand=True):
            pass
        if not is_searched:
            assert (await records.get()).columns.ids == [f"r{row}" for row in range(50)]
            assert not reader.is_to_be_packed
            with reader.view(at_hand=True) as view:
                assert view.image.live == 50
            with pytest.raises(NotAtHand), reader.view(at_hand=True, search=True):
                pass
        found = await records.query([[1, 2, 3, 4]], n_results=60)
        assert len(found.columns[0].ids) == 50
        assert reader.is_to_be_packed
        await engine.refresh()
        with reader.view(at_hand=True, search=True) as view:
            assert (view.image.live, sum(scan.rows for scan in view.image.scans if scan is not None)) == (50, 40)
        assert not reader.is_to_be_packed
        assert reader.manifest.version == manifest_of(tmp_path, collection.id).version


async def test_searches_do_not_wait_for_rows_to_be_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread packs them, a segment at a time; until then they are compared. What fails is not tried again and again."""
    settings = replace(UNWATCHED, segment_rows_max=1_500)
    collection = await at_rest(tmp_path, settings, 4_000)
    async with engine_at(tmp_path, settings) as engine:
        records, reader = Records(engine, collection.id), engine.follower.sink(collection.id)
        answers = [(await records.query([[1, 2, 3, 4]], n_results=20)).columns[0].ids]
        segments = reader._base.base.segments
        assert [segment.is_packed for segment in segments] == [False, False, False]
        with monkeypatch.context() as patched:
            patched.setattr(ScanBuilder, "extend", raising_memory_error)
            with pytest.raises(MemoryError):
                reader.pack()
        assert not reader.is_to_be_packed
        reader._base.gave_up_packing = False
        for packed in range(3):
            assert [segment.is_packed for segment in segments] == [True] * packed + [False] * (3 - packed)
            assert reader.is_to_be_packed
            await engine.refresh()
            answers.append((await records.query([[1, 2, 3, 4]], n_results=20)).columns[0].ids)
            assert sum(scan is not None for scan in reader._base.scans) == packed + 1
        assert not reader.is_to_be_packed
        assert len(answers[0]) == 20
        assert answers == [answers[0]] * 4


async def test_searches_use_the_rows_that_are_packed_while_others_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment of half a million rows takes seconds; they find the same all the while."""
    settings = replace(UNWATCHED, segment_rows_max=2_500)
    monkeypatch.setattr(collection_module, "PACKED_AT_ONCE_ROWS", 700)
    collection = await at_rest(tmp_path, settings, 2_000)
    async with engine_at(tmp_path, settings) as engine:
        records, reader = Records(engine, collection.id), engine.follower.sink(collection.id)
        answer = (await records.query([[1, 2, 3, 4]], n_results=20)).columns[0].ids
        used: list[int] = []
        scanned = SegmentView.scanned

        def spied(segment: SegmentView, more: int | None = None) -> Scan:
            with reader.view(search=True) as view:
                used.append(sum(scan.rows for scan in view.image.scans if scan is not None))
                (found,) = view.nearest(collection, np.asarray([[1, 2, 3, 4]], dtype=np.float32), [None], [20])
                assert [row.id for row in view.rows(found.slots)] == answer
            return scanned(segment, more)

        monkeypatch.setattr(SegmentView, "scanned", spied)
        reader.pack()
        assert used == [0, 700, 1_400]
        assert [scan.rows for scan in reader._base.scans if scan is not None] == [2_000]
        assert (await records.query([[1, 2, 3, 4]], n_results=20)).columns[0].ids == answer


@pytest.mark.parametrize("is_shared", [True, False])
async def test_what_another_worker_searches_is_made_ready(tmp_path: Path, is_shared: bool) -> None:
    """A client that connected anew beside a stream came to a worker that had packed nothing, and waited for seconds."""
    async with two_workers(tmp_path, is_shared=is_shared) as (one, other, compactor, clock):
        collection = await create_collection(one)
        reader = other.follower.sink(collection.id)

        async def grow(first: int) -> None:
            await add(one, collection.id, first, 100)
            await other.follower.catch_up()
            await settle(compactor)

        await grow(0)
        await a_while_later(other, clock)
        assert (reader.manifest.rows, len(reader.entries)) == (0, 0)
        await Records(one, collection.id).query([[1, 2, 3, 4]])
        await a_while_later(other, clock)
        assert reader.manifest.rows == 100 * is_shared
        await grow(100)
        await Records(one, collection.id).query([[1, 2, 3, 4]])
        await a_while_later(other, clock)
        assert (reader.manifest.rows, len(reader.entries)) == (200 * is_shared, 0)
        assert sum(scan.rows for scan in reader._base.scans if scan is not None) == 200 * is_shared
        for _ in range(2 * STALE_TICKS):
            await clock.advance(1)
            await other.upkeep()
        assert reader.manifest.rows == 200 * is_shared
        found = await Records(other, collection.id).query([[1, 2, 3, 4]], n_results=400)
        assert len(found.columns[0].ids) == 200


async def test_worker_with_a_stream_makes_itself_ready_afterwards_and_forgets_nothing_meanwhile(tmp_path: Path) -> None:
    async with two_workers(tmp_path, is_shared=True) as (one, other, compactor, clock):
        collection = await create_collection(one)
        reader, searches = other.follower.sink(collection.id), other.searches
        await add(one, collection.id, 0, 100)
        await settle(compactor)

        async def searched_elsewhere(*, heeded: bool) -> None:
            searches.heeds_others = heeded
            await Records(one, collection.id).query([[1, 2, 3, 4]])
            await a_while_later(other, clock)

        await searched_elsewhere(heeded=False)
        assert reader.manifest.rows == 0
        await searched_elsewhere(heeded=True)  # all entries are applied and forgotten by now
        assert (reader.manifest.rows, len(reader.entries)) == (100, 0)
        await add(other, collection.id, 100, 100)
        await settle(compactor)
        await searched_elsewhere(heeded=False)
        assert (reader.manifest.rows, len(reader.entries)) == (100, 0)
        await searched_elsewhere(heeded=True)
        assert sum(scan.rows for scan in reader._base.scans if scan is not None) == 200


async def test_first_query_does_not_wait_for_what_is_packed_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_workers(tmp_path, is_shared=True) as (one, other, compactor, _):
        collection = await create_collection(one)
        reader = other.follower.sink(collection.id)
        await add(one, collection.id, 0, 100)
        await settle(compactor)
        await Records(one, collection.id).query([[1, 2, 3, 4]])
        monkeypatch.setattr(ScanBuilder, "extend", raising_memory_error)
        await other.follower.catch_up()
        await other.upkeep()
        assert (reader.manifest.rows, reader.is_to_be_packed) == (100, True)
        assert len((await Records(other, collection.id).query([[1, 2, 3, 4]])).columns[0].ids) == 10


async def test_what_others_search_closes_nothing_that_is_read_here(tmp_path: Path) -> None:
    async with two_workers(tmp_path, is_shared=True) as (one, other, compactor, clock):
        collection = await create_collection(one)
        await add(one, collection.id, 0, 100)
        await settle(compactor)
        await Records(one, collection.id).query([[1, 2, 3, 4]])
        other.open_readers._open_max = 1
        await a_while_later(other, clock)
        assert other.follower.sink(collection.id).manifest.rows == 0


async def at_rest(path: Path, settings: EngineSettings, records: int) -> Collection:
    """A collection of so many records, all applied, which nobody has open."""
    async with engine_at(path, settings) as engine, compactor_at(path, settings) as compactor:
        collection = await create_collection(engine)
        await add(engine, collection.id, 0, records)
        await settle(compactor)
        return collection


@asynccontextmanager
async def two_workers(path: Path, *, is_shared: bool) -> AsyncIterator[tuple[Engine, Engine, Compactor, ManualClock]]:
    """Two engines that share when collections were searched, or do not, a compactor, and the clock of all three."""
    clock = ManualClock()
    with shared_file("searches", SEARCH_TIMES_BYTES) as file:
        one, other = (SearchTimes(file if is_shared else None, clock) for _ in range(2))
        async with (
            engine_at(path, UNWATCHED, searches=one, clock=clock) as first,
            engine_at(path, UNWATCHED, searches=other, clock=clock) as second,
            compactor_at(path, UNWATCHED, clock=clock) as compactor,
        ):
            yield first, second, compactor, clock


async def a_while_later(engine: Engine, clock: ManualClock) -> None:
    """What an engine does when it is time again to make readers ready."""
    await clock.advance(LEVEL_INTERVAL_SECONDS)
    await engine.follower.catch_up()
    await engine.upkeep()
    await engine.refresh()


async def test_what_was_packed_meanwhile_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may end to pack while a reader looks at what is packed."""
    async with engine_at(tmp_path, UNWATCHED) as engine, compactor_at(tmp_path, UNWATCHED) as compactor:
        collection = await create_collection(engine)
        records, reader = Records(engine, collection.id), engine.follower.sink(collection.id)
        await add(engine, collection.id, 0, 50)
        await settle(compactor)
        await records.query([[1, 2, 3, 4]])
        covers = SegmentView.is_covered

        def packing(segment: SegmentView, scan: Scan | None) -> bool:
            segment.scanned()
            return covers(segment, scan)

        monkeypatch.setattr(SegmentView, "is_covered", packing)
        reader._base.use_packed()
        assert (reader._base.scans, reader.is_to_be_packed) == ((None,), True)
        monkeypatch.undo()
        await engine.refresh()
        assert [scan.rows for scan in reader._base.scans if scan is not None] == [50]
        assert not reader.is_to_be_packed


def raising_memory_error(*_: object, **__: object) -> None:
    raise MemoryError


async def test_what_nobody_reads_is_forgotten_when_it_is_applied_without_being_opened(tmp_path: Path) -> None:
    """And read rightly all the same, also by a reader that looked at older tables."""
    async with engine_at(tmp_path, SETTINGS) as engine, compactor_at(tmp_path, SETTINGS) as compactor:
        collections = [await create_collection(engine, f"things{number}") for number in range(5)]
        for number, collection in enumerate(collections):
            await add(engine, collection.id, 10 * number, 10)
        await settle(compactor)
        await engine.upkeep()
        assert unapplied_bytes(engine) == 0
        assert len(engine.open_readers) == 0
        readers = [engine.follower.sink(collection.id) for collection in collections]
        assert [reader.manifest.version for reader in readers] == [0] * 5
        await add(engine, collections[0].id, 100, 5)
        assert await Records(engine, collections[0].id).count() == 15
        for collection in collections[1:]:
            records = Records(engine, collection.id)
            assert await records.count() == 10
            assert len((await records.get()).columns.ids) == 10
