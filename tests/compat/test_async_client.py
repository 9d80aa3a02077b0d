"""The main journey again, with Chroma's asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.api import AsyncClientAPI
from chromadb.errors import ChromaError, NotFoundError
from tests.compat.wire import unique_name

Journey = Callable[[AsyncClientAPI], Awaitable[None]]
Travel = Callable[[Journey], None]


@pytest.fixture
def travel(address: tuple[str, int], settings: chromadb.Settings) -> Travel:
    """Runs a coroutine function with a connected client, in an event loop of its own."""

    @asynccontextmanager
    async def connected() -> AsyncIterator[AsyncClientAPI]:
        client: Any = await chromadb.AsyncHttpClient(host=address[0], port=address[1], settings=settings)
        async with client._server:  # the client itself offers no way to close its connections
            yield client

    async def run(journey: Journey) -> None:
        async with connected() as client:
            await journey(client)

    return lambda journey: asyncio.run(run(journey))


def test_async_client_connects_and_asks_the_server_about_itself(travel: Travel) -> None:
    async def journey(client: AsyncClientAPI) -> None:
        assert await client.heartbeat() > 0
        assert isinstance(await client.get_version(), str)
        assert await client.get_max_batch_size() >= 5461
        assert (await client.get_user_identity()).tenant == "default_tenant"

    travel(journey)


def test_async_client_manages_collections(travel: Travel) -> None:
    async def journey(client: AsyncClientAPI) -> None:
        name = unique_name()
        created = await client.create_collection(
            name, metadata={"v": 1}, configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
        )
        with pytest.raises(ChromaError, match="already exists"):
            await client.create_collection(name)
        assert (await client.get_or_create_collection(name, embedding_function=None)).id == created.id
        assert created.configuration_json["hnsw"]["space"] == "cosine"
        assert created.id in [entry.id for entry in await client.list_collections()]
        assert await client.count_collections() >= 1
        await created.modify(name=name + "-new", metadata={"v": 2})
        found = await client.get_collection(name + "-new", embedding_function=None)
        assert (found.id, found.metadata) == (created.id, {"v": 2})
        await client.delete_collection(name + "-new")
        with pytest.raises(NotFoundError, match="does not exist"):
            await client.get_collection(name + "-new")

    travel(journey)


def test_async_client_writes_and_reads_records(travel: Travel) -> None:
    async def journey(client: AsyncClientAPI) -> None:
        docs = await client.create_collection(unique_name(), embedding_function=None)
        await docs.add(
            ids=["a", "b", "c"],
            embeddings=[[1.0, 0.0], [0.0, 1.0], [3.0, 3.0]],
            documents=["red fox", "blue whale", "grey wolf"],
            metadatas=[{"n": 1}, {"n": 2.0}, {"n": True}],
        )
        await docs.upsert(ids=["b", "d"], embeddings=[[0.0, 2.0], [9.0, 9.0]], documents=["blue bird", "green"])
        await docs.update(ids=["a", "ghost"], metadatas=[{"extra": "x"}, {"extra": "y"}])
        assert await docs.count() == 4
        found = await docs.get(include=["embeddings", "documents", "metadatas"])
        assert found["ids"] == ["a", "b", "c", "d"]
        assert found["documents"] == ["red fox", "blue bird", "grey wolf", "green"]
        assert found["metadatas"] == [{"n": 1, "extra": "x"}, {"n": 2.0}, {"n": True}, None]
        assert found["embeddings"] is not None
        assert np.asarray(found["embeddings"]).tolist() == [[1, 0], [0, 2], [3, 3], [9, 9]]
        assert (await docs.get(where={"n": True}))["ids"] == ["c"]
        assert (await docs.get(where_document={"$contains": "blue"}))["ids"] == ["b"]
        assert (await docs.peek(2))["ids"] == ["a", "b"]
        assert await docs.delete(ids=["d"]) == {"deleted": 1}
        assert await docs.delete(where={"n": {"$gte": 2}}) == {"deleted": 1}
        assert (await docs.get())["ids"] == ["a", "c"]

    travel(journey)


def test_async_client_queries(travel: Travel) -> None:
    async def journey(client: AsyncClientAPI) -> None:
        docs = await client.create_collection(unique_name(), embedding_function=None)
        await docs.add(ids=["a", "b"], embeddings=[[1.0, 0.0], [0.0, 1.0]], metadatas=[{"k": 1}, {"k": 2}])
        found = await docs.query(query_embeddings=[[1.0, 0.0], [0.0, 1.0]], n_results=5)
        assert found["ids"] == [["a", "b"], ["b", "a"]]
        assert found["distances"] == [[0.0, 2.0], [0.0, 2.0]]
        filtered = await docs.query(query_embeddings=[[1.0, 0.0]], where={"k": {"$gt": 1}})
        assert filtered["ids"] == [["b"]]

    travel(journey)


def test_concurrent_writes_are_all_visible(travel: Travel) -> None:
    async def journey(client: AsyncClientAPI) -> None:
        docs = await client.create_collection(unique_name(), embedding_function=None)

        async def write_and_read(worker: int) -> None:
            ids = [f"{worker}-{number}" for number in range(20)]
            await docs.add(ids=ids, embeddings=[[float(worker), float(number)] for number in range(20)])
            assert (await docs.get(ids=ids))["ids"] == ids

        await asyncio.gather(*(write_and_read(worker) for worker in range(10)))
        assert await docs.count() == 200

    travel(journey)
