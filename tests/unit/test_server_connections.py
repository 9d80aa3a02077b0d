"""What a connection may expect and must keep to, whichever HTTP server stands in front of the application."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from tests.support.waiting import eventually, soon

from chroma_async.model import Tenant
from chroma_async.protocol import GetTenant, Heartbeat
from chroma_async.server.app import create_app
from chroma_async.server.life import Life
from chroma_async.server.worker import serve_by
from chroma_async.settings import HttpServer, ServerSettings

pytestmark = pytest.mark.anyio

HEARTBEAT = b"GET /api/v2/heartbeat HTTP/1.1\r\nHost: x\r\n\r\n"
TENANT = b'{"name": "somebody"}'
BODY_LATER = b"POST /api/v2/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(TENANT)


class Running:
    """A server in this event loop."""

    def __init__(self, port: int, stop: asyncio.Event, serving: asyncio.Task[None]) -> None:
        self.port = port
        self.stop = stop
        self.serving = serving

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)

    async def ask(self, request: bytes) -> bytes:
        """Send a request and return what is answered until the end of the connection."""
        reader, writer = await self.connect()
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


async def dispatch(call: Any) -> Any:
    if isinstance(call, Heartbeat):
        return 1
    return Tenant(call.tenant) if isinstance(call, GetTenant) else None


@pytest.fixture(params=["hypercorn", "uvicorn"])
def serve(request: pytest.FixtureRequest) -> Callable[..., Any]:
    name: HttpServer = request.param

    @asynccontextmanager
    async def serve(app: ASGIApp | None = None, *, life: Life | None = None, **settings: Any) -> AsyncIterator[Running]:
        stop = asyncio.Event()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            chosen = ServerSettings(**settings)
            served = app or create_app(dispatch, chosen)
            serving = asyncio.ensure_future(serve_by(name)(served, chosen, os.dup(listening.fileno()), stop, life))
            try:
                yield Running(listening.getsockname()[1], stop, serving)
            finally:
                stop.set()
                await serving

    return serve


async def test_a_connection_serves_many_requests(serve: Callable[..., Any]) -> None:
    async with serve() as server:
        reader, writer = await server.connect()
        for _ in range(3):
            writer.write(HEARTBEAT)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"\r\ndate: " in head
            assert b"\r\nserver: " not in head
            length = int(head.lower().partition(b"content-length: ")[2].split()[0])
            assert b"nanosecond heartbeat" in await reader.readexactly(length)
        writer.close()


async def test_requests_in_one_piece_are_answered_in_order(serve: Callable[..., Any]) -> None:
    async with serve() as server:
        last = b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = await server.ask(HEARTBEAT + HEARTBEAT + last)
        assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"]


@pytest.mark.parametrize("serve", ["hypercorn"], indirect=True)
async def test_clients_may_begin_with_http_2(serve: Callable[..., Any]) -> None:
    async with serve(keep_alive_seconds=1.0) as server, httpx.AsyncClient(http1=False, http2=True) as client:
        url = f"http://127.0.0.1:{server.port}/api/v2/"
        answers = await asyncio.gather(*(client.get(url + "heartbeat") for _ in range(5)))
        assert [answer.status_code for answer in answers] == [200] * 5
        assert {answer.http_version for answer in answers} == {"HTTP/2"}
        assert (await client.post(url + "tenants", json={"name": "somebody"})).status_code == 200


async def test_body_in_chunks_is_one_body(serve: Callable[..., Any]) -> None:
    async with serve() as server:
        head = b"POST /api/v2/tenants HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        half = len(TENANT) // 2
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (TENANT[:half], TENANT[half:], b""))
        assert (await server.ask(head + chunks)).startswith(b"HTTP/1.1 200 ")


async def test_client_that_asks_whether_to_go_on_is_told_so(serve: Callable[..., Any]) -> None:
    async with serve() as server:
        reader, writer = await server.connect()
        writer.write(BODY_LATER + b"Expect: 100-continue\r\nConnection: close\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(TENANT)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_name_is_decoded_after_the_path_was_taken_apart(serve: Callable[..., Any]) -> None:
    async with serve() as server:
        request = b"GET /api/v2/tenants/a%2Fb%0A HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert b'{"name":"a/b\\n",' in await server.ask(request)


async def test_what_is_no_request_is_refused(serve: Callable[..., Any]) -> None:
    async with serve() as server:
        assert (await server.ask(b"hello\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


async def test_head_that_is_too_large_is_refused(serve: Callable[..., Any]) -> None:
    async with serve() as server:
        reader, writer = await server.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
        for _ in range(80):
            writer.write(b"X: %s\r\n" % (b"y" * 1000))
        assert (await reader.readline()).startswith(b"HTTP/1.1 431 ")
        writer.close()


async def test_large_head_within_the_limit_is_read(serve: Callable[..., Any]) -> None:
    async with serve() as server:
        request = b"GET /api/v2/heartbeat HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: %s\r\n\r\n" % (b"y" * 60_000)
        assert (await server.ask(request)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"", b"GET /", HEARTBEAT, HEARTBEAT + b"GET /"], ids=["nothing", "half", "one", "more"])
async def test_connection_that_does_not_ask_is_closed_after_a_while(serve: Callable[..., Any], sent: bytes) -> None:
    async with serve(keep_alive_seconds=0.3) as server:
        reader, writer = await server.connect()
        began = time.monotonic()
        writer.write(sent)
        async with asyncio.timeout(5):
            await reader.read()
        assert time.monotonic() - began > 0.2
        writer.close()


async def test_bytes_that_come_slowly_do_not_keep_a_connection(serve: Callable[..., Any]) -> None:
    async with serve(keep_alive_seconds=0.5) as server:
        reader, writer = await server.connect()
        ended = asyncio.ensure_future(reader.read())
        for byte in range(30):
            writer.write(HEARTBEAT[byte : byte + 1])
            await asyncio.wait({ended}, timeout=0.1)
            if ended.done():
                break
        assert ended.done()
        assert isinstance(ended.exception(), ConnectionResetError | None)  # reset if a byte came after the close
        writer.close()


class Begun:
    """An application that says how many requests it was asked."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += scope["type"] == "http"
        await self._app(scope, receive, send)


