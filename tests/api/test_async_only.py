"""Promises that make sense only for async clients."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest
from tests.api.raw_server import HEARTBEAT, RawServer, answer

from chroma_async import AsyncEphemeralClient, AsyncHttpClient, AsyncPersistentClient, errors

pytestmark = pytest.mark.anyio

IDENTITY = answer(200, '{"user_id": "", "tenant": "default_tenant", "databases": []}')
TENANT = answer(200, '{"name": "default_tenant"}')
DATABASE = answer(200, '{"id": "1", "name": "default_database", "tenant": "default_tenant"}')


def slow(texts: list[str]) -> list[list[float]]:
    time.sleep(0.3)
    return [[1.0, 2.0] for _ in texts]


async def test_a_constructor_sends_nothing() -> None:
    with RawServer(HEARTBEAT) as server:
        AsyncHttpClient("127.0.0.1", server.port)
        await anyio.sleep(0.05)
        assert server.requests == []


async def test_awaiting_a_client_connects_it() -> None:
    with RawServer(IDENTITY, TENANT, DATABASE) as server:
        client = await AsyncHttpClient("127.0.0.1", server.port)
        assert isinstance(client, AsyncHttpClient)
        assert len(server.requests) == 3
        await client.close()


async def test_a_client_connects_at_its_first_call_and_only_once() -> None:
    with RawServer(IDENTITY, TENANT, DATABASE, answer(200, "5")) as server:
        client = AsyncHttpClient("127.0.0.1", server.port)
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(client.count_collections)
        await client.aclose()
    assert [request.target.rpartition("/")[2] for request in server.requests[:3]] == [
        "identity",
        "default_tenant",
        "default_database",
    ]
    assert len(server.requests) == 3 + 5


async def test_a_client_that_cannot_connect_leaves_nothing_open() -> None:
    with RawServer(answer(404, '{"error": "NotFoundError", "message": "Tenant [x] not found"}')) as server:
        with pytest.raises(errors.NotFoundError, match="Tenant"):
            await AsyncHttpClient("127.0.0.1", server.port)
        with pytest.raises(errors.NotFoundError, match="Tenant"):
            async with AsyncHttpClient("127.0.0.1", server.port):
                raise AssertionError("unreachable")


async def test_a_slow_embedding_function_does_not_stop_the_loop() -> None:
    async with AsyncEphemeralClient() as client:
        collection = await client.create_collection("slow", embedding_function=slow)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await anyio.sleep(0.01)
                ticks += 1

        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            await collection.add("a", documents="text")
            group.cancel_scope.cancel()
        assert ticks >= 10


async def test_an_engine_may_be_opened_by_one_task_and_closed_by_another(tmp_path: Path) -> None:
    client = AsyncPersistentClient(tmp_path / "data")
    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(client.create_collection, f"from-task-{number}")
    assert await client.count_collections() == 8
    await asyncio.create_task(client.aclose())


async def test_a_cancelled_call_leaves_the_client_usable(tmp_path: Path) -> None:
    async with AsyncPersistentClient(tmp_path / "data") as client:
        with anyio.move_on_after(0):
            await client.create_collection("maybe")
        await client.create_collection("surely")
        assert "surely" in {found.name for found in await client.list_collections()}


async def test_a_cancelled_opening_does_not_spoil_the_next(tmp_path: Path) -> None:
    client = AsyncPersistentClient(tmp_path / "data")
    with anyio.move_on_after(0):
        await client.heartbeat()
    assert await client.heartbeat() > 0
    await client.aclose()


async def test_a_directory_that_cannot_be_opened_says_so_each_time(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, not a directory")
    client = AsyncPersistentClient(tmp_path / "data")
    for _ in range(2):
        with pytest.raises((OSError, ValueError, errors.FormatError)):
            await client.heartbeat()
    await client.aclose()


def test_a_client_goes_on_in_another_event_loop() -> None:
    with RawServer(HEARTBEAT) as server:
        client = AsyncHttpClient("127.0.0.1", server.port)
        assert asyncio.run(client.heartbeat()) == 7
        assert asyncio.run(client.heartbeat()) == 7
        asyncio.run(client.aclose())


async def embedded_slowly(texts: list[str]) -> list[list[float]]:
    await anyio.sleep(5)
    return [[1.0, 2.0] for _ in texts]


@pytest.mark.parametrize("place", ["in the stream", "when it is left", "from a source"])
async def test_a_deadline_around_a_stream_ends_all_that_it_began(place: str) -> None:
    """In the task of the deadline itself, whose scope is closed right after the stream's."""
    async with AsyncEphemeralClient() as client:
        collection = await client.create_collection("late", embedding_function=embedded_slowly)
        before = asyncio.all_tasks()
        with anyio.move_on_after(0.2) as scope:
            if place == "from a source":
                await collection.ingest_from([{"id": f"{number}", "document": "x"} for number in range(1000)])
            else:
                async with collection.ingest() as stream:
                    await stream.add(["a"], documents=["x"])
                    if place == "in the stream":
                        await anyio.sleep(5)
        assert scope.cancelled_caught
        assert asyncio.all_tasks() == before
        assert await collection.count() == 0


