"""Requests that try to be understood in two ways, to reach what they may not, or to keep the server busy.

Figures of a run: `CASES` of smuggling, each for both HTTP servers; `JSON_BOMBS` and `PATTERNS` each for a real engine.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes, Settings
from starlette.types import ASGIApp, Receive, Scope, Send

from chroma_async.engine import open_engine
from chroma_async.server.app import create_app
from chroma_async.server.with_hypercorn import Http2
from chroma_async.server.worker import serve_by
from chroma_async.settings import EngineSettings, HttpServer, ServerSettings

pytestmark = pytest.mark.anyio

COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"

POST = b"POST /first HTTP/1.1\r\nHost: x\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

CASES = {
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "list of lengths": POST + b"Content-Length: 0, %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "length with a sign": POST + b"Content-Length: +0\r\n\r\n" + SMUGGLED,
    "negative length": POST + b"Content-Length: -1\r\n\r\n" + SMUGGLED,
    "length in hexadecimal": POST + b"Content-Length: 0x0\r\n\r\n" + SMUGGLED,
    "length with a blank": POST + b"Content-Length: 0 0\r\n\r\n" + SMUGGLED,
    "empty length": POST + b"Content-Length:\r\n\r\n" + SMUGGLED,
    "length that is too long": POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n" + SMUGGLED,
    "unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "coding in front": POST + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "coding behind": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "coding behind a tabulator": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "blank before the colon": POST + b"Content-Length : %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "blank before a name": POST + b" Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "zero byte in a value": POST + b"X: a\x00b\r\n\r\n" + SMUGGLED,
    "carriage return in a value": POST + b"X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "zero byte in a name": POST + b"Transfer-\x00Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "name without a colon": POST + b"Transfer-Encoding\r\n\r\n" + SMUGGLED,
    "empty name": POST + b": chunked\r\n\r\n" + SMUGGLED,
    "size of a chunk with a sign": POST + b"Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n" + SMUGGLED,
    "negative size of a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + SMUGGLED,
    "size of a chunk with 0x": POST + b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + SMUGGLED,
    "size of a chunk that is too large": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"F" * 30 + b"\r\n\r\n" + SMUGGLED,
    "chunk that is longer than it says": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n" + SMUGGLED,
    "line feed in an extension": POST + b"Transfer-Encoding: chunked\r\n\r\n2;\nxx\r\n0\r\n\r\n" + SMUGGLED,
    "version that is none": b"GET /first HTTP/1.1 x\r\nHost: x\r\n\r\n" + SMUGGLED,
    "version of the future": b"GET /first HTTP/3.7\r\nHost: x\r\n\r\n" + SMUGGLED,
    "two hosts": b"GET /first HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n" + SMUGGLED,
    "no host": b"GET /first HTTP/1.1\r\n\r\n" + SMUGGLED,
    "blank in the target": b"GET /fir st HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED,
    "zero byte in the target": b"GET /fir\x00st HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED,
    "method in small letters": b"delete /first HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED,
    "method that is none": b"GE(T /first HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED,
}
"""None of these may be followed by the request that they carry: two parties could disagree on where it begins."""


@asynccontextmanager
async def serving(name: HttpServer, app: ASGIApp) -> AsyncIterator[int]:
    stop = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        settings = ServerSettings(keep_alive_seconds=2.0)
        running = asyncio.ensure_future(serve_by(name)(app, settings, os.dup(listening.fileno()), stop))
        try:
            yield listening.getsockname()[1]
        finally:
            stop.set()
            await running


async def exchange(port: int, *parts: bytes) -> bytes:
    """Send one part after another, and return all that is answered until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await asyncio.sleep(0.05 if len(parts) > 1 else 0)
    received = b""
    try:
        async with asyncio.timeout(10):
            while piece := await reader.read(65536):
                received += piece
    except ConnectionResetError:
        pass
    writer.close()
    return received


