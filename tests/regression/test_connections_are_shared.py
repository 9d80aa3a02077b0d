"""A client that opened many connections at once had all of them at one worker: the others idled, and throughput halved."""

import asyncio
import os
import socket

import pytest
from starlette.types import Receive, Scope, Send

from chroma_async.server.life import Life
from chroma_async.server.listen import listen
from chroma_async.server.worker import serve_by
from chroma_async.settings import HttpServer, ServerSettings

pytestmark = pytest.mark.anyio

CONNECTIONS = 16
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


@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
async def test_connections_that_come_at_once_are_shared(server: HttpServer) -> None:
    stop = asyncio.Event()
    apps = [Counted(), Counted()]
    with listen("127.0.0.1", 0) as listening:
        clients = [socket.create_connection(listening.getsockname()) for _ in range(CONNECTIONS)]
        for client in clients:
            client.sendall(REQUEST)
        serving = [
            asyncio.ensure_future(serve_by(server)(app, ServerSettings(), os.dup(listening.fileno()), stop)) for app in apps
        ]
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
    apps, lives = [Counted(), Counted()], [Life(), Life()]
    lives[0].streams = 1
    with listen("127.0.0.1", 0) as listening:
        serving = [
            asyncio.ensure_future(serve_by(server)(app, ServerSettings(), os.dup(listening.fileno()), stop, life))
            for app, life in zip(apps, lives, strict=True)
        ]
        clients: list[socket.socket] = []
        async with asyncio.timeout(20):
            for number in range(CONNECTIONS):
                clients.append(socket.create_connection(listening.getsockname()))
                clients[-1].sendall(REQUEST)
                while sum(app.requests for app in apps) <= number:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.02)  # who was not the first one waits again for the next
        assert apps[1].requests >= CONNECTIONS - 2
        stop.set()
        for client in clients:
            client.close()
        await asyncio.gather(*serving)
