"""Connections of clients over HTTP: cancelled calls, forks, and several event loops."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api.serving import serving

from chroma_async import AsyncHttpClient, HttpClient, errors

TURNS = 40
"""In so many turns of the event loop a call is done, about."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("server")) as url:
        yield url


def few(url: str, connections: int = 2) -> AsyncHttpClient:
    """A client that connects for each call, with so many connections at once."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=0)
    return AsyncHttpClient(url, limits=limits, timeout=httpx.Timeout(20, pool=2), retries=0)


async def cancelled_at(turn: int, call: Callable[[], Awaitable[Any]]) -> None:
    task = asyncio.ensure_future(call())
    for _ in range(turn):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.anyio
@pytest.mark.parametrize("is_watching", [False, True])
async def test_a_cancelled_call_costs_no_connection(url: str, is_watching: bool) -> None:
    before = asyncio.all_tasks()
    async with few(url) as client:

        async def watch() -> None:
            async with client.watch() as changes:
                await anext(changes)

        call = watch if is_watching else client.heartbeat
        for turn in [*range(TURNS)] * 4:
            await cancelled_at(turn, call)
        async with asyncio.timeout(10):
            await asyncio.gather(*(client.heartbeat() for _ in range(4)))
    assert asyncio.all_tasks() == before


@pytest.mark.anyio
async def test_a_call_that_waits_for_a_connection_is_cancelled_at_once() -> None:
    before = asyncio.all_tasks()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = few(f"http://127.0.0.1:{silent.getsockname()[1]}", connections=1)
        for _ in range(3):
            began = time.monotonic()
            calls = [asyncio.wait_for(client.heartbeat(), 0.1) for _ in range(3)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(answer) for answer in answers] == [TimeoutError] * 3
            assert time.monotonic() - began < 1
        await client.aclose()
    assert asyncio.all_tasks() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.anyio
async def test_calls_that_were_given_up_in_the_queue_hold_nobody_up() -> None:
    """Who has left takes no connection when it is its turn: one that was made for nobody would be given up again."""
    accepted = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(0.2)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 26\r\n\r\n")
                writer.write(b'{"nanosecond heartbeat":1}')
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        client = few(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections=1)
        first = asyncio.create_task(client.heartbeat())
        await asyncio.sleep(0.05)
        waiting = [asyncio.create_task(client.heartbeat()) for _ in range(200)]
        await asyncio.sleep(0.05)
        for task in waiting:
            task.cancel()
        assert await client.heartbeat() == 1
        assert await first == 1
        assert accepted <= 3
        await client.aclose()


def test_forked_children_have_connections_of_their_own(url: str) -> None:
    code = """
import asyncio, os, sys
from chroma_async import AsyncHttpClient, HttpClient
client, at_once = HttpClient(sys.argv[1]), AsyncHttpClient(sys.argv[1])
asyncio.run(at_once.connect())
collections = [client.get_or_create_collection(f"fork-{n}", embedding_function=None) for n in range(3)]
for n, collection in enumerate(collections):
    collection.upsert([f"{n}-{i}" for i in range(50)], [[n, i] for i in range(50)])
children = []
for n in range(3):
    child = os.fork()
    if child == 0:
        ids = [id for _ in range(30) for id in collections[n].get(limit=50)["ids"]]
        asyncio.run(at_once.heartbeat())
        client.close()
        os._exit(0 if len(ids) == 1500 and all(id.startswith(f"{n}-") for id in ids) else 1)
    children.append(child)
print([os.waitpid(child, 0)[1] for child in children], client.heartbeat() > 0)
"""
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[0, 0, 0] True\n", "")


def test_a_client_is_used_from_several_event_loops_at_once(url: str) -> None:
    code = """
import asyncio, sys, threading
from chroma_async import AsyncHttpClient
client = AsyncHttpClient(sys.argv[1], retries=0)
done = []

