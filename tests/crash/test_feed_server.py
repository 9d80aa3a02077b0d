"""Feeds of a real server: of several workers, killed and started again, with consumers that are slow, and at its end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.crash.test_server_processes import Server
from tests.support.waiting import wait_until

from chroma_async import AsyncCollection, AsyncHttpClient, Change, ClientAPI, HttpClient, Mirror
from chroma_async.errors import GoneError, RateLimitError, ServerUnreachableError

EVERYTHING: Any = ("documents", "embeddings", "metadatas", "uris")
BASE = "/api/v2/tenants/default_tenant/databases/default_database"


Start = Callable[..., Server]
Connect = Callable[[Server], ClientAPI]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Server] = []

    def start_server(*options: str) -> Server:
        started.append(Server(tmp_path, *options))
        return started[-1]

    yield start_server
    for server in started:
        server.clean_up()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Clients that are closed after the test."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(HttpClient(server.url))


async def write_at_random(collection: AsyncCollection, name: str, writes: int, pause: float = 0.0) -> list[int]:
    """Write in every way, with ids that other writers write too; return the LSNs."""
    dice, rng = random.Random(name), np.random.default_rng(abs(hash(name)) % 2**32)
    lsns: list[int | None] = []
    for number in range(writes):
        ids = [f"{dice.randrange(200)}" for _ in range(dice.randint(1, 20))]
        vectors = rng.normal(size=(len(ids), 8)).astype(np.float32)
        ids = list(dict.fromkeys(ids))
        vectors = vectors[: len(ids)]
        kind = dice.choice(["add", "upsert", "update", "delete"])
        if kind == "delete":
            lsns.append((await collection.delete(ids=ids[:4])).lsn)  # type: ignore[attr-defined]
        elif kind == "update":
            patches = [{f"f{number % 3}": dice.choice([number, None])} for _ in ids]
            lsns.append((await collection.update(ids=ids, metadatas=patches)).lsn)
        else:
            write = getattr(collection, kind)
            metadatas = [{"writer": name, "number": number} for _ in ids]
            result = await write(ids=ids, embeddings=vectors, documents=[f"{name} {number}"] * len(ids), metadatas=metadatas)
            lsns.append(result.lsn)
        if pause:
            await asyncio.sleep(pause)
    return [lsn for lsn in lsns if lsn is not None]


async def state_of(collection: AsyncCollection) -> dict[str, Any]:
    found: Any = await collection.get(include=["documents", "embeddings", "metadatas", "uris"])
    columns = zip(found["embeddings"], found["documents"], found["metadatas"], found["uris"], strict=True)
    return {key: [tuple(e.tolist()), d, m, u] for key, (e, d, m, u) in zip(found["ids"], columns, strict=True)}


def mirrored(mirror: Mirror) -> dict[str, Any]:
    records = mirror.records.items()
    return {key: [tuple(r.embedding.tolist()), r.document, r.metadata, r.uri] for key, r in records}  # type: ignore[union-attr]


# ---- must be seen


@pytest.mark.parametrize("http_server", ["hypercorn", "uvicorn"])
def test_who_reconnects_at_random_sees_every_change_once_in_order_and_has_the_collection(
    start: Start, http_server: str
) -> None:
    """While 4 writers write to two workers, and the compactor applies and frees."""
    server = start("--workers", "2", "--server", http_server, "--log-retention", "8MB")
    asyncio.run(_reconnect_at_random(server.url))


async def _reconnect_at_random(url: str) -> None:
    dice = random.Random(4)
    seen: list[int] = []
    mirror = Mirror()
    is_done = asyncio.Event()
    connections = 0

    async def follow(collection: AsyncCollection, last: Callable[[], int]) -> None:
        nonlocal connections
        position: str | int = 0
        while not (is_done.is_set() and int(position) >= last()):
            connections += 1
            watch = collection.watch(position, include=EVERYTHING, heartbeats=True, heartbeat_seconds=0.1)
            async with watch, asyncio.timeout(20):
                for _ in range(dice.randint(1, 15)):
                    change = await anext(watch)
                    mirror.apply(change)
                    if change.kind != "heartbeat":
                        seen.append(change.lsn)
                    if is_done.is_set() and int(change.cursor or 0) >= last():
                        break
                position = watch.position or 0

    async with AsyncHttpClient(url) as client:
        collection = await client.create_collection("docs", embedding_function=None)
        written: list[int] = []
        following = asyncio.create_task(follow(collection, lambda: max(written, default=0)))
        for lsns in await asyncio.gather(*(write_at_random(collection, f"w{number}", 60) for number in range(4))):
            written += lsns
        is_done.set()
        await following
        assert seen == sorted(written), "some change was lost, doubled or out of order"
        state = await state_of(collection)
        assert mirrored(mirror) == state
        assert list(mirror.records) == list(state)
        assert connections > 10


def test_what_is_freed_under_a_watcher_is_made_good_by_a_snapshot(start: Start) -> None:
    """A server that keeps nothing, and a watcher that is away again and again."""
    server = start("--workers", "2", "--log-retention", "off")

    async def play() -> None:
        async with AsyncHttpClient(server.url) as client:
            collection = await client.create_collection("docs", embedding_function=None)
            mirror, kinds = Mirror(), set[str]()
            position: str | None = None
            for number in range(6):
                await write_at_random(collection, f"w{number}", 15)
                await collection.flush()
                last = (await collection.upsert(ids=["last"], embeddings=[[float(number)] * 8])).lsn
                watch = collection.watch(
                    position,
                    snapshot=position is None,
                    include=EVERYTHING,
                    on_gone="snapshot",
                    heartbeats=True,
                    heartbeat_seconds=0.1,
                )
                async with watch, asyncio.timeout(30):
                    async for change in watch:
                        mirror.apply(change)
                        kinds.add(change.kind)
                        if change.cursor is not None and int(change.cursor) >= (last or 0):
                            break
                position = watch.position
                assert mirrored(mirror) == await state_of(collection)
            assert "snapshot_end" in kinds
            with pytest.raises(GoneError):
                await anext(collection.watch(3))

    asyncio.run(play())


def test_a_watcher_outlives_the_server(start: Start, tmp_path: Path) -> None:
    """It is killed, and started again, three times; the watcher is one loop that never notices."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    async def play() -> None:
        server = start("--workers", "2", "--port", str(port), "--log-retention", "1GB")
        async with AsyncHttpClient(server.url) as client:
            collection = await client.create_collection("docs", embedding_function=None)
            mirror, seen = Mirror(), list[int]()
            last: int | None = None

            async def follow() -> None:
                async for change in collection.watch(0, include=EVERYTHING, heartbeats=True, heartbeat_seconds=0.2):
                    mirror.apply(change)
                    if change.kind != "heartbeat":
                        seen.append(change.lsn)
                    if last is not None and change.lsn >= last:
                        return

            following = asyncio.create_task(follow())
            written: list[int] = []
            for _ in range(3):
                written += await write_at_random(collection, f"life {len(written)}", 20)
                os.killpg(server.process.pid, signal.SIGKILL)
                server.process.wait()
                server.clean_up()
                server = await asyncio.to_thread(start, "--workers", "2", "--port", str(port), "--log-retention", "1GB")
            written += await write_at_random(collection, "the end", 20)
            last = max(written)
            async with asyncio.timeout(30):
                await following
            assert seen == written
            assert mirrored(mirror) == await state_of(collection)

    asyncio.run(play())