async def test_stop_answers_what_has_begun_and_closes_what_idles(serve: Callable[..., Any]) -> None:
    app = Begun(create_app(dispatch, ServerSettings()))
    async with serve(app) as server:
        idle, idle_writer = await server.connect()
        idle_writer.write(HEARTBEAT)
        await idle.readuntil(b"}")
        working, working_writer = await server.connect()
        working_writer.write(BODY_LATER + b"\r\n")
        await eventually(lambda: app.requests == 2)
        server.stop.set()
        async with asyncio.timeout(5):
            await idle.read()
        assert not server.serving.done()
        working_writer.write(TENANT)
        async with asyncio.timeout(5):
            assert (await working.read()).startswith(b"HTTP/1.1 200 ")
            await server.serving
        idle_writer.close()
        working_writer.close()


async def test_stop_waits_only_so_long(serve: Callable[..., Any]) -> None:
    app = Begun(create_app(dispatch, ServerSettings()))
    async with serve(app, graceful_seconds=0.3) as server:
        _, writer = await server.connect()
        writer.write(BODY_LATER + b"\r\n")
        await eventually(lambda: app.requests == 1)
        server.stop.set()
        async with asyncio.timeout(5):
            await server.serving
        writer.close()


async def test_large_answer_arrives_whole_at_a_slow_reader(serve: Callable[..., Any]) -> None:
    body = bytes(range(256)) * 40_000

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    async with serve(large) as server:
        reader, writer = await server.connect()
        writer.write(HEARTBEAT)
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.2)
        assert await reader.readexactly(len(body)) == body
        writer.write(HEARTBEAT)
        assert await reader.readuntil(b"\r\n\r\n")
        writer.close()


