"""A read view is one instant; making one is safe while the compactor creates, replaces and deletes what it reads."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from tests.support.engines import (
    TINY,
    Records,
    compactor_at,
    contents,
    create_collection,
    delete_collection,
    engine_at,
    settle,
)

from chroma_async.core.events import RecordsHead, RecordsWritten, encode
from chroma_async.engine.collection import CollectionReader
from chroma_async.errors import InternalError, NotFoundError
from chroma_async.model import CollectionId, Lsn, Vectors
from chroma_async.projections.records import RecordTables

pytestmark = pytest.mark.anyio


def rows(count: int, seed: int = 0) -> Vectors:
    return np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)


def names(count: int) -> list[str]:
    return [f"r{number}" for number in range(count)]


def entry(ids: list[str]) -> bytes:
    head = RecordsHead(CollectionId("c"), "upsert", len(ids), 3, {})
    return encode(RecordsWritten(head, ids, rows(len(ids)), None, None, None, None))


def test_bytes_that_wait_are_counted_right_by_two_threads(tmp_path: Path) -> None:
    """The event loop offers while worker threads drop what was applied: back-pressure rests on the difference."""
    reader = CollectionReader(tmp_path)
    payload = entry(["x"])

    def drop() -> None:
        for applied in range(20_000):
            reader.entries.drop_through(Lsn(applied))

    dropping = threading.Thread(target=drop)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    dropping.start()
    for lsn in range(1, 20_001):
        reader.offer(Lsn(lsn), payload)
    dropping.join()
    sys.setswitchinterval(interval)
    reader.entries.drop_through(Lsn(20_000))
    assert reader.entries.size_bytes == 0


async def test_reads_are_whole_while_the_tables_are_made(tmp_path: Path) -> None:
    """Between the first look at an empty directory and the first pin, the compactor may have applied everything."""
    for attempt in range(8):
        name = f"collection{attempt}"
        async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
            records = Records(engine, (await create_collection(engine, name)).id)
            await records.add(names(5), rows(5))
            compacting = asyncio.create_task(settle(compactor))
            while not compacting.done():
                found = await asyncio.gather(*(records.get() for _ in range(4)))
                assert [list(contents(result)) for result in found] == [names(5)] * 4
            await compacting


async def test_view_without_tables_is_not_pinned_over_a_newer_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine_at(tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(names(5), rows(5))
        async with compactor_at(tmp_path) as compactor:
            await settle(compactor)
        assert await records.count() == 5
        reader = engine.follower.sink(CollectionId(records.id))
        reader._connections.close_idle()
        with monkeypatch.context() as patched:
            patched.setattr(reader._connections, "borrow", lambda: None)
            with reader.view() as view:
                assert [row.id for row in view.rows(view.slots(None, None, "include"))] == names(5)


async def test_tables_that_cannot_be_opened_are_not_taken_for_an_empty_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine_at(tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(names(5), rows(5))
        async with compactor_at(tmp_path) as compactor:
            await settle(compactor)

    def refuse(self: RecordTables, path: Path, *, writable: bool) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    async with engine_at(tmp_path) as engine:
        records = Records(engine, records.id)
        with monkeypatch.context() as patched:
            patched.setattr(RecordTables, "__init__", refuse)
            for read in (records.count, records.get):
                with pytest.raises(InternalError):
                    await read()
        assert await records.count() == 5


async def test_reads_of_a_collection_that_is_being_deleted_answer_or_say_so(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine, engine_at(tmp_path) as other, compactor_at(tmp_path) as compactor:
        for attempt in range(6):
            name = f"collection{attempt}"
            collection = await create_collection(engine, name)
            records = [Records(engine, collection.id), Records(other, collection.id)]
            await records[0].add(names(40), rows(40), metadatas=[{"f": 1}] * 40)
            await settle(compactor)
            stop, answered = asyncio.Event(), asyncio.Event()

            async def read(mine: Records, stop: asyncio.Event, answered: asyncio.Event) -> None:
                while not stop.is_set():
                    try:
                        assert len(contents(await mine.get(where={"f": 1}))) == 40
                        assert len((await mine.query(rows(1), 5)).columns[0].ids) == 5
                        answered.set()
                    except NotFoundError:
                        return

            reading = [asyncio.create_task(read(records[number % 2], stop, answered)) for number in range(6)]
            await asyncio.wait_for(answered.wait(), 20)
            await asyncio.sleep(0.02)
            await delete_collection(engine, name)
            await settle(compactor)
            stop.set()
            await asyncio.gather(*reading)


async def test_what_was_read_of_a_deleted_collection_is_let_go(tmp_path: Path) -> None:
    """Its files are mapped: as long as somebody holds them, the disk is not freed."""
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(names(40), rows(40))
        await settle(compactor)
        await records.query(rows(1), 3)
        reader = weakref.ref(engine.follower.sink(CollectionId(records.id)))
        await delete_collection(engine)
        await asyncio.sleep(0)
        gc.collect()
        assert reader() is None


async def test_view_does_not_change_while_others_write(tmp_path: Path) -> None:
    async with engine_at(tmp_path, TINY) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(names(10), rows(10), metadatas=[{"f": 1}] * 10)
        reader = engine.follower.sink(CollectionId(records.id))
        with reader.view(columns=True) as view:
            await records.delete(names(5))
            await records.upsert(["new", "r7"], rows(2, seed=1))
            with reader.view(columns=True) as newer:
                assert newer.image.live == 6
            slots = view.slots(None, None, "include")
            assert [row.id for row in view.rows(slots)] == names(10)
            np.testing.assert_array_equal(view.vectors(slots), rows(10))