class Witness:
    """Notes which paths it was asked for, with which body, and answers."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.seen.append((scope["raw_path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["hypercorn", "uvicorn"])
async def test_no_request_hides_in_another(name: HttpServer, case: str) -> None:
    witness = Witness()
    async with serving(name, witness) as port:
        answer = await exchange(port, CASES[case])
    assert b"/smuggled" not in [path for path, _ in witness.seen], (witness.seen, answer)
    assert answer.count(b"HTTP/1.1 ") <= 1, answer


@pytest.mark.parametrize("name", ["hypercorn", "uvicorn"])
async def test_what_is_merely_unusual_is_still_served(name: HttpServer) -> None:
    witness = Witness()
    requests = [
        b"GET /old HTTP/1.0\r\n\r\n",
        b"POST /chunks HTTP/1.1\r\nhost: x\r\ntransfer-encoding: Chunked\r\nConnection: close\r\n\r\n"
        b"1;a=b\r\nz\r\n0\r\nT: t\r\n\r\n",
        b"GET /twice HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nX-A: 2\r\nConnection: close\r\n\r\n",
    ]
    async with serving(name, witness) as port:
        answers = [await exchange(port, request) for request in requests]
    assert [answer[9:12] for answer in answers] == [b"200"] * 3, answers
    assert witness.seen == [(b"/old", b""), (b"/chunks", b"z"), (b"/twice", b"")]


GET = b"GET /first HTTP/1.1\r\nHost: x\r\n"
UNCLEAR = {
    "length twice": POST + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "length twice, apart": POST + b"Content-Length: 0\r\nX: y\r\ncontent-length: 0\r\n\r\n",
    "list of one length": POST + b"Content-Length: 0, 0\r\n\r\n",
    "line that goes on": GET + b"X: y\r\n z\r\n\r\n",
    "line that goes on behind a tabulator": GET + b"X: y\r\n\tz\r\n\r\n",
    "line feed alone": GET + b"X: y\nZ: z\r\n\r\n",
    "line feed alone at the end": GET + b"\n",
    "line feeds alone": GET.replace(b"\r", b"") + b"\n",
}


@pytest.mark.parametrize("case", UNCLEAR)
@pytest.mark.parametrize("name", ["hypercorn", "uvicorn"])
async def test_heads_that_parsers_join_are_refused(name: HttpServer, case: str) -> None:
    witness = Witness()
    async with serving(name, witness) as port:
        answer = await exchange(port, UNCLEAR[case] + SMUGGLED)
    assert witness.seen == []
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert answer.count(b"HTTP/1.1 ") == 1


# ---- HTTP/2

SECRET = "hunter2"
BEGUN = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.mark.parametrize("settings", [b"AAMAAABkAAQAAP__", b"AAAA", b"AAEAAAABAAF_____", b"AAT_____", b""])
async def test_nobody_is_upgraded_to_http_2(settings: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A proxy that passes `Upgrade` on would let streams through that it has never looked at."""
    witness = Witness()
    head = GET + b"Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nAuthorization: Bearer hunter2\r\n"
    async with serving("hypercorn", witness) as port:
        answer = await exchange(port, head + b"HTTP2-Settings: " + settings + b"\r\n\r\n" + BEGUN)
        preface = await exchange(port, b"PRI * HTTP/2.0\r\nHost: x\r\nUpgrade: h2c\r\n\r\n")
    assert witness.seen[0] == (b"/first", b"")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"101" not in answer[:12] + preface[:12]
    assert SECRET not in caplog.text
    assert "Traceback" not in caplog.text


