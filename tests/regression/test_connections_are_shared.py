"""A client that opened many connections at once had all of them at one worker: the others idled, and throughput halved."""

import asyncio
import os
import socket

import pytest
from starlette.types import Receive, Scope, Send

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