async def test_an_ingest_that_is_cancelled_ends_at_once_and_goes_on_later() -> None:
    class Endless:
        def __init__(self) -> None:
            self.given = 0

        def __iter__(self) -> Iterator[dict[str, object]]:
            while True:
                self.given += 1
                yield {"id": f"i{self.given}", "embedding": [self.given, 1.0]}

    def silent() -> Iterator[dict[str, object]]:
        yield {"id": "only", "embedding": [0.0, 1.0]}
        waits.wait(30)

    waits = threading.Event()
    async with AsyncEphemeralClient() as client:
        collection = await client.create_collection("cancelled", embedding_function=None)
        async with anyio.create_task_group() as group:
            group.start_soon(partial(collection.ingest_from, Endless(), stream_id="endless"))
            while not await collection.count():
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        async with anyio.create_task_group() as group:
            group.start_soon(partial(collection.ingest_from, silent(), linger_seconds=0.01))
            while not (await collection.get("only", include=[]))["ids"]:
                await anyio.sleep(0.01)
            began = time.monotonic()
            group.cancel_scope.cancel()
        assert time.monotonic() - began < 5
        waits.set()
        async with collection.ingest(stream_id="endless") as stream:
            assert stream.position > 0
            await stream.add("last", [1.0, 2.0])
        assert await collection.count() == stream.position + 1


def test_an_embedded_client_says_that_it_lives_in_one_event_loop(tmp_path: Path) -> None:
    client = AsyncPersistentClient(tmp_path)
    assert asyncio.run(client.count_collections()) == 0
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the event loop that opened it"):
            asyncio.run(client.count_collections())
    asyncio.run(client.aclose())


async def test_an_embedded_client_is_not_used_from_another_thread_s_event_loop() -> None:
    async with AsyncEphemeralClient() as client:
        for work in (client.count_collections, client.aclose):
            with pytest.raises(RuntimeError, match="the event loop that opened it"):
                await asyncio.to_thread(lambda work=work: asyncio.run(work()))
        assert await client.count_collections() == 0


async def test_an_ingest_that_fails_closes_its_source() -> None:
    closed: list[str] = []

    async def rows() -> AsyncIterator[dict[str, object]]:
        try:
            for number in range(100_000):
                yield {"id": f"i{number}", "embedding": [1.0] * (2 if number < 10 else 3)}
        finally:
            await asyncio.sleep(0)
            closed.append("rows")

    async with AsyncEphemeralClient() as client:
        collection = await client.create_collection("failing", embedding_function=None)
        with pytest.raises(errors.InvalidArgumentError):
            await collection.ingest_from(rows(), on_error="stop")
        assert closed == ["rows"]


def test_an_embedded_client_says_that_it_needs_asyncio() -> None:
    """Driven by hand, as under any other event loop; the parts above its transport know others too."""
    opening = AsyncEphemeralClient().transport.open()
    with pytest.raises(RuntimeError, match="needs asyncio's event loop; under trio use AsyncHttpClient"):
        opening.send(None)


@pytest.mark.parametrize("client", [AsyncEphemeralClient, AsyncHttpClient])
@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
def test_a_client_says_that_it_can_not_be_copied(client: Callable[[], object], copied: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match="can't be copied or pickled; make another one"):
        copied(client())
