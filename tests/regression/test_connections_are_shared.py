"""A client that opened many connections at once had all of them at one worker: the others idled, and throughput halved."""

import asyncio
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from starlette.types import Receive, Scope, Send

from chroma_async.engine.search_times import SearchTimes
from chroma_async.server import accept, workload
from chroma_async.server.life import Life
from chroma_async.server.listen import listen
from chroma_async.server.loads import Loads, forget_load, loads_file
from chroma_async.server.worker import serve_by
from chroma_async.server.workload import Workload
from chroma_async.settings import HttpServer, ServerSettings

pytestmark = pytest.mark.anyio

CONNECTIONS = 16
FEWER = 7
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Counted:
    """An application that counts its requests."""

    def __init__(self) -> None:
        self.requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        self.requests += 1
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Watched(Workload):
    """A load that counts how often somebody has looked whether others have less to do."""

    looks = 0

    @property
    def ahead(self) -> int:
        self.looks += 1
        return super().ahead


@contextmanager
def sharing(workers: int) -> Generator[list[Workload]]:
    """Workers that know of each other."""
    with loads_file(workers) as file:
        yield [Workload(Loads(file, workers, place)) for place in range(workers)]


def serving_by(
    server: HttpServer, app: Counted, listening: socket.socket, stop: asyncio.Event, load: Workload
) -> asyncio.Future[None]:
    """A worker of this load, which shares a socket."""
    serve = serve_by(server)(app, ServerSettings(), os.dup(listening.fileno()), stop, Life(load=load))
    return asyncio.ensure_future(serve)


@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
async def test_connections_that_come_at_once_are_shared(server: HttpServer) -> None:
    stop = asyncio.Event()
    apps = [Counted(), Counted()]
    with listen("127.0.0.1", 0) as listening, sharing(2) as loads:
        clients = [socket.create_connection(listening.getsockname()) for _ in range(CONNECTIONS)]
        for client in clients:
            client.sendall(REQUEST)
        serving = [serving_by(server, app, listening, stop, load) for app, load in zip(apps, loads, strict=True)]
        async with asyncio.timeout(20):
            while sum(app.requests for app in apps) < CONNECTIONS:
                await asyncio.sleep(0.01)
        assert min(app.requests for app in apps) >= CONNECTIONS // 4
        stop.set()
        for client in clients:
            client.close()
        await asyncio.gather(*serving)


@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
async def test_connections_that_come_one_by_one_go_to_who_takes_no_stream(server: HttpServer) -> None:
    """Queries beside an ingest stream came to the worker that was at work anyway, while the other one slept."""
    stop = asyncio.Event()
    apps = [Counted(), Counted()]
    with listen("127.0.0.1", 0) as listening, sharing(2) as loads:
        loads[0].count(streams=1)
        serving = [serving_by(server, app, listening, stop, load) for app, load in zip(apps, loads, strict=True)]
        clients: list[socket.socket] = []
        async with asyncio.timeout(20):
            while loads[0].ahead <= 0:
                await asyncio.sleep(0.001)  # the other one begins to listen
            for number in range(FEWER):
                clients.append(socket.create_connection(listening.getsockname()))
                clients[-1].sendall(REQUEST)
                while sum(app.requests for app in apps) <= number:
                    await asyncio.sleep(0.001)
        assert apps[1].requests == FEWER
        stop.set()
        for client in clients:
            client.close()
        await asyncio.gather(*serving)


@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
async def test_connection_is_taken_though_who_has_less_to_do_does_not_come(server: HttpServer) -> None:
    """One that was killed, or hangs, is not waited for, and leaves what it said."""
    stop = asyncio.Event()
    app = Counted()
    with listen("127.0.0.1", 0) as listening, sharing(2) as (load, gone):
        load.count(streams=1)
        gone.count()
        serving = serving_by(server, app, listening, stop, load)
        with socket.create_connection(listening.getsockname()) as client:
            client.sendall(REQUEST)
            async with asyncio.timeout(20):
                while not app.requests:
                    await asyncio.sleep(0.001)
        stop.set()
        await serving


@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
async def test_who_came_too_late_once_is_waited_for_again(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that connected anew beside an ingest stream came to the worker of the stream, and waited for seconds."""
    stop = asyncio.Event()
    app = Counted()
    with listen("127.0.0.1", 0) as listening, loads_file(2) as file:
        load, other = Watched(Loads(file, 2, 0)), Workload(Loads(file, 2, 1))
        load.count(streams=1)
        other.count()
        serving = serving_by(server, app, listening, stop, load)
        async with asyncio.timeout(20):
            with socket.create_connection(listening.getsockname()) as client:
                client.sendall(REQUEST)
                while not app.requests:
                    await asyncio.sleep(0.001)
            monkeypatch.setattr(accept, "PATIENCE_SECONDS", 10.0)
            other.count(connections=1)  # it has come for another one since then, which is closed already
            other.count(connections=-1)
            load.looks = 0
            with socket.create_connection(listening.getsockname()) as client:
                client.sendall(REQUEST)
                while load.looks < 100:
                    await asyncio.sleep(0.001)
                assert app.requests == 1
                stop.set()
                await serving


@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
async def test_stop_while_a_connection_is_left_to_another_worker_is_in_order(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvicorn closes the socket at once; whoever looked at it afterwards ended with a traceback."""
    monkeypatch.setattr(accept, "PATIENCE_SECONDS", 10.0)
    stop = asyncio.Event()
    with listen("127.0.0.1", 0) as listening, loads_file(2) as file:
        load, other = Watched(Loads(file, 2, 0)), Workload(Loads(file, 2, 1))
        load.count(streams=1)
        other.count()
        serving = serving_by(server, Counted(), listening, stop, load)
        with socket.create_connection(listening.getsockname()):
            async with asyncio.timeout(20):
                while not load.looks:
                    await asyncio.sleep(0.001)
                stop.set()
                await serving


async def test_who_takes_a_stream_is_ready_for_no_searches_of_others_until_it_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And is left alone for some seconds more, in which it makes itself ready."""
    monkeypatch.setattr(workload, "AFTERWARDS_SECONDS", 0.05)
    searches = SearchTimes()
    with loads_file(2) as file:
        load, other = Workload(Loads(file, 2, 0), searches), Workload(Loads(file, 2, 1))
        other.count(connections=1)
        load.count(streams=2)
        assert (load.ahead, searches.heeds_others) == (31, False)
        load.count(streams=-1)
        assert (load.ahead, searches.heeds_others) == (15, False)
        load.count(streams=-1)
        assert (load.ahead, searches.heeds_others) == (15, True)
        async with asyncio.timeout(20):
            while other.ahead < 1:
                await asyncio.sleep(0.01)
        assert load.ahead == -1


def test_load_of_who_died_is_forgotten() -> None:
    with loads_file(2) as file:
        first, second = (Workload(Loads(file, 2, place)) for place in range(2))
        second.count(connections=3)
        assert first.least is not None
        forget_load(file, 1)
        assert first.least is None
        second.count()
        assert first.least is not None


def test_load_of_who_left_is_none() -> None:
    with sharing(3) as (first, second, third):
        assert first.ahead == 0
        second.count(connections=3)
        third.count(connections=5, streams=1)
        assert (first.ahead, second.ahead, third.ahead) == (-3, -18, 18)
        second.leave()
        second.count(connections=-1)
        assert (first.ahead, third.ahead) == (-21, 0)
        first.count(connections=1)
        assert third.ahead == 20