def test_a_watcher_gives_up_when_the_server_stays_away(start: Start, connect: Connect) -> None:
    server = start("--workers", "1")
    client = connect(server)
    collection = client.create_collection("docs", embedding_function=None)
    watch = collection.watch(0, heartbeats=True, heartbeat_seconds=0.2, reconnect_seconds=1.0)
    assert next(watch).kind == "heartbeat"
    server.stop()
    began = time.monotonic()
    with pytest.raises(ServerUnreachableError):
        list(watch)
    assert time.monotonic() - began < 10


# ---- slow consumers, and many


def rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError(pid)


def ask(port: int, path: str, accept: str = "*/*") -> socket.socket:
    """Ask for a feed on a connection of its own, with little room for what comes."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n".encode())
    return connection


@pytest.mark.parametrize("http_server", ["hypercorn", "uvicorn"])
def test_consumers_that_take_nothing_hold_no_memory_and_nobody_up(start: Start, connect: Connect, http_server: str) -> None:
    server = start("--workers", "1", "--server", http_server, "--log-retention", "1GB", "--metrics")
    (pid,) = server.pids("worker")
    client = connect(server)
    collection = client.create_collection("docs", embedding_function=None)
    vectors = np.random.default_rng(1).normal(size=(500, 384)).astype(np.float32)

    def write(count: int) -> None:
        for number in range(count):
            collection.upsert(ids=[f"{number}-{row}" for row in range(500)], embeddings=vectors)

    write(10)
    path = f"{BASE}/collections/{collection.id}/changes?after=0&include=embeddings"
    slow = [ask(server.port, path) for _ in range(20)]
    assert b"200" in slow[0].recv(100)
    wait_until(lambda: "chroma_async_feeds 20.0" in httpx.get(server.url + "/metrics").text)
    time.sleep(1)
    before = rss_bytes(pid)
    began = time.monotonic()
    write(60)  # 46 MB of vectors; 1.2 GB for all who listen
    assert time.monotonic() - began < 60
    time.sleep(1)
    grown = rss_bytes(pid) - before
    assert grown < 150 * 2**20, f"grown by {grown / 2**20:.0f} MiB"
    assert collection.count() == 60 * 500
    for connection in slow:
        connection.close()
    wait_until(lambda: "chroma_async_feeds 0.0" in httpx.get(server.url + "/metrics").text)


def test_there_are_no_more_feeds_than_there_may_be(start: Start, connect: Connect) -> None:
    server = start("--workers", "1", "--feeds-max", "2", "--metrics")
    client = connect(server)
    collection = client.create_collection("docs", embedding_function=None)
    with collection.watch(), collection.watch():
        assert "chroma_async_feeds 2.0" in httpx.get(server.url + "/metrics").text
        refused = httpx.get(f"{server.url}{BASE}/collections/{collection.id}/changes")
        assert (refused.status_code, refused.json()["error"]) == (429, "RateLimitError")
        assert "feeds_max=2" in refused.json()["message"]
        assert "retry-after" in refused.headers
        with pytest.raises(RateLimitError):
            next(collection.watch(0, reconnect_seconds=0.2))
    wait_until(lambda: "chroma_async_feeds 0.0" in httpx.get(server.url + "/metrics").text)
    assert "chroma_async_feeds_ended_total" in httpx.get(server.url + "/metrics").text
    with collection.watch(heartbeats=True) as watch:
        next(watch)


# ---- the end of the server


@pytest.mark.parametrize("http_server", ["hypercorn", "uvicorn"])
def test_a_server_that_stops_ends_its_feeds_at_once(start: Start, connect: Connect, http_server: str) -> None:
    """Those that wait, by a proper end; those that take nothing, too."""
    server = start("--workers", "2", "--server", http_server, "--log-retention", "1GB")
    collection = connect(server).create_collection("docs", embedding_function=None)
    path = f"{BASE}/collections/{collection.id}/changes"
    for number in range(20):
        collection.upsert(ids=[f"{row}" for row in range(500)], embeddings=np.full((500, 384), number, np.float32))
    slow = ask(server.port, path + "?after=0&include=embeddings")
    waiting = ask(server.port, path)
    assert b"retry" in _read_until(waiting, b"retry")
    time.sleep(0.5)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 6
    rest = _read_until(waiting, b"0\r\n\r\n")
    assert rest.endswith(b"0\r\n\r\n"), rest
    slow.close()
    waiting.close()


def _read_until(connection: socket.socket, mark: bytes) -> bytes:
    received = b""
    while mark not in received:
        data = connection.recv(65536)
        if not data:
            break
        received += data
    return received


# ---- the wire


@pytest.mark.parametrize("http_server", ["hypercorn", "uvicorn"])
def test_a_browser_goes_on_after_the_last_event_id(start: Start, connect: Connect, http_server: str) -> None:
    server = start("--workers", "1", "--server", http_server)
    collection = connect(server).create_collection("docs", embedding_function=None)
    for name in ("a", "b", "c"):
        collection.add(ids=[name], embeddings=[[1.0]], documents=["line\none"])
    url = f"{server.url}{BASE}/collections/{collection.id}/changes?snapshot=true&include=documents"
    first = _events(url, 5)
    assert [event["kind"] for event in first] == ["snapshot_begin", "snapshot", "snapshot_end"]
    assert [event.get("id") for event in first] == [None, None, str(first[0]["lsn"])]
    assert first[1]["documents"] == ["line\none"] * 3
    collection.delete(ids=["a"])
    collection.delete(ids=["b"])
    again = _events(url, 2, first[2]["id"])
    assert [(event["kind"], event["ids"]) for event in again] == [("delete", ["a"]), ("delete", ["b"])]
    assert [event["id"] for event in again] == [str(event["lsn"]) for event in again]


def _events(url: str, count: int, last_event_id: str | None = None) -> list[dict[str, Any]]:
    """Read events as the HTML standard says, the next ones until that many or a heartbeat after the first event."""
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    found: list[dict[str, Any]] = []
    with httpx.stream("GET", url + "&heartbeat=0.3", headers=headers, timeout=10) as response:
        assert response.headers["content-type"] == "text/event-stream"
        data, event_id = "", None
        for line in response.iter_lines():
            if line.startswith("data:"):
                data += line[5:].strip()
            elif line.startswith("id:"):
                event_id = line[3:].strip()
            elif not line and data:
                found.append(json.loads(data) | ({} if event_id is None else {"id": event_id}))
                data, event_id = "", None
            elif not line:
                if found and event_id is not None:
                    break
                event_id = None
            if len(found) >= count:
                break
    return found


def test_http_2_carries_feeds_beside_other_requests(start: Start, connect: Connect) -> None:
    server = start("--workers", "1")
    collection = connect(server).create_collection("docs", embedding_function=None)
    path = f"{BASE}/collections/{collection.id}"
    with (
        httpx.Client(base_url=server.url, http1=False, http2=True, timeout=10) as client,
        client.stream("GET", path + "/changes?after=0", headers={"accept": "application/x-ndjson"}) as response,
    ):
        assert (response.http_version, response.headers["content-type"]) == ("HTTP/2", "application/x-ndjson")
        lines = response.iter_lines()
        assert json.loads(next(lines))["kind"] == "heartbeat"
        for number in range(3):
            assert client.post(path + "/add", json={"ids": [f"{number}"], "embeddings": [[1]]}).status_code == 201
            change = json.loads(next(lines))
            assert (change["kind"], change["ids"]) == ("add", [f"{number}"])


def test_refusals_are_ordinary_answers(start: Start, connect: Connect) -> None:
    server = start("--workers", "1")
    collection = connect(server).create_collection("docs", embedding_function=None)
    url = f"{server.url}{BASE}/collections/{collection.id}/changes"
    for query, status, error in (
        ("?after=77", 410, "GoneError"),
        ("?after=x", 400, "InvalidArgumentError"),
        ("?include=nothing", 400, "InvalidArgumentError"),
        ("?where={", 400, "InvalidArgumentError"),
        ("?snapshot=maybe", 400, "InvalidArgumentError"),
    ):
        answer = httpx.get(url + query)
        assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text
    assert httpx.get(url.replace(str(collection.id), "00000000-0000-4000-8000-000000000000")).status_code == 404
    assert httpx.get(f"{server.url}{BASE.replace('default_database', 'nowhere')}/changes").status_code == 404
    head = httpx.head(url)
    assert (head.status_code, head.headers["content-type"], head.content) == (200, "text/event-stream", b"")


def test_a_deleted_collection_ends_its_feed_with_a_last_change_and_a_proper_end(start: Start, connect: Connect) -> None:
    server = start("--workers", "2")
    client = connect(server)
    collection = client.create_collection("docs", embedding_function=None)
    changes: list[Change] = []
    with collection.watch(0) as watch:
        collection.add(ids=["a"], embeddings=[[1.0]])
        assert next(watch).kind == "add"
        client.delete_collection("docs")
        changes += watch
    assert [change.kind for change in changes] == ["collection_deleted"]
    with suppress(StopIteration):
        next(watch)
        raise AssertionError
