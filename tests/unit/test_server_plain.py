"""Plain requests: what is taken for one is what h11 reads too, and how their answers are written."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from chroma_async.server import plain
from chroma_async.server.plain import Exchange, plain_request, scope_of

HEAD = b"POST /a?b=c HTTP/1.1\r\nHost: x\r\n"

App = Callable[[Scope, Receive, Send], Awaitable[None]]


# ---- what is plain

SPECIAL = [
    b"GET / HTTP/1.0\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /\x80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\nHost: x\n\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n",
    b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\x00\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, upgrade\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0",
    HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n0",
    HEAD + b"Content-Length: +1\r\n\r\n0",
    HEAD + b"Content-Length: 1, 1\r\n\r\n0",
    HEAD + b"Content-Length: -1\r\n\r\n0",
    HEAD + b"Content-Length: 0x1\r\n\r\n0",
    HEAD + b"Content-Length: 1_0\r\n\r\n0123456789",
    HEAD + "Content-Length: \u0661\r\n\r\n0".encode(),
    HEAD + b"Content-Length: 1000000000000000\r\n\r\n0",
    HEAD + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"",
]


@pytest.mark.parametrize("data", SPECIAL)
def test_whatever_else_is_left_to_a_real_parser(data: bytes) -> None:
    assert plain_request(data) is None


def test_a_plain_request_is_taken_apart() -> None:
    found = plain_request(HEAD + b"X-Long: \t a  b\tc \t\r\nEmpty:\r\nContent-Length: 3\r\n\r\nabcGET")
    assert found is not None
    assert (found.method, found.target, found.length, found.body, found.ahead) == ("POST", b"/a?b=c", 3, b"abc", b"GET")
    wanted = [(b"host", b"x"), (b"x-long", b"a  b\tc"), (b"empty", b""), (b"content-length", b"3")]
    assert found.headers == wanted
    scope = scope_of(found, "http", ("1.2.3.4", 5), None, {})
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a", b"/a", b"b=c")


def test_a_hostile_head_takes_no_longer_than_its_length() -> None:
    """One pass, whatever is almost right; a regular expression that goes back would take for ever."""
    for filler in (b"a ", b"\t", b" ", b"a\t ", b"X: a\r\n", b":"):
        assert plain_request(HEAD + b"X: " + filler * 30_000 + b"\x00") is None


PIECES = st.sampled_from(
    [
        *(b"GET", b"POST", b"PUT", b" ", b"/", b"/a", b"?b", b"%20", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\n", b"\r", b"\t"),
        *(
            b"Host: x\r\n",
            b"host:x\r\n",
            b"A: b\r\n",
            b"Content-Length: 2\r\n",
            b"content-length:0\r\n",
            b"X : y\r\n",
            b"\r\n\r\n",
        ),
        *(
            b"Connection: keep-alive\r\n",
            b"Connection: close\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"\x00",
            b"\x80",
            b":",
        ),
        *(
            b"ab",
            b"GET / HTTP/1.1\r\n",
            b"POST /x HTTP/1.1\r\nHost: x\r\n",
            b"Upgrade: h2c\r\n",
            b" folded\r\n",
            b"\x0b",
            b"\x85",
            b"\xa0",
            b",",
        ),
    ]
)


GOOD = HEAD + b"Content-Length: 3\r\nX-Y: \t a b \t\r\nConnection: keep-alive\r\n\r\nabcGET / HTTP/1.1\r\nHost: x\r\n\r\n"
EDITS = st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 4), PIECES | st.binary(max_size=2)), max_size=3)


def edited(edits: list[tuple[int, int, bytes]]) -> bytes:
    """A good request, of which a few bytes were replaced: most of these are nearly right, and many still are."""
    data = GOOD
    for place, length, piece in edits:
        data = data[:place] + piece + data[place + length :]
    return data


@settings(max_examples=500)
@given(EDITS.map(edited) | st.lists(PIECES, max_size=14).map(b"".join))
@example(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nabcd")
@example(GOOD)
def test_what_is_taken_for_plain_h11_reads_the_same(data: bytes) -> None:
    found = plain_request(data)
    if found is None:
        return
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(data)
    request = parser.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method.decode(), request.target, list(request.headers)) == (found.method, found.target, found.headers)
    body = b""
    while isinstance(event := parser.next_event(), h11.Data):
        body += event.data
    assert body == found.body
    assert (event is h11.NEED_DATA) == (len(found.body) < found.length)
    if isinstance(event, h11.EndOfMessage):
        assert parser.trailing_data[0] == found.ahead


# ---- exchanges


class Peer:
    """A client's end of a connection, and an exchange at the other end."""

    async def __aenter__(self) -> Peer:
        ours, theirs = socket.socketpair()
        self.reader, self.writer = await asyncio.open_connection(sock=ours)
        self.their_reader, self.their_writer = await asyncio.open_connection(sock=theirs)
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in (self.writer, self.their_writer):
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def exchange(self, data: bytes, *, is_over: bool = False) -> Exchange:
        request = plain_request(data)
        assert request is not None
        self.scope = scope_of(request, "http", None, None, {})
        return Exchange(request, self.their_reader, self.their_writer, lambda: is_over)

    async def answered(self, exchange: Exchange, app: App) -> tuple[bool, bytes]:
        goes_on = await exchange.run(app, self.scope)
        self.their_writer.write_eof()
        return goes_on, await self.reader.read()


