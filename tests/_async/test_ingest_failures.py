"""What a stream makes of servers that refuse, fall silent, forget, or are slow."""

from __future__ import annotations

import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pytest
from tests.api.raw_server import RawServer, Reply, Request, answer, fault, reset

from chroma_async import AsyncCollection, AsyncHttpClient, AsyncIngestStream, errors
from chroma_async.client._async.http import AsyncHttpTransport
from chroma_async.client.address import parse_address
from chroma_async.client.colours import AsyncCaller
from chroma_async.client.retry import RetryPolicy
from chroma_async.model import Collection as Model
from chroma_async.model import CollectionId
from chroma_async.protocol.ingest import ARROW, NDJSON

pytestmark = pytest.mark.anyio

UUID = "6b8ff5a8-3c8e-4b4e-9d3b-0f1a2b3c4d5e"


def acknowledgement(position: int) -> Reply:
    return answer(200, json.dumps({"position": position, "lsn": position + 100, "done": True}) + "\n")


def query(request: Request) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(request.target).query).items()}


def collection_at(server: RawServer) -> AsyncCollection:
    transport = AsyncHttpTransport(
        parse_address("127.0.0.1", server.port),
        headers={},
        timeout=httpx.Timeout(20.0),
        retry=RetryPolicy(retries=0),
        limits=httpx.Limits(),
    )
    model = Model(CollectionId(UUID), "docs", "default_tenant", "default_database")
    return AsyncCollection(transport, AsyncCaller(), model, embedding_function=None)


async def test_a_server_without_arrow_gets_ndjson() -> None:
    refusal = fault(415, "ChromaError", "a stream is sent as application/x-ndjson")
    with RawServer(refusal, acknowledgement(2), acknowledgement(3)) as server:
        async with collection_at(server).ingest() as stream:
            await stream.upsert(["a", "b"], [[1, 2], [3, 4]], [{"x": 1}, None])
            await stream.flush()
            await stream.delete("a")
        kinds = [request.headers["content-type"] for request in server.requests]
        assert kinds == [ARROW, NDJSON, NDJSON]
        assert [query(request)["position"] for request in server.requests] == ["0", "0", "2"]
        lines = [json.loads(line) for line in server.requests[1].body.splitlines()]
        assert lines[0] == {"id": "a", "embedding": "AACAPwAAAEA=", "metadata": {"x": 1}}
        assert json.loads(server.requests[2].body) == {"id": "a", "op": "delete"}
    assert (stream.position, stream.lsn) == (3, 103)


async def test_a_part_that_is_too_large_is_sent_in_halves() -> None:
    refusal = fault(413, "ChromaError", "too large")
    with RawServer(refusal, refusal, acknowledgement(1), acknowledgement(2), acknowledgement(4)) as server:
        async with collection_at(server).ingest() as stream:
            await stream.upsert(["a", "b", "c", "d"], np.ones((4, 2)))
        assert [query(request)["position"] for request in server.requests] == ["0", "0", "0", "1", "2"]
    assert stream.position == 4


async def test_a_part_without_an_answer_is_sent_again_as_it_was() -> None:
    refusals = [reset, fault(503, "ChromaError", "stopping"), fault(507, "InsufficientStorageError", "no room")]
    with RawServer(*refusals, acknowledgement(1)) as server:
        async with collection_at(server).ingest() as stream:
            await stream.upsert("a", [1, 2])
        assert len(server.requests) == 4
        assert len({(request.target, request.body) for request in server.requests}) == 1
    assert stream.position == 1


async def test_an_answer_that_ends_early_is_no_answer() -> None:
    half = answer(200, '{"position": 1, "lsn": 5}\n')
    with RawServer(half, acknowledgement(2)) as server:
        async with collection_at(server).ingest() as stream:
            await stream.upsert(["a", "b"], [[1, 2], [3, 4]])
        assert len(server.requests) == 2
    assert stream.position == 2