async def count():
    for _ in range(50):
        done.append(await client.count_collections())

threads = [threading.Thread(target=asyncio.run, args=[count()], daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(30)
print(len(done))
asyncio.run(client.aclose())
try:
    asyncio.run(client.heartbeat())
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("150\nthis client is closed; open another one\n", "")


@pytest.mark.parametrize("headers", [{"X-A": "ü"}, {"X-A": "a\nb"}, {"X A": "b"}, {"X-A": 1}, {"X-Ü": "a"}])
def test_what_no_header_can_carry_is_refused_before_anything_is_sent(headers: Any) -> None:
    with pytest.raises(ValueError, match="a header's"):
        AsyncHttpClient("127.0.0.1", 1, headers=headers)


def test_a_host_is_a_text() -> None:
    wrong: Any = 18211
    with pytest.raises(ValueError, match="host must be a text"):
        HttpClient(wrong)


def test_a_read_of_what_never_comes_takes_no_longer_than_it_was_given(url: str) -> None:
    with HttpClient(url) as client:
        collection = client.get_or_create_collection("waited-for", embedding_function=None)
        began = time.monotonic()
        with pytest.raises(errors.NotYetVisibleError):
            collection.get(min_lsn=2**40, wait_seconds=1)
        assert time.monotonic() - began < 2


def test_what_a_thread_still_sends_arrives_though_the_main_thread_has_ended(url: str) -> None:
    code = """
import sys, threading, time
from chroma_async import HttpClient, wrap

def embed(texts):
    time.sleep(0.3)
    return [[1.0, 2.0]] * len(texts)

collection = HttpClient(sys.argv[1]).create_collection("sent-late", embedding_function=wrap(embed, name="slow"))

def run():
    with collection.ingest() as stream:
        for number in range(900):
            stream.upsert(str(number), documents=str(number))
    print(collection.count())

threading.Thread(target=run).start()
time.sleep(0.4)
"""
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, timeout=60, check=False)
    with HttpClient(url) as client:
        count = client.get_collection("sent-late", embedding_function=None).count()
    assert count == 900 or "interpreter shutdown" in done.stderr  # never less without a word
    assert (done.stdout == "900\n") == (count == 900)


@pytest.mark.parametrize(
    ("client", "said"), [("old", "RuntimeError\n"), ("PersistentClient(sys.argv[1])", "1\n"), ("EphemeralClient()", "1\n")]
)
def test_a_program_ends_when_a_thread_goes_on_after_its_end(tmp_path: Path, client: str, said: str) -> None:
    code = f"""
import atexit, sys, threading, time
from chroma_async import EphemeralClient, PersistentClient
atexit.register(time.sleep, 0.5)  # what else the program does at its end; the files of the client are not gone by then
old = PersistentClient(sys.argv[1])
old.heartbeat()

def late():
    threading.main_thread().join()
    try:
        global collection
        collection = {client}.create_collection("late", embedding_function=None)
        collection.upsert("1", [1.0, 2.0])
        print(collection.count())
    except Exception as error:
        print(type(error).__name__)

threading.Thread(target=late).start()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


@pytest.mark.parametrize("end", ["", "raise SystemExit(0)"])
@pytest.mark.parametrize("place", ["in_main", "in_a_thread"])
def test_a_program_ends_with_a_stream_still_open(tmp_path: Path, place: str, end: str) -> None:
    code = f"""
import sys, threading, time
from chroma_async import PersistentClient
collection = PersistentClient(sys.argv[1]).create_collection("open", embedding_function=None)

def in_main():
    global stream
    stream = collection.ingest()
    stream.__enter__().upsert("1", [1.0, 2.0])

def in_a_thread():
    def run():
        with collection.ingest() as stream:
            stream.upsert("1", [1.0, 2.0])
            threading.Event().wait()
    threading.Thread(target=run, daemon=True).start()

{place}()
time.sleep(0.5)
print("end")
{end}
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
