"""A small raw HTTP/1.1 client: one keep-alive connection, bodies in and out as bytes, nothing decoded.

An ordinary client costs more per request than the servers under test and would measure itself. This one writes a
prepared head and body, finds status, length and end of the answer, and leaves JSON to whoever wants it later.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from load_tests.errors import RequestFailed

_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Response:
    """One answer; `body` is as sent, with chunks joined."""

    status: int
    body: bytes
    closes: bool
    retry_after_seconds: float | None


@dataclass(frozen=True, slots=True)
class _Head:
    status: int
    body_start: int
    length: int | None
    """Length of the body in bytes; None: the body comes in chunks."""
    closes: bool
    retry_after_seconds: float | None


class ResponseParser:
    """Turns the bytes of one connection into answers, one at a time (requests are never pipelined)."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: _Head | None = None

    @property
    def started(self) -> bool:
        """Whether part of an answer has arrived."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Response | None:
        """Take the next bytes and return the answer once it is complete."""
        self._buffer += data
        if self._head is None:
            self._head = _parse_head(self._buffer)
        if self._head is None:
            return None
        body = self._body(self._head)
        if body is None:
            return None
        head = self._head
        self._buffer.clear()
        self._head = None
        return Response(head.status, body, head.closes, head.retry_after_seconds)

    def _body(self, head: _Head) -> bytes | None:
        if head.length is None:
            return _join_chunks(self._buffer, head.body_start)
        end = head.body_start + head.length
        return bytes(self._buffer[head.body_start : end]) if len(self._buffer) >= end else None


def _parse_head(buffer: bytearray) -> _Head | None:
    end = buffer.find(_HEAD_END)
    if end < 0:
        return None
    head = bytes(buffer[:end]).lower()
    if not head.startswith(b"http/1."):
        raise RequestFailed(f"the answer is not HTTP/1.1. head={head[:80]!r}")
    chunked = _header(head, b"transfer-encoding") == b"chunked"
    retry_after = _header(head, b"retry-after")
    return _Head(
        status=int(head[9:12]),
        body_start=end + len(_HEAD_END),
        length=None if chunked else int(_header(head, b"content-length") or 0),
        closes=_header(head, b"connection") == b"close",
        retry_after_seconds=float(retry_after) if retry_after and retry_after.isdigit() else None,
    )


def _header(lowered_head: bytes, name: bytes) -> bytes | None:
    start = lowered_head.find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    end = lowered_head.find(b"\r\n", start)
    return lowered_head[start : end if end >= 0 else None].strip()


def _join_chunks(buffer: bytearray, position: int) -> bytes | None:
    """Join the chunks from `position` on, or return None while the last one is missing.

    Starts over with every piece that arrives. That is quadratic, but answers with a length are the rule.
    """
    body = bytearray()
    while (line_end := buffer.find(b"\r\n", position)) >= 0:
        size = int(bytes(buffer[position:line_end]).split(b";")[0], 16)
        start = line_end + 2
        if len(buffer) < start + size + 2:
            return None
        if size == 0:
            return bytes(body)
        body += buffer[start : start + size]
        position = start + size + 2
    return None


class _Wire(asyncio.Protocol):
    """Connects asyncio's callbacks to one waiting future."""

    def __init__(self) -> None:
        self.closed = False
        self.answer: asyncio.Future[Response] | None = None
        self.transport: asyncio.Transport | None = None
        self.parser = ResponseParser()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            response = self.parser.feed(data)
        except (RequestFailed, ValueError) as error:
            self._fail(RequestFailed(f"the answer could not be read. reason={error}"))
            return
        if response is not None and self.answer is not None and not self.answer.done():
            self.answer.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._fail(ConnectionResetError("the server closed the connection"))

    def _fail(self, error: Exception) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error)


class Connection:
    """One keep-alive connection that opens itself again when the server ended it between two answers.

    Servers may end a connection after some number of requests; clients then reconnect, and so does this one, once
    per request and counted in `reconnects`. All requests of the load tests may be repeated without harm.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._wire: _Wire | None = None
        self.reconnects = 0

    async def open(self) -> None:
        """Connect.

        Raises:
            OSError: nothing listens there.
        """
        loop = asyncio.get_running_loop()
        _, self._wire = await loop.create_connection(_Wire, self._host, self._port)

    def close(self) -> None:
        """End the connection; harmless when it is closed already."""
        if self._wire is not None and self._wire.transport is not None:
            self._wire.transport.close()
        self._wire = None

    async def exchange(self, head: bytes, body: bytes | memoryview) -> Response:
        """Send one request and return its answer, whatever its status.

        Raises:
            RequestFailed: the connection ended in the middle of an answer, or twice before one.
        """
        if self._wire is None or self._wire.closed:
            await self._reopen()
        try:
            return await self._attempt(head, body)
        except ConnectionResetError as error:
            if self._wire is not None and self._wire.parser.started:
                raise RequestFailed("the server closed the connection in the middle of an answer") from error
        await self._reopen()
        try:
            return await self._attempt(head, body)
        except ConnectionResetError as error:
            raise RequestFailed("the server closed the connection twice without an answer") from error

    async def _reopen(self) -> None:
        self.reconnects += 1
        try:
            await self.open()
        except OSError as error:
            raise RequestFailed(f"the server no longer accepts connections. reason={error}") from error

    async def _attempt(self, head: bytes, body: bytes | memoryview) -> Response:
        wire = self._wire
        assert wire is not None
        assert wire.transport is not None
        wire.answer = asyncio.get_running_loop().create_future()
        wire.transport.writelines((head, body))
        response = await wire.answer
        if response.closes:
            self.close()
        return response


def post_head(path: str, length: int) -> bytes:
    """Head of a POST of `length` bytes of JSON."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Accept: */*\r\nContent-Length: {length}\r\n\r\n"
    ).encode("ascii")
