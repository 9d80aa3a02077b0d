"""Following changes, the same whichever way a client reaches its engine."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from chroma_async import AsyncClientAPI, AsyncCollection, Change, Mirror
from chroma_async.errors import GoneError, InvalidArgumentError, NotFoundError

pytestmark = pytest.mark.anyio

EVERYTHING: Any = ("documents", "embeddings", "metadatas", "uris")


@pytest.fixture
async def letters(client: AsyncClientAPI) -> AsyncCollection:
    return await client.create_collection(f"letters-{uuid4()}", embedding_function=None)


async def take(watch: Any, count: int) -> list[Change]:
    return [await watch.__anext__() for _ in range(count)]


async def test_a_watch_that_was_entered_misses_nothing_from_then_on(letters: AsyncCollection) -> None:
    await letters.add(ids=["before"], embeddings=[[1.0, 2.0]])
    async with letters.watch() as watch:
        written = await letters.add(ids=["a", "b"], embeddings=[[1.0, 2.0], [3.0, 4.0]], documents=["A", None])
        await letters.delete(ids=["a"])
        added, deleted = await take(watch, 2)
        assert (added.kind, added.lsn, added.ids, added.documents) == ("add", written.lsn, ["a", "b"], ["A", None])
        assert (deleted.kind, deleted.ids, deleted.documents) == ("delete", ["a"], None)
        assert added.embeddings is None
        assert watch.position == str(deleted.lsn)


async def test_a_watch_goes_on_where_another_one_was(letters: AsyncCollection) -> None:
    for name in "abc":
        await letters.add(ids=[name], embeddings=[[1.0]])
    async with letters.watch(0) as watch:
        (first,) = await take(watch, 1)
        assert first.ids == ["a"]
    async with letters.watch(watch.position) as watch:
        assert [change.ids for change in await take(watch, 2)] == [["b"], ["c"]]
    async with letters.watch(first.lsn) as watch:
        assert [change.ids for change in await take(watch, 2)] == [["b"], ["c"]]


async def test_a_mirror_follows_the_collection_from_a_snapshot(letters: AsyncCollection) -> None:
    await letters.add(ids=["a", "b", "c"], embeddings=np.eye(3), documents=["A", "B", None], uris=["u", None, None])
    mirror = Mirror()
    async with letters.watch(snapshot=True, include=EVERYTHING, heartbeats=True, heartbeat_seconds=0.1) as watch:
        assert (await take(watch, 1))[0].kind == "snapshot_begin"
        await letters.update(ids=["a", "nobody"], metadatas=[{"n": 1, "m": 2}, {"n": 1}])
        await letters.upsert(ids=["b", "d"], embeddings=2 * np.eye(3)[:2], metadatas=[{"k": [1, 2]}, {"n": 3}])
        await letters.add(ids=["a"], embeddings=[[9.0, 9.0, 9.0]], documents=["ignored"])
        await letters.update(ids=["a"], metadatas=[{"m": None}])
        await letters.delete(ids=["c"])
        last = (await letters.upsert(ids=["d"], embeddings=[[0.0, 0.0, 1.0]])).lsn
        async for change in watch:
            mirror.apply(change)
            if mirror.is_whole and change.cursor is not None and int(change.cursor) >= (last or 0):
                break
    found: Any = await letters.get(include=["documents", "embeddings", "metadatas", "uris"])
    assert list(mirror.records) == found["ids"] == ["a", "b", "d"]
    records = mirror.records.values()
    assert np.array_equal([record.embedding for record in records], found["embeddings"])  # type: ignore[misc]
    assert [record.document for record in records] == found["documents"]
    assert [record.metadata for record in records] == found["metadatas"]
    assert [record.uri for record in records] == found["uris"]


async def test_what_is_watched_can_be_chosen(letters: AsyncCollection) -> None:
    await letters.add(ids=["a", "b"], embeddings=[[1.0], [2.0]], metadatas=[{"n": 1}, {"n": 2}])
    await letters.update(ids=["a"], metadatas=[{"n": 2}])
    await letters.delete(ids=["b"])
    async with letters.watch(0, where={"n": 2}, kinds=["add", "delete"], include=["metadatas"]) as watch:
        added, deleted = await take(watch, 2)
    assert (added.ids, added.metadatas, added.documents) == (["b"], [{"n": 2}], None)
    assert deleted.ids == ["b"]


async def test_a_database_tells_of_its_collections(client: AsyncClientAPI) -> None:
    name = f"watched-{uuid4()}"
    async with client.watch() as watch:
        made = await client.create_collection(name, embedding_function=None)
        await made.add(ids=["a"], embeddings=[[1.0]])
        await client.delete_collection(name)
        found = [change for change in await take(watch, 3) if change.collection == str(made.id)]
    assert [(change.kind, change.name) for change in found] == [
        ("collection_created", name),
        ("add", name),
        ("collection_deleted", name),
    ]
    async with client.watch(found[0].cursor) as watch:
        following = await take(watch, 1)
    assert following[0].lsn > found[0].lsn


async def test_a_watch_ends_with_its_collection(client: AsyncClientAPI, letters: AsyncCollection) -> None:
    async with letters.watch() as watch:
        await letters.add(ids=["a"], embeddings=[[1.0]])
        assert [change.kind for change in await take(watch, 1)] == ["add"]
        await client.delete_collection(letters.name)
        assert [change.kind async for change in watch] == ["collection_deleted"]
        assert [change.kind async for change in watch] == []


async def test_a_watch_that_was_closed_is_over(letters: AsyncCollection) -> None:
    watch = letters.watch(0)
    await letters.add(ids=["a"], embeddings=[[1.0]])
    await take(watch, 1)
    await watch.aclose()
    await watch.aclose()
    assert [change.kind async for change in watch] == []


async def test_heartbeats_come_when_asked_for(letters: AsyncCollection) -> None:
    async with letters.watch(heartbeats=True, heartbeat_seconds=0.1) as watch:
        assert [change.kind for change in await take(watch, 3)] == ["heartbeat"] * 3


async def test_refusals_are_raised(client: AsyncClientAPI, letters: AsyncCollection) -> None:
    for watch, error in (
        (letters.watch(2**40), GoneError),
        (letters.watch("x"), InvalidArgumentError),
        (letters.watch(kinds=["replace"]), InvalidArgumentError),  # type: ignore[list-item]
        (client.watch("5"), InvalidArgumentError),
    ):
        with pytest.raises(error):
            await watch.__anext__()
    await client.delete_collection(letters.name)
    with pytest.raises(NotFoundError):
        await letters.watch().__anext__()


async def test_a_position_that_is_gone_is_made_good_by_a_snapshot(letters: AsyncCollection) -> None:
    await letters.add(ids=["a"], embeddings=[[1.0]])
    async with letters.watch(2**40, on_gone="snapshot") as watch:
        assert [change.kind for change in await take(watch, 3)] == ["snapshot_begin", "snapshot", "snapshot_end"]
        await letters.delete(ids=["a"])
        assert [change.ids for change in await take(watch, 1)] == [["a"]]
