"""Connections that clients had closed kept their descriptors until the keep-alive timeout, two minutes by default.

A client that connects for every request (a health check, a script, a function in the cloud) made a worker run out of them.
Hypercorn's task for an idle connection outlived the connection; ours ends with it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.support.waiting import eventually

from chroma_async.server.worker import serve_by
from chroma_async.settings import HttpServer, ServerSettings

pytestmark = pytest.mark.anyio

CLIENTS = 40
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def slow_app(seconds: float) -> Any:
    async def app(
        scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        await asyncio.sleep(seconds)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    return app


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
@pytest.mark.parametrize("is_answered", [True, False], ids=["after-the-answer", "before-the-answer"])
async def test_a_connection_that_its_client_closed_is_closed_at_once(server: HttpServer, is_answered: bool) -> None:
    stop = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        settings = ServerSettings(keep_alive_seconds=600)
        app = slow_app(0.0 if is_answered else 0.2)
        serving = asyncio.ensure_future(serve_by(server)(app, settings, os.dup(listening.fileno()), stop))
        await one_client(listening, is_answered)
        before = descriptors()
        for _ in range(CLIENTS):
            await one_client(listening, is_answered)
        await eventually(lambda: descriptors() <= before, 5)
        stop.set()
        await serving


async def one_client(listening: socket.socket, is_answered: bool) -> None:
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    writer.write(REQUEST)
    if is_answered:
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    else:
        await asyncio.sleep(0.01)
    writer.close()
    await writer.wait_closed()
