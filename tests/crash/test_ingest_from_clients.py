"""A stream whose server is killed and whose connections are cut: what is there in the end equals what was sent, exactly."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any, Final

import anyio
import httpx
import pytest
from load_tests.acceptance.family import is_alive
from load_tests.servers import LocalServer, our_program, running

from chroma_async import AsyncHttpClient, Collection, HttpClient, errors

START_SECONDS_MAX: Final = 60.0

LINES: Final = int(os.environ.get("CHROMA_ASYNC_EXAMPLES", "12000"))
IDS: Final = 700
FAILURES: Final = max(4, LINES // 3000)


class Server:
    """A server on one port and one directory, which is killed with all of its processes, and started again."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self.port = server.port
        self.url = f"http://127.0.0.1:{server.port}"
        self.kills = 0

    def start(self) -> None:
        self._server.spawn()
        end = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(self.url + "/readyz").is_success:
                    return
            time.sleep(0.02)
        raise AssertionError(self._server.last_words())

    def kill(self) -> None:
        self.kills += 1
        victims = self._server.pids()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        assert self._server.process is not None
        self._server.process.wait()
        self._server.process = None
        while any(is_alive(pid) for pid in victims):
            time.sleep(0.005)


class Cutter:
    """A port before another one that passes bytes on, and cuts all connections when told to."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := one.recv(65536):
                other.sendall(content)
        self._end(one, other)

    def _end(self, *ends: socket.socket) -> None:
        with self._lock:
            self._open -= set(ends)
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def cut(self) -> None:
        with self._lock:
            ends = set(self._open)
        if ends:
            self.cuts += 1
        self._end(*ends)

    def close(self) -> None:
        self._listening.close()
        self.cut()


@pytest.fixture
def server() -> Generator[Server]:
    with running(our_program(workers=2)) as local:
        yield Server(local)


def history(count: int) -> Iterator[dict[str, Any]]:
    """Lines whose effect depends on each being applied once and in order: an addition counts only after a deletion."""
    choices = random.Random(3)
    for number in range(count):
        line: dict[str, Any] = {"id": f"i{choices.randrange(IDS)}", "op": choices.choice(("add", "upsert", "delete"))}
        if line["op"] != "delete":
            line |= {"embedding": [number, 1.0], "metadata": {"last": number, f"f{number % 5}": number}}
        yield line


def outcome(count: int) -> dict[str, dict[str, Any]]:
    there: dict[str, dict[str, Any]] = {}
    for line in history(count):
        if line["op"] == "delete":
            there.pop(line["id"], None)
        elif line["op"] == "add":
            there.setdefault(line["id"], line["metadata"])
        else:
            there[line["id"]] = {**there.get(line["id"], {}), **line["metadata"]}
    return there


def paced(failures: threading.Event, until: float) -> Iterator[dict[str, Any]]:
    """The history, no faster than that the failures happen in the midst of it."""
    began, pause = time.monotonic(), until / LINES
    for number, line in enumerate(history(LINES)):
        if number % 200 == 0 and not failures.is_set():
            time.sleep(max(0.0, began + number * pause - time.monotonic()))
        yield line


def check(collection: Collection) -> None:
    found = collection.get(include=["metadatas"])
    assert found["metadatas"] is not None
    assert dict(zip(found["ids"], found["metadatas"], strict=True)) == outcome(LINES)


def disturbing(step: Any, over: threading.Event, waits: float) -> threading.Thread:
    choices = random.Random(5)

    def run() -> None:
        for _ in range(FAILURES):
            time.sleep(choices.uniform(0.05, 2 * waits))
            step()
        over.set()

    return threading.Thread(target=run)


@pytest.mark.timeout(300)
def test_a_stream_whose_server_is_killed_again_and_again_equals_its_source(server: Server) -> None:
    over = threading.Event()

    def kill() -> None:
        server.kill()
        server.start()

    with HttpClient(server.url) as client:
        collection = client.create_collection("docs", embedding_function=None)
        killer = disturbing(kill, over, 0.4)
        killer.start()
        report = collection.ingest_from(paced(over, FAILURES * 2.5))
        killer.join()
        assert server.kills == FAILURES
        assert (report.position, report.bad_lines) == (LINES, 0)
        check(collection)


@pytest.mark.timeout(300)
def test_a_stream_whose_connections_are_cut_again_and_again_equals_its_source(server: Server) -> None:
    over = threading.Event()
    cutter = Cutter(server.port)
    cutting = disturbing(cutter.cut, over, 0.1)

    async def ingest() -> None:
        async with AsyncHttpClient(f"http://127.0.0.1:{cutter.port}") as client:
            collection = await client.create_collection("docs", embedding_function=None)
            cutting.start()
            report = await collection.ingest_from(paced(over, FAILURES * 0.5), linger_seconds=0.01)
            assert (report.position, report.bad_lines) == (LINES, 0)

    anyio.run(ingest)
    cutting.join()
    cutter.close()
    assert cutter.cuts >= FAILURES // 2
    with HttpClient(server.url) as client:
        check(client.get_collection("docs"))


def test_a_server_that_stays_away_is_waited_for_only_so_long(server: Server) -> None:
    with HttpClient(server.url, retries=0) as client:
        collection = client.create_collection("docs", embedding_function=None)
        stream = collection.ingest(retry_seconds=1.0, stream_id="away")
        began = time.monotonic()

        def send() -> None:
            with stream:
                stream.add("a", [1, 2])
                stream.flush()
                server.kill()
                stream.add("b", [3, 4])

        with pytest.raises(errors.ServerUnreachableError):
            send()
        assert 1.0 <= time.monotonic() - began < 30.0
        assert stream.position == 1
        server.start()
        with collection.ingest(stream_id="away") as again:
            assert again.position == 1
            again.add("b", [3, 4])
        assert collection.count() == 2