UPGRADES = {
    "h2c": b"Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "websocket": b"Connection: Upgrade, close\r\nUpgrade: websocket\r\n",
    "anything": b"Connection: upgrade\r\nUpgrade: anything\r\n",
}


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("coding", [b"Content-Length: %d" % len(SMUGGLED), b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("case", UPGRADES)
@pytest.mark.parametrize("name", ["hypercorn", "uvicorn"])
async def test_the_body_of_a_request_that_would_upgrade_is_no_request(
    name: HttpServer, case: str, coding: bytes, parts: int
) -> None:
    witness = Witness()
    head = POST + UPGRADES[case] + coding + b"\r\n\r\n"
    body = SMUGGLED if b"Length" in coding else b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    async with serving(name, witness) as port:
        await exchange(port, *([head + body] if parts == 1 else [head, body]))
    assert witness.seen in ([], [(b"/first", SMUGGLED)])


@pytest.mark.parametrize("name", ["hypercorn", "uvicorn"])
async def test_a_request_without_a_body_that_would_upgrade_is_answered(name: HttpServer) -> None:
    witness = Witness()
    async with serving(name, witness) as port:
        answer = await exchange(port, GET + UPGRADES["websocket"] + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert witness.seen == [(b"/first", b"")]


async def answer_unread(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without a look at the body."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("name", ["hypercorn", "uvicorn"])
async def test_a_body_that_nobody_reads_keeps_no_connection(name: HttpServer) -> None:
    """Of many small chunks. Who needs no credentials for it could take all of a worker's descriptors."""
    chunks = POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100 + b"0\r\n\r\n"
    async with serving(name, answer_unread) as port:
        answers = [await exchange(port, chunks) for _ in range(3)]
    assert [answer[-2:] for answer in answers] == [b"ok"] * 3


async def test_who_ends_a_connection_behind_a_request_is_read_to_its_end() -> None:
    witness = Witness()

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.2)
        await witness(scope, receive, send)

    async with serving("hypercorn", late) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 7 + b"0\r\n\r\n")
        writer.write_eof()
        answer = await reader.read()
        writer.close()
    assert witness.seen == [(b"/first", b"x" * 7)]
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_body_that_nobody_reads_keeps_no_connection_of_http_2() -> None:
    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    fields = [(":scheme", "http"), (":authority", "a"), (":method", "POST"), (":path", "/first")]
    client.send_headers(1, fields)
    for _ in range(40):
        client.send_data(1, b"x")
    client.end_stream(1)
    client.send_headers(3, fields, end_stream=True)
    ended: set[int] = set()
    async with serving("hypercorn", answer_unread) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(client.data_to_send())
        while ended != {1, 3} and (data := await reader.read(65536)):
            ended |= {event.stream_id for event in client.receive_data(data) if isinstance(event, StreamEnded | StreamReset)}
        writer.close()
    assert ended == {1, 3}


class LargeAnswer:
    """Answers in two parts of so many bytes; `ended` is set when that is over."""

    def __init__(self, size: int) -> None:
        self._part = bytes(size)
        self.ended = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": self._part, "more_body": True})
            await send({"type": "http.response.body", "body": self._part})
        finally:
            self.ended.set()


@asynccontextmanager
async def without_room(port: int) -> AsyncIterator[tuple[H2Connection, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client of HTTP/2 that has asked, and has no room for the answer."""
    client = H2Connection(H2Configuration(client_side=True))
    client.local_settings = Settings(client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: 0})
    client.initiate_connection()
    fields = [(":scheme", "http"), (":authority", "a"), (":method", "GET"), (":path", "/first")]
    client.send_headers(1, fields, end_stream=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(client.data_to_send())
        while not any(isinstance(event, ResponseReceived) for event in client.receive_data(await reader.read(65536))):
            writer.write(client.data_to_send())
        await asyncio.sleep(0.05)
        yield client, reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize("size", [1, 1_000_000])
async def test_an_answer_that_a_client_of_http_2_has_no_room_for_ends_with_the_client(size: int, resets: bool) -> None:
    answer = LargeAnswer(size)
    async with (
        serving("hypercorn", answer) as port,
        asyncio.timeout(10),
        without_room(port) as (client, reader, writer),
    ):
        assert not answer.ended.is_set()
        if resets:
            client.reset_stream(1)
            writer.write(client.data_to_send())
            await answer.ended.wait()
            while await reader.read(65536):  # the connection idles now, and not for ever
                pass
        else:
            writer.close()
            await answer.ended.wait()


@pytest.mark.parametrize("size", [1, 1_000_000])
async def test_a_client_of_http_2_that_gives_no_room_is_let_go(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chroma_async.server.with_hypercorn.STALL_SECONDS", 0.4)
    answer = LargeAnswer(size)
    async with serving("hypercorn", answer) as port, asyncio.timeout(10), without_room(port) as (client, reader, _):
        events: list[object] = []
        while data := await reader.read(65536):
            events += client.receive_data(data)
        assert answer.ended.is_set()
        assert [type(event) for event in events if isinstance(event, StreamReset | StreamEnded)] == [StreamReset]


async def test_a_client_of_http_2_that_takes_an_answer_slowly_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chroma_async.server.with_hypercorn.STALL_SECONDS", 0.2)
    answer = LargeAnswer(20_000)
    got = b""
    async with (
        serving("hypercorn", answer) as port,
        asyncio.timeout(20),
        without_room(port) as (client, reader, writer),
    ):
        while len(got) < 40_000:
            client.increment_flow_control_window(4_000, 1)
            writer.write(client.data_to_send())
            for event in client.receive_data(await reader.read(65536)):
                assert not isinstance(event, StreamReset)
                got += event.data if isinstance(event, DataReceived) else b""
            await asyncio.sleep(0.1)
    assert got == bytes(40_000)


@pytest.mark.parametrize("name", ["hypercorn", "uvicorn"])
async def test_a_client_that_takes_nothing_of_its_answer_is_let_go(
    name: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chroma_async.server.transport.STALL_SECONDS", 0.4)
    answer = LargeAnswer(10_000_000)
    loop, got = asyncio.get_running_loop(), 0
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        async with serving(name, answer) as port, asyncio.timeout(10):
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
            await answer.ended.wait()
            await asyncio.sleep(1.0)
            with suppress(ConnectionResetError):
                while data := await loop.sock_recv(client, 2**20):
                    got += len(data)
    assert got < 10_000_000


@pytest.mark.parametrize("name", ["hypercorn", "uvicorn"])
async def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(
    name: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chroma_async.server.transport.STALL_SECONDS", 0.2)
    answer = LargeAnswer(2_000_000)
    got = 0
    async with serving(name, answer) as port, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
        writer.write(b"GET /first HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        while data := await reader.read(2**18):
            got += len(data)
            await asyncio.sleep(0.1)
        writer.close()
    assert got >= 4_000_000


UNREADABLE = {
    "path that is not ASCII": [(":method", "GET"), (":path", "/é")],
    "method that is not ASCII": [(":method", "GÉT"), (":path", "/first")],
    "tunnel": [(":method", "CONNECT")],
    "tunnel in small letters": [(":method", "connect"), (":path", "/first")],
    "method in small letters": [(":method", "delete"), (":path", "/first")],
}


@pytest.mark.parametrize("case", UNREADABLE)
async def test_unreadable_request_of_http_2_ends_its_stream_only(case: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    witness = Witness()
    config = H2Configuration(client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False)
    client = H2Connection(config)
    client.initiate_connection()
    rest = [(":authority", "a"), ("authorization", f"Bearer {SECRET}")]
    scheme = [(":scheme", "http")]
    bad = UNREADABLE[case]
    client.send_headers(1, [*bad, *(scheme if len(bad) > 1 else []), *rest])
    client.send_data(1, b"x" * 1_000, end_stream=True)
    client.send_headers(3, [(":method", "POST"), (":path", "/second"), *scheme, *rest])
    client.send_data(3, b"y", end_stream=True)
    outcome: dict[int, str] = {}
    async with serving("hypercorn", witness) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(client.data_to_send())
        while len(outcome) < 2 and (data := await reader.read(65536)):
            for event in client.receive_data(data):
                if isinstance(event, StreamEnded | StreamReset):
                    outcome[event.stream_id or 0] = type(event).__name__
        writer.close()
    assert outcome == {1: "StreamReset", 3: "StreamEnded"}
    assert witness.seen == [(b"/second", b"y")]
    assert caplog.messages.count("request.unreadable client=127.0.0.1") == 1
    assert SECRET not in caplog.text
    assert "Traceback" not in caplog.text


async def test_client_that_begins_with_http_2_and_asks_nothing_is_let_go() -> None:
    async with serving("hypercorn", Witness()) as port, asyncio.timeout(5):  # which keeps idle connections for 2 seconds
        await exchange(port, BEGUN + b"\0\0\0\4\0\0\0\0\0")


async def test_what_ends_a_connection_is_logged_without_what_it_received(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise LookupError(SECRET) from ValueError(SECRET)

    monkeypatch.setattr(Http2, "_handle_events", fail)
    async with serving("hypercorn", Witness()) as port:
        await exchange(port, BEGUN + b"\0\0\0\4\0\0\0\0\0")
    assert [message for message in caplog.messages if "connection.failed error=LookupError place=fail:" in message]
    assert SECRET not in caplog.text
    assert "Traceback" not in caplog.text


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A real engine with one collection, `/docs`, of one record."""
    async with open_engine(None, EngineSettings(), compact=True) as engine:
        app = create_app(engine.dispatch, ServerSettings(root_path="/chroma"))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            yield client


@pytest.fixture
async def docs(client: httpx.AsyncClient) -> str:
    made = (await client.post(COLLECTIONS, json={"name": "docs"})).json()
    path = f"{COLLECTIONS}/{made['id']}"
    records = {"ids": ["a"], "embeddings": [[1.0, 2.0]], "documents": ["a" * 5_000 + "!"], "metadatas": [{"n": 1}]}
    assert (await client.post(path + "/add", json=records)).status_code == 201
    return path


PATHS = {
    "/api/v2/tenants/../reset": 404,
    "/api/v2/tenants/%2e%2e/reset": 404,
    "/api/v2/./heartbeat": 404,
    "/api/v2//heartbeat": 404,
    "//api/v2/heartbeat": 404,
    "/api%2Fv2%2Fheartbeat": 404,
    "/api/v2/heartbeat/": 404,
    "/api/v2/heartbeat%00": 404,
    "/api/v2/heartbeat;x=1": 404,
    "/api/v2/heartbeat%3Fx": 404,
    "/api\\v2\\heartbeat": 404,
    "/chroma/chroma/api/v2/heartbeat": 404,
    "/chroma/api/v2/heartbeat": 200,
    "/chroma/../api/v2/heartbeat": 404,
    "/%63hroma/api/v2/heartbeat": 404,
    "/api/v2/tenants/..%2F..%2Freset": 404,
    "/api/v2/tenants/%2e%2e": 404,
    "/api/v2/tenants/%ff": 400,
    "/api/v2/tenants/%C0%AE%C0%AE": 400,
    "/api/v2/tenants/%zz": 404,
    "/api/v2/tenants/" + "x" * 30_000: 404,
    "/" * 5_000: 404,
    COLLECTIONS + "/..%2f..%2fdefault_database": 404,
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40])
async def test_a_path_means_what_its_segments_say(client: httpx.AsyncClient, path: str) -> None:
    """Nothing is resolved or decoded before a path is taken apart: what a proxy let pass is what is asked for."""
    status = await raw_status(client, "GET", path)
    assert status == PATHS[path]


async def raw_status(client: httpx.AsyncClient, method: str, path: str) -> int:
    """The status of a request whose path is sent as it is: httpx would resolve it first."""
    app: Any = client._transport.app  # type: ignore[attr-defined]
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = path.encode("latin-1")
    scope = {"type": "http", "http_version": "1.1", "method": method, "headers": [], "query_string": b"", "client": None}
    await app({**scope, "raw_path": raw, "path": httpx.URL("http://x").copy_with(raw_path=b"/").path}, receive, send)
    return int(sent[0]["status"])


DEEP = 100_000
JSON_BOMBS = {
    "deep list": b'{"ids":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep object": b'{"where":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "deep list without an end": b'{"ids":' + b"[" * DEEP,
    "deep list beside a field that is there twice": b'{"ids":["a"],"ids":["b"],"x":' + b"[" * 1_000 + b"]" * 1_000 + b"}",
    "long integer beside a field that is there twice": b'{"ids":["a"],"ids":["b"],"x":' + b"1" * 5_000 + b"}",
    "deep filter": b'{"where":' + b'{"$and":[{"n":1},' * 5_000 + b'{"n":1}' + b"]}" * 5_000 + b"}",
    "deep filter below the parser's limit": b'{"where":' + b'{"$and":[{"n":1},' * 400 + b'{"n":1}' + b"]}" * 400 + b"}",
    "deep filter of documents": b'{"where_document":'
    + b'{"$or":[{"$contains":"a"},' * 400
    + b'{"$contains":"a"}'
    + b"]}" * 400
    + b"}",
    "wide filter": b'{"where":{"$or":[' + b",".join(b'{"n":%d}' % n for n in range(20_000)) + b"]}}",
    "wide list of values": b'{"where":{"n":{"$in":[' + b",".join(b"%d" % n for n in range(200_000)) + b"]}}}",
    "huge integer": b'{"limit":' + b"9" * 100_000 + b"}",
    "huge integer in a filter": b'{"where":{"n":' + b"9" * 4_000 + b"}}",
    "huge exponent": b'{"where":{"n":1e999999}}',
    "negative exponent": b'{"where":{"n":1e-999999}}',
    "huge float": b'{"limit":1e400}',
    "fraction": b'{"limit":1.5}',
    "negative": b'{"limit":-1}',
    "beyond 32 bits": b'{"offset":4294967296}',
    "NaN": b'{"where":{"n":NaN}}',
    "Infinity": b'{"where":{"n":-Infinity}}',
    "duplicate keys": b'{"limit":0,"limit":1}',
    "duplicate keys of a filter": b'{"where":{"n":1,"n":2}}',
    "many duplicate keys": b"{" + b",".join([b'"ids":["a"]'] * 20_000) + b"}",
    "many keys": b"{" + b",".join(b'"k%d":0' % n for n in range(100_000)) + b"}",
    "long key": b'{"' + b"k" * 1_000_000 + b'":1}',
    "long text": b'{"ids":["' + b"x" * 5_000_000 + b'"]}',
    "lone surrogate": b'{"ids":["\\ud800"]}',
    "zero character": b'{"ids":["a\\u0000b"]}',
    "not UTF-8": b'{"ids":["\xff"]}',
    "byte order mark": b'\xef\xbb\xbf{"ids":["a"]}',
    "UTF-16": '{"ids":["a"]}'.encode("utf-16"),
    "trailing text": b'{"ids":["a"]}{"ids":["b"]}',
    "comment": b'{"ids":["a"] /* */}',
    "single quotes": b"{'ids':['a']}",
    "blanks": b" " * 5_000_000 + b"{}",
    "nothing": b"",
    "text": b'"ids"',
    "list": b"[]",
    "null": b"null",
    "prototype": b'{"__proto__":{"limit":0},"constructor":1}',
}


@pytest.mark.parametrize("bomb", JSON_BOMBS)
async def test_json_bombs_are_answered_at_once_and_never_by_5xx(client: httpx.AsyncClient, docs: str, bomb: str) -> None:
    for endpoint in ("/get", "/query", "/delete", "/upsert"):
        began = time.monotonic()
        answer = await client.post(docs + endpoint, content=JSON_BOMBS[bomb])
        assert answer.status_code < 500, (endpoint, answer.text[:500])
        assert time.monotonic() - began < 5
    assert (await client.get("/api/v2/heartbeat")).status_code == 200


EMBEDDINGS = {
    "huge number": b"[[1e39,1]]",
    "NaN": b"[[NaN,1]]",
    "ragged": b"[[1],[1,2]]",
    "deep": b"[" * 5_000 + b"1" + b"]" * 5_000,
    "empty": b"[[]]",
    "texts": b'[["1","2"]]',
    "not base64": b'["!!!!"]',
    "base64 of three bytes": b'["AAAA"]',
    "base64 of NaN": b'["AADAfwAAwH8="]',
    "other dimension": b"[[1,2,3]]",
    "a million numbers": b"[[" + b"0," * 999_999 + b"0]]",
    "integers beyond 64 bits": b"[[" + b"9" * 400 + b",1]]",
}


@pytest.mark.parametrize("bomb", EMBEDDINGS)
async def test_vectors_that_are_none_are_refused(client: httpx.AsyncClient, docs: str, bomb: str) -> None:
    added = await client.post(docs + "/upsert", content=b'{"ids":["a"],"embeddings":' + EMBEDDINGS[bomb] + b"}")
    asked = await client.post(docs + "/query", content=b'{"query_embeddings":' + EMBEDDINGS[bomb] + b"}")
    assert 400 <= added.status_code < 500, added.text[:300]
    assert asked.status_code < 500, asked.text[:300]  # Chroma, too, takes a query that is too large for float32
    assert (await client.post(docs + "/get", json={"include": ["embeddings"]})).json()["embeddings"] == [[1.0, 2.0]]


PATTERNS = [
    "(a+)+$",
    "(a|a)*$",
    "(a|aa)+$",
    "(.*)*x",
    "([a-zA-Z]+)*$",
    "^(([a-z])+.)+[A-Z]([a-z])+$",
    "(a*)*b" * 20,
    "a{1000}{1000}",
    "(" * 2_000 + "a" + ")" * 2_000,
    "((a{100}){100}){100}",
    "(?:" * 500 + "a" + ")*" * 500,
    "[" + "a-z" * 5_000 + "]",
    "|".join(f"a{number}" for number in range(20_000)),
    ".*" * 1_000 + "x",
    "a?" * 1_000 + "a" * 1_000,
    "\\p{L}{1000}",
    "(?=a)b",
    "(a)\\1",
    "(?<n>a)(?P<n>b)",
    "[",
    "\\",
    "*",
    "a{99999999999}",
    "(?i)" + "\u212a" * 1_000,
    "\x00",
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern[:20])
async def test_patterns_take_no_more_time_than_they_read(client: httpx.AsyncClient, docs: str, pattern: str) -> None:
    for operator in ("$regex", "$not_regex"):
        began = time.monotonic()
        answer = await client.post(docs + "/get", json={"where_document": {operator: pattern}})
        assert answer.status_code < 500, answer.text[:300]
        assert time.monotonic() - began < 3