@pytest.mark.parametrize(
    ("status", "name", "kind"),
    [
        (409, "StreamTakenError", errors.StreamTakenError),
        (409, "StreamGapError", errors.StreamGapError),
        (404, "NotFoundError", errors.NotFoundError),
        (403, "AuthError", errors.ChromaAuthError),
    ],
)
async def test_what_another_attempt_can_not_help_is_told_at_once(
    status: int, name: str, kind: type[errors.ChromaError]
) -> None:
    with RawServer(fault(status, name, "what happened")) as server:
        stream = collection_at(server).ingest()

        async def send() -> None:
            async with stream:
                await stream.upsert("a", [1, 2])
                await stream.flush()

        with pytest.raises(kind, match="what happened"):
            await send()
        assert len(server.requests) == 1
    assert stream.position == 0


async def test_a_server_without_streams_is_told_from_one_that_is_away() -> None:
    with RawServer(answer(404)) as server:
        for stream_id in (None, "named"):
            stream = collection_at(server).ingest(stream_id=stream_id)

            async def send(stream: AsyncIngestStream = stream) -> None:
                async with stream:
                    await stream.upsert("a", [1, 2])

            with pytest.raises(errors.UnimplementedError, match="takes no streams"):
                await send()
        assert len(server.requests) == 2


async def test_retries_end_after_the_time_that_is_given() -> None:
    with RawServer(fault(503, "ChromaError", "stopping")) as server:
        stream = collection_at(server).ingest(retry_seconds=0.5)

        async def send() -> None:
            async with stream:
                await stream.upsert("a", [1, 2])

        began = time.monotonic()
        with pytest.raises(errors.ChromaError, match="stopping"):
            await send()
        assert 0.5 <= time.monotonic() - began < 10
        assert len(server.requests) >= 2


async def test_errors_of_a_line_are_told_once_however_often_it_is_sent() -> None:
    bad = {"line": 1, "message": "not good", "error": "InvalidArgumentError"}
    done = answer(200, json.dumps({"position": 3, "lsn": 9, "errors": [bad], "done": True}))
    with RawServer(reset, done) as server:
        stream = collection_at(server).ingest()
        async with stream:
            await stream.upsert(["a", "b", "c"], np.ones((3, 2)))
    assert [(error.line, error.message) for error in stream.errors] == [(1, "not good")]
    assert stream.bad_lines == 1


class SlowServer:
    """Says how many lines it got, as a server would, but holds its first answer back until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.server = RawServer(self.reply)

    def reply(self, peer: socket.socket) -> None:
        request = self.server.requests[-1]
        if request.headers["content-type"] == ARROW:
            fault(415, "ChromaError", "no")(peer)
            return
        self.go.wait(20)
        position = int(query(request)["position"]) + request.body.count(b"\n")
        object.__setattr__(request, "body", b"")  # what was received is not what the client holds
        acknowledgement(position)(peer)


def counted(count: int, taken: list[int]) -> Iterator[dict[str, Any]]:
    vector = np.ones(1024, dtype=np.float32)
    for number in range(count):
        taken[0] = number
        yield {"id": f"i{number}", "embedding": vector + np.float32(number % 7)}


async def test_a_slow_server_slows_the_source_down() -> None:
    taken, stopped_at = [0], list[int]()
    slow = SlowServer()

    def watch() -> None:
        before = -1
        while taken[0] != before or not before:
            before = taken[0]
            time.sleep(0.5)
        stopped_at.append(before)
        slow.go.set()

    watcher = threading.Thread(target=watch)
    with slow.server as server:
        watcher.start()
        report = await collection_at(server).ingest_from(counted(20_000, taken))
        watcher.join()
    assert report.position == 20_000
    assert 500 < stopped_at[0] < 8_000


async def peak_bytes(client: AsyncHttpClient, count: int) -> int:
    collection = await client.create_collection(f"flat-{count}", embedding_function=None)
    tracemalloc.start()
    report = await collection.ingest_from(counted(count, [0]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.position == count
    await client.delete_collection(collection.name)
    return peak


async def test_memory_does_not_grow_with_the_length_of_a_source(server_url: str) -> None:
    async with AsyncHttpClient(server_url) as client:
        await peak_bytes(client, 1_000)
        assert await peak_bytes(client, 20_000) < 48 * 2**20  # of 80 that were sent
