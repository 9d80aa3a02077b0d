"""`index_only` counts what was applied, every other level what was acknowledged."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.clock import ManualClock
from tests.support.engines import PATH, TINY, Records, create_collection, engine_at
from tests.support.waiting import soon, wait_until

from chroma_async import AsyncPersistentClient, PersistentClient
from chroma_async.client.types import ReadLevel
from chroma_async.engine.engine import Engine
from chroma_async.engine.handlers.records import LOOK_SECONDS
from chroma_async.errors import InvalidArgumentError, InvalidDimensionException, NotYetVisibleError, UnavailableError
from chroma_async.model import Lsn
from chroma_async.protocol import CountRecords, GetRecords, QueryRecords

ROWS = 3
UNWATCHED = replace(TINY, follow_interval_seconds=600)


def test_only_index_only_leaves_out_what_waits_to_be_applied(tmp_path: Path) -> None:
    with PersistentClient(tmp_path, compact=False) as client:
        made = client.create_collection("levels", embedding_function=None)
        made.add([str(row) for row in range(ROWS)], [[float(row)] for row in range(ROWS)])
        assert [made.count(level) for level in ReadLevel] == [ROWS, 0, ROWS]
        assert made.get_indexing_status().num_unindexed_ops == ROWS
        with PersistentClient(tmp_path) as other:
            applied = other.get_collection("levels", embedding_function=None)
            wait_until(lambda: applied.count(ReadLevel.INDEX_ONLY) == ROWS)
        assert [made.count(level) for level in ReadLevel] == [ROWS] * 3
        assert made.get_indexing_status().num_unindexed_ops == 0


def test_an_unknown_level_is_refused(tmp_path: Path) -> None:
    with PersistentClient(tmp_path) as client:
        made = client.create_collection("levels", embedding_function=None)
        with pytest.raises(Exception, match="read_level"):
            made.count("fresh")


def test_reads_of_the_applied_are_those_of_an_earlier_instant(tmp_path: Path) -> None:
    """A record that was changed, deleted or added since is as it was: by id, by filter, by document and by vector."""
    with PersistentClient(tmp_path) as client:
        made = client.create_collection("levels", embedding_function=None)
        names, vectors = ["a", "b", "c"], [[0.0], [1.0], [2.0]]
        made.add(names, vectors, documents=["old"] * 3, metadatas=[{"k": row} for row in range(3)], wait="applied")
    with PersistentClient(tmp_path, compact=False) as client:
        made = client.get_collection("levels", embedding_function=None)
        made.upsert(["a", "d"], [[9.0], [0.1]], documents=["new", "new"], metadatas=[{"k": 7}, {"k": 7}])
        made.delete(["b"])
        old = ReadLevel.INDEX_ONLY
        assert made.get()["ids"] == ["a", "c", "d"]
        before = made.get(read_level=old, include=["documents", "metadatas", "embeddings"])
        assert before["ids"] == names
        assert before["documents"] == ["old"] * 3
        assert before["metadatas"] == [{"k": row} for row in range(3)]
        assert before["embeddings"] is not None
        assert before["embeddings"].tolist() == vectors
        assert made.get(where={"k": 7}, read_level=old)["ids"] == []
        assert made.get(where={"k": {"$gte": 1}}, read_level=old)["ids"] == ["b", "c"]
        assert made.get(where_document={"$contains": "old"}, read_level=old)["ids"] == names
        assert made.query([[0.0]], n_results=3, read_level=old)["ids"] == [names]
        assert made.query([[0.0]], n_results=3, read_level=old, where={"k": {"$lt": 2}})["ids"] == [["a", "b"]]
        assert made.query([[0.0]], n_results=3)["ids"] == [["d", "c", "a"]]


@pytest.mark.anyio
async def test_a_read_waits_for_an_lsn_that_is_yet_to_come(tmp_path: Path) -> None:
    clock = ManualClock()
    async with engine_at(tmp_path) as engine, engine_at(tmp_path, UNWATCHED, clock=clock) as other:
        collection = await create_collection(engine)
        call = CountRecords(**PATH, collection_id=collection.id, min_lsn=Lsn(engine.position + 1), wait_seconds=20.0)
        reading = asyncio.create_task(other.dispatch(call))
        await clock.round(LOOK_SECONDS)
        assert not reading.done()
        await Records(engine, collection.id).add(["late"], [[1.0]])
        await clock.advance(LOOK_SECONDS)
        assert (await soon(reading)).count == 1


@pytest.mark.anyio
async def test_a_query_that_waits_finds_the_first_vectors_of_a_collection(tmp_path: Path) -> None:
    clock = ManualClock()
    async with engine_at(tmp_path) as engine, engine_at(tmp_path, UNWATCHED, clock=clock) as other:
        collection = await create_collection(engine)
        call = QueryRecords(
            **PATH,
            collection_id=collection.id,
            query_embeddings=np.ones((1, 1), dtype=np.float32),
            min_lsn=Lsn(engine.position + 1),
            wait_seconds=20.0,
        )
        reading = asyncio.create_task(other.dispatch(call))
        await clock.round(LOOK_SECONDS)
        await Records(engine, collection.id).add(["late"], [[1.0]])
        await clock.advance(LOOK_SECONDS)
        assert (await soon(reading)).columns[0].ids == ["late"]


@pytest.mark.anyio
async def test_a_wrong_read_is_refused_before_it_waits(tmp_path: Path) -> None:
    async with engine_at(tmp_path, UNWATCHED, clock=ManualClock()) as engine:
        collection = await create_collection(engine)
        await Records(engine, collection.id).add(["a"], [[1.0]])
        late: dict[str, Any] = {"collection_id": collection.id, "min_lsn": Lsn(engine.position + 1), "wait_seconds": 20.0}
        vector, where = np.ones((1, 1), dtype=np.float32), {"k": {"$no": 1}}
        with pytest.raises(InvalidArgumentError):
            await soon(engine.dispatch(GetRecords(**PATH, **late, where=where)))
        with pytest.raises(InvalidArgumentError):
            await soon(engine.dispatch(QueryRecords(**PATH, **late, where=where, query_embeddings=vector)))
        with pytest.raises(InvalidDimensionException):
            await soon(engine.dispatch(QueryRecords(**PATH, **late, query_embeddings=np.ones((1, 2), dtype=np.float32))))


async def read_of_the_next_lsn(engine: Engine) -> asyncio.Task[object]:
    """Begin a read that waits for what nobody writes, for 20 seconds."""
    collection = await create_collection(engine)
    lsn = Lsn(engine.position + 1)
    call = CountRecords(**PATH, collection_id=collection.id, min_lsn=lsn, wait_seconds=20.0)
    return asyncio.create_task(engine.dispatch(call))


@pytest.mark.anyio
async def test_a_read_waits_for_an_lsn_as_long_as_it_says(tmp_path: Path) -> None:
    clock = ManualClock()
    async with engine_at(tmp_path, UNWATCHED, clock=clock) as engine:
        reading = await read_of_the_next_lsn(engine)
        await clock.asleep(LOOK_SECONDS)
        await clock.advance(19)
        await clock.asleep(LOOK_SECONDS)
        assert not reading.done()
        await clock.advance(1)
        with pytest.raises(NotYetVisibleError, match="did not come to this LSN in time"):
            await soon(reading)


def test_queries_of_both_levels_at_once_get_each_their_own(tmp_path: Path) -> None:
    """They must not be answered as one batch, of one view."""
    with PersistentClient(tmp_path) as client:
        made = client.create_collection("levels", embedding_function=None)
        made.add(["a"], [[0.0]], wait="applied")

    async def ask() -> list[list[str]]:
        async with AsyncPersistentClient(tmp_path, compact=False) as client:
            made = await client.get_collection("levels", embedding_function=None)
            await made.add(["b"], [[0.0]])
            levels = [ReadLevel.INDEX_ONLY, ReadLevel.INDEX_AND_WAL] * 8
            found = await asyncio.gather(*(made.query([[0.0]], read_level=level) for level in levels))
            return [sorted(item["ids"][0]) for item in found]

    assert asyncio.run(ask()) == [["a"], ["a", "b"]] * 8


@pytest.mark.anyio
async def test_a_read_that_waits_for_an_lsn_ends_when_its_process_stops(tmp_path: Path) -> None:
    """It held up the stop of a server for as long as requests may go on."""
    clock = ManualClock()
    async with engine_at(tmp_path, UNWATCHED, clock=clock) as engine:
        reading = await read_of_the_next_lsn(engine)
        await clock.round(LOOK_SECONDS)
        assert not reading.done()
        engine.progress.stop()
        await clock.advance(LOOK_SECONDS)
        with pytest.raises(UnavailableError, match="stopping"):
            await soon(reading)