def answering(*bodies: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            continue
        await send({"type": "http.response.start", "status": status, "headers": headers or []})
        for number, body in enumerate(bodies, 1):
            await send({"type": "http.response.body", "body": body, "more_body": number < len(bodies)})

    return app


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

pytestmark = pytest.mark.anyio


def events(answer: bytes) -> tuple[h11.Response, bytes]:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer)
    response, body = client.next_event(), b""
    assert isinstance(response, h11.Response)
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return response, body


async def test_an_answer_with_a_length_is_sent_as_it_is() -> None:
    async with Peer() as peer:
        app = answering(b"abc", status=201, headers=[(b"content-length", b"3"), (b"x", b"y")])
        goes_on, answer = await peer.answered(peer.exchange(GET), app)
    response, body = events(answer)
    assert (goes_on, response.status_code, response.reason, body) == (True, 201, b"Created", b"abc")
    assert [name for name, _ in response.headers] == [b"content-length", b"x", b"date"]


async def test_an_answer_without_a_length_is_sent_in_chunks() -> None:
    async with Peer() as peer:
        goes_on, answer = await peer.answered(peer.exchange(GET), answering(b"abc", b"", b"de" * 10**5, b""))
    response, body = events(answer)
    assert (goes_on, body) == (True, b"abc" + b"de" * 10**5)
    assert (b"transfer-encoding", b"chunked") in list(response.headers)


async def test_an_empty_status_has_neither() -> None:
    async with Peer() as peer:
        _, answer = await peer.answered(peer.exchange(GET), answering(b"", status=304))
    assert b"transfer-encoding" not in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_a_server_that_stops_says_so_in_the_answer() -> None:
    async with Peer() as peer:
        goes_on, answer = await peer.answered(peer.exchange(GET, is_over=True), answering(b""))
    assert not goes_on
    assert b"connection: close\r\n" in answer


async def test_an_application_may_end_the_connection() -> None:
    async with Peer() as peer:
        goes_on, _ = await peer.answered(peer.exchange(GET), answering(b"", headers=[(b"connection", b"close")]))
    assert not goes_on


async def test_a_body_that_comes_in_pieces_arrives_whole_and_no_more() -> None:
    async with Peer() as peer:
        exchange = peer.exchange(HEAD + b"Content-Length: 300000\r\n\r\nabc")
        pieces: list[bytes] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            while (message := await receive())["more_body"]:
                pieces.append(message["body"])
            pieces.append(message["body"])
            await answering(b"")(scope, receive_nothing, send)

        async def receive_nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        peer.writer.write(b"d" * (300_000 - 3) + GET)
        goes_on, _ = await peer.answered(exchange, app)
    assert b"".join(pieces) == b"abc" + b"d" * (300_000 - 3)
    assert goes_on
    assert exchange.ahead == GET


