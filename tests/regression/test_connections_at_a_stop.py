"""A server that stopped closed connections that it had just accepted: their requests, sent meanwhile, got no answer.

A proxy that opens a connection for each request got some errors whenever the server behind it was restarted. Three things
could happen: accepting was cancelled when a connection was there already; a connection without a request counted as an idle
one; and a request that arrived between the decision to close and the closing hung until the graceful timeout. A connection
now has a second for its first request, and one with a request is not closed. Those that wait when a server stops listening
are accepted.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from chroma_async.server.listen import listen
from chroma_async.server.worker import serve_by
from chroma_async.settings import HttpServer, ServerSettings

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])]

CLIENTS = 8
STOPS = 12
BODY = b"x" * 100
REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\n" + BODY


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with listen("127.0.0.1", 0) as bound:
        yield bound


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message.get("more_body"):
            break
    assert message["type"] == "http.request"
    assert body == BODY
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def test_connection_without_a_request_yet_may_send_it(listening: socket.socket, server: HttpServer) -> None:
    stop = asyncio.Event()
    serving = asyncio.create_task(serve_by(server)(app, ServerSettings(), os.dup(listening.fileno()), stop))
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    await asyncio.sleep(0.2)
    stop.set()
    await asyncio.sleep(0.2)
    writer.write(REQUEST)
    assert (await reader.read()).startswith(b"HTTP/1.1 204")
    writer.close()
    async with asyncio.timeout(5):
        await serving


async def test_connections_that_wait_to_be_accepted_are_answered(listening: socket.socket, server: HttpServer) -> None:
    stop = asyncio.Event()
    serving = asyncio.create_task(serve_by(server)(app, ServerSettings(), os.dup(listening.fileno()), stop))
    await asyncio.sleep(0.2)
    clients = [socket.create_connection(listening.getsockname()) for _ in range(CLIENTS)]  # without a turn of the loop
    stop.set()
    for client in clients:
        client.sendall(REQUEST)
    listening.close()
    async with asyncio.timeout(5):
        await serving
    for client in clients:
        with client:
            client.settimeout(1)
            assert client.recv(100).startswith(b"HTTP/1.1 204")


async def test_connection_that_never_sends_anything_does_not_hold_the_server(
    listening: socket.socket, server: HttpServer
) -> None:
    stop = asyncio.Event()
    serving = asyncio.create_task(serve_by(server)(app, ServerSettings(), os.dup(listening.fileno()), stop))
    _, writer = await asyncio.open_connection(*listening.getsockname())
    await asyncio.sleep(0.2)
    stop.set()
    async with asyncio.timeout(5):
        await serving
    writer.close()


async def test_no_request_is_lost_between_one_server_and_the_next(listening: socket.socket, server: HttpServer) -> None:
    """Clients go on connecting while servers take turns at a socket that stays."""
    answers: list[bytes] = []
    is_over = False

    async def one_after_another() -> None:
        while not is_over:
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(REQUEST)
            answers.append(await reader.read())
            writer.close()

    clients = [asyncio.create_task(one_after_another()) for _ in range(CLIENTS)]
    async with asyncio.timeout(60):
        for _ in range(STOPS):
            stop = asyncio.Event()
            serving = asyncio.create_task(serve_by(server)(app, ServerSettings(), os.dup(listening.fileno()), stop))
            await asyncio.sleep(0.1)
            stop.set()
            await serving
        is_over = True
        stop = asyncio.Event()
        serving = asyncio.create_task(serve_by(server)(app, ServerSettings(), os.dup(listening.fileno()), stop))
        await asyncio.gather(*clients)
        stop.set()
        await serving
    assert len(answers) > CLIENTS * STOPS
    assert [answer for answer in answers if not answer.startswith(b"HTTP/1.1 204")] == []