async def test_client_that_leaves_is_told_to_the_application(serve: Callable[..., Any]) -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def patient(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            continue
        left.set()

    async with serve(patient) as server:
        _, writer = await server.connect()
        writer.write(HEARTBEAT)
        await soon(begun.wait())
        assert not left.is_set()
        writer.close()
        async with asyncio.timeout(5):
            await left.wait()


@pytest.mark.parametrize(
    "target",
    [b"http://x/api/v2/heartbeat", b"HTTP://other:80/api/v2/heartbeat?a=1", b"https://x/api/v2/heartbeat"],
)
async def test_target_may_name_scheme_and_host(serve: Callable[..., Any], target: bytes) -> None:
    async with serve() as server:
        request = b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target
        assert (await server.ask(request)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("target", [b"http://x", b"http:/x", b"*"])
async def test_target_that_names_no_path_of_ours_is_not_found(serve: Callable[..., Any], target: bytes) -> None:
    async with serve() as server:
        answer = await server.ask(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target)
        assert answer[9:12] in (b"404", b"400"), answer


@pytest.mark.parametrize("page", [b"/livez", b"/readyz", b"/docs/", b"/openapi.json"])
async def test_a_page_that_has_no_use_for_a_body_keeps_the_connection(serve: Callable[..., Any], page: bytes) -> None:
    async with serve() as server:
        reader, writer = await server.connect()
        writer.write(b"GET %b HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody" % page + HEARTBEAT)
        async with asyncio.timeout(20):
            for _ in range(2):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                (length,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                await reader.readexactly(int(length.partition(b":")[2]))
        writer.close()


async def test_readiness_goes_before_everything_else(serve: Callable[..., Any]) -> None:
    life = Life()
    chosen = ServerSettings()
    async with serve(create_app(dispatch, chosen, life=life), life=life) as server:
        reader, writer = await server.connect()
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" not in head.lower()
        await reader.readuntil(b"}")
        life.draining.set()
        assert b'"reason":"draining"' in await server.ask(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await server.ask(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(HEARTBEAT)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert head.lower().count(b"connection: close") == 1
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()


@pytest.mark.parametrize("serve", ["hypercorn"], indirect=True)
async def test_http_2_goes_on_while_the_server_drains(serve: Callable[..., Any]) -> None:
    life = Life()
    chosen = ServerSettings()
    async with (
        serve(create_app(dispatch, chosen, life=life), life=life, keep_alive_seconds=1.0) as server,
        httpx.AsyncClient(http1=False, http2=True) as client,
    ):
        url = f"http://127.0.0.1:{server.port}"
        assert (await client.get(url + "/readyz")).status_code == 200
        life.draining.set()
        answer = await client.get(url + "/readyz")
        assert (answer.status_code, "connection" in answer.headers) == (503, False)


@pytest.mark.parametrize("serve", ["hypercorn"], indirect=True)
async def test_status_408_arrives_over_http_2(serve: Callable[..., Any]) -> None:
    async def trickle() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(2)

    async with (
        serve(body_timeout_seconds=0.2, keep_alive_seconds=1.0) as server,
        httpx.AsyncClient(http1=False, http2=True) as client,
    ):
        url = f"http://127.0.0.1:{server.port}/api/v2/tenants"
        assert (await client.post(url, content=trickle())).status_code == 408


@pytest.mark.parametrize("before", [b"", HEARTBEAT], ids=["first", "later"])
async def test_head_that_trickles_is_ended_in_time(serve: Callable[..., Any], before: bytes) -> None:
    async with serve(head_seconds=0.5, keep_alive_seconds=60.0) as server:
        reader, writer = await server.connect()
        writer.write(before)
        if before:
            await reader.readuntil(b"}")
        ended = asyncio.ensure_future(reader.read())
        began = time.monotonic()
        for byte in HEARTBEAT[:30]:
            writer.write(bytes([byte]))
            await asyncio.wait({ended}, timeout=0.1)
            if ended.done():
                break
        assert ended.done()
        assert 0.3 < time.monotonic() - began < 2.5
        assert isinstance(ended.exception(), ConnectionResetError | None)
        writer.close()


async def test_connection_that_idles_has_longer_than_a_head(serve: Callable[..., Any]) -> None:
    async with serve(head_seconds=0.2, keep_alive_seconds=60.0) as server:
        reader, writer = await server.connect()
        for _ in range(3):
            writer.write(HEARTBEAT)
            assert await reader.readuntil(b"}")
            await asyncio.sleep(0.4)
        writer.close()


async def test_body_that_trickles_is_ended_in_time(serve: Callable[..., Any]) -> None:
    async with serve(body_timeout_seconds=0.3) as server:
        reader, writer = await server.connect()
        writer.write(b"POST /api/v2/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        ended = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))  # what is sent after it resets the connection
        for _ in range(30):
            writer.write(b" ")
            await asyncio.wait({ended}, timeout=0.1)
            if ended.done():
                break
        assert ended.done()
        assert ended.result().startswith(b"HTTP/1.1 408 ")
        writer.close()