async def test_a_body_that_nobody_reads_ends_the_connection() -> None:
    async with Peer() as peer:
        exchange = peer.exchange(HEAD + b"Content-Length: 10\r\n\r\nabc")

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 413, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})

        goes_on, _ = await peer.answered(exchange, app)
    assert not goes_on


async def test_a_client_that_leaves_in_its_body_or_after_it_is_noticed() -> None:
    for data in (HEAD + b"Content-Length: 10\r\n\r\nabc", GET):
        async with Peer() as peer:
            seen: list[str] = []

            async def app(scope: Scope, receive: Receive, send: Send, seen: list[str] = seen) -> None:
                while not seen or seen[-1] != "http.disconnect":
                    seen.append((await receive())["type"])

            exchange = peer.exchange(data)
            peer.writer.close()
            assert not await exchange.run(app, peer.scope)
            assert seen == ["http.request", "http.disconnect"]


async def test_requests_that_come_while_somebody_watches_for_the_end_are_kept() -> None:
    """The watcher is cancelled without anybody waiting for it, as the application does; nothing that it read is lost."""
    async with Peer() as peer:

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            watching = asyncio.create_task(receive())
            await asyncio.sleep(0.05)
            peer.writer.write(GET)
            await asyncio.sleep(0.05)
            watching.cancel()
            await answering(b"")(scope, receive_nothing, send)

        async def receive_nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        exchange = peer.exchange(GET)
        goes_on, _ = await peer.answered(exchange, app)
        assert goes_on
        peer.writer.write_eof()
        assert exchange.ahead + await peer.their_reader.read() == GET


async def test_a_client_that_sends_without_end_fills_no_memory() -> None:
    async with Peer() as peer:

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            with suppress(TimeoutError):
                await asyncio.wait_for(receive(), 0.3)

        async def flood() -> None:
            with suppress(ConnectionError):
                while True:
                    peer.writer.write(b"x" * 65536)
                    await peer.writer.drain()

        flooding = asyncio.create_task(flood())
        exchange = peer.exchange(GET)
        await exchange.run(app, peer.scope)
        flooding.cancel()
        assert len(exchange.ahead) <= 3 * plain.RECEIVE_BYTES


async def test_a_client_that_left_behind_its_own_requests_is_noticed_by_what_is_sent() -> None:
    """Nobody reads on once enough of them wait, so that only sending can tell."""
    async with Peer() as peer:
        seen: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            watching = asyncio.create_task(receive())
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while not watching.done():
                await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
                await asyncio.sleep(0.001)
            seen.append(watching.result()["type"])

        exchange = peer.exchange(GET + GET * 4_000)
        exchange_over = asyncio.create_task(exchange.run(app, peer.scope))
        await asyncio.sleep(0.05)
        peer.writer.transport.abort()
        assert not await asyncio.wait_for(exchange_over, 10)
        assert seen == ["http.disconnect"]


async def test_a_header_can_not_end_its_line() -> None:
    async with Peer() as peer:
        exchange = peer.exchange(GET)
        with pytest.raises(ValueError, match="line break"):
            await exchange.run(answering(b"", headers=[(b"x", b"a\r\ny: b")]), peer.scope)
        peer.their_writer.write_eof()
        assert (await peer.reader.read()).startswith(b"HTTP/1.1 500 ")


async def test_an_application_that_fails_is_answered_for() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    async with Peer() as peer:
        exchange = peer.exchange(GET)
        with pytest.raises(ZeroDivisionError):
            await exchange.run(app, peer.scope)
        peer.their_writer.write_eof()
        assert b"connection: close" in await peer.reader.read()


async def test_an_answer_to_a_client_that_has_gone_does_no_harm() -> None:
    async with Peer() as peer:
        exchange = peer.exchange(GET)
        peer.writer.transport.abort()
        await asyncio.sleep(0.05)
        assert not await exchange.run(answering(b"a" * 10**6, b"b" * 10**6, b"c"), peer.scope)
