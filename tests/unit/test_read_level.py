"""`index_only` counts what was applied, every other level what was acknowledged."""

import asyncio
import time
from pathlib import Path

import pytest
from tests.support.engines import PATH, create_collection, engine_at

from chroma_async import AsyncPersistentClient, PersistentClient
from chroma_async.client.types import ReadLevel
from chroma_async.errors import UnavailableError
from chroma_async.model import Lsn
from chroma_async.protocol import CountRecords

ROWS = 3


def test_only_index_only_leaves_out_what_waits_to_be_applied(tmp_path: Path) -> None:
    with PersistentClient(tmp_path, compact=False) as client:
        made = client.create_collection("levels", embedding_function=None)
        made.add([str(row) for row in range(ROWS)], [[float(row)] for row in range(ROWS)])
        assert [made.count(level) for level in ReadLevel] == [ROWS, 0, ROWS]
        assert made.get_indexing_status().num_unindexed_ops == ROWS
        with PersistentClient(tmp_path) as other:
            applied = other.get_collection("levels", embedding_function=None)
            deadline = time.monotonic() + 20
            while applied.count(ReadLevel.INDEX_ONLY) < ROWS:
                assert time.monotonic() < deadline
                time.sleep(0.05)
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
    async with AsyncPersistentClient(tmp_path) as client, AsyncPersistentClient(tmp_path, compact=False) as other:
        made = await client.create_collection("levels", embedding_function=None)
        same = await other.get_collection("levels", embedding_function=None)
        reading = asyncio.create_task(same.get(min_lsn=client.lsn + 1, wait_seconds=20))
        await asyncio.sleep(0.1)
        assert not reading.done()
        await made.add(["late"], [[1.0]])
        assert (await reading)["ids"] == ["late"]


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
    async with engine_at(tmp_path) as engine:
        collection = await create_collection(engine)
        call = CountRecords(**PATH, collection_id=collection.id, min_lsn=Lsn(engine.position + 1), wait_seconds=20.0)
        reading = asyncio.create_task(engine.dispatch(call))
        await asyncio.sleep(0.1)
        assert not reading.done()
        engine.progress.stop()
        with pytest.raises(UnavailableError, match="stopping"):
            await asyncio.wait_for(reading, 5)
