"""Requests over HTTP/1.1 that need no state machine, answered without one.

A request is plain when its whole head came in one piece, well-formed beyond doubt, without anything that changes how the
connection is used (RFC 9112): no coding of the body, no upgrade, no expectation, no other wish about the connection than to
keep it. Nearly all are. Everything else, and all that could be read in two ways, is not looked at here: Hypercorn gets it as
it came, and refuses or serves it as before.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

from msgspec import Struct
from starlette.types import ASGIApp, Message, Scope

RECEIVE_BYTES: Final = 64 * 1024

LENGTH_DIGITS_MAX: Final = 15

# A method, a path, and headers: names are tokens, values visible characters with blanks between (RFC 9110, 5.5 and 5.6.2).
_HEAD: Final = re.compile(
    rb"(GET|POST|PUT|PATCH|DELETE) (/[!-~]*+) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[ \t]*+(?:[!-~\x80-\xff]++(?:[ \t]++(?=[!-~\x80-\xff]))?)*+[ \t]*+\r\n)++)\r\n"
)
_HEADER: Final = re.compile(rb"([^:\r\n]++):[ \t]*+([^\r\n]*+)\r\n")

SPECIAL: Final = frozenset({b"transfer-encoding", b"upgrade", b"expect", b"te", b"trailer", b"http2-settings"})
"""Headers that make a request another one than a plain one."""

Header = tuple[bytes, bytes]


class PlainRequest(Struct, frozen=True):
    """A head, how long its body is, and what came of that with it; `ahead` is what came after it."""

    method: str
    target: bytes
    headers: list[Header]
    length: int
    body: bytes
    ahead: bytes


def plain_request(data: bytes) -> PlainRequest | None:
    """Return the plain request that data begins with; None for everything else."""
    found = _HEAD.match(data)
    if found is None:
        return None
    headers = [(name.lower(), value.rstrip(b" \t")) for name, value in _HEADER.findall(found[3])]
    values = dict(headers)
    if len(values) != len(headers) or b"host" not in values or not SPECIAL.isdisjoint(values):
        return None
    if values.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    text = values.get(b"content-length", b"0")
    if not text.isdigit() or len(text) > LENGTH_DIGITS_MAX:
        return None
    start, length = found.end(), int(text)
    body = data[start : start + length]
    return PlainRequest(found[1].decode("ascii"), found[2], headers, length, body, data[start + length :])


class Exchange:
    """One plain request and its answer, on a connection that nobody else reads meanwhile."""

    def __init__(
        self, request: PlainRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_over: Callable[[], bool]
    ) -> None:
        """`is_over` says whether the connection is to end after an answer."""
        self._request = request
        self._reader = reader
        self._writer = writer
        self._is_over = is_over
        self._rest = request.length
        self._is_first = True
        self._reading: asyncio.Future[bytes] | None = None
        self._gone = asyncio.Event()
        """Set when the client has left."""
        self._start: Message | None = None
        self._has_begun = False
        self._has_ended = False
        self._is_chunked = False
        self._closes = False
        self.ahead = request.ahead
        """What came after the request."""

    async def run(self, app: ASGIApp, scope: Scope) -> bool:
        """Have the request answered; return whether the connection can serve another one.

        Raises:
            Exception: of the application; the client was told, if nothing had been sent to it.
        """
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            if not self._has_begun:
                self._writer.write(_head(500, [(b"content-length", b"0"), (b"connection", b"close")]))
            raise
        finally:
            await self._stop_reading()
        return self._has_ended and not self._closes and not self._gone.is_set() and not self._rest

    async def _receive(self) -> Message:
        if self._is_first or self._rest:
            return await self._receive_body()
        while not self._gone.is_set():  # whoever asks again waits for the client to leave
            if len(self.ahead) > RECEIVE_BYTES:
                await self._gone.wait()  # it has sent further requests: what is sent to it will tell
            else:
                data = await self._read()
                self.ahead += data
        return {"type": "http.disconnect"}

    async def _receive_body(self) -> Message:
        data = self._request.body if self._is_first else b""
        if not data and self._rest:
            data = await self._read()
            if self._gone.is_set():
                return {"type": "http.disconnect"}
            data, self.ahead = data[: self._rest], data[self._rest :]
        self._is_first = False
        self._rest -= len(data)
        return {"type": "http.request", "body": data, "more_body": self._rest > 0}

    async def _read(self) -> bytes:
        """Read on. Whoever is cancelled here leaves what is read to the next one who asks."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._reader.read(RECEIVE_BYTES))
        await asyncio.wait({self._reading})
        return self._taken(self._reading)

    def _taken(self, reading: asyncio.Future[bytes]) -> bytes:
        self._reading = None
        data = b"" if reading.cancelled() or reading.exception() is not None else reading.result()
        if not data:
            self._gone.set()
        return data

    async def _stop_reading(self) -> None:
        """Leave the reader to others."""
        reading = self._reading
        if reading is None:
            return
        reading.cancel()
        await asyncio.wait({reading})
        if not reading.cancelled():  # it was over already
            self.ahead += self._taken(reading)

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body" and self._start is not None and not self._has_ended:
            await self._send_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"a message that does not belong here. type={message['type']}")

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        pieces: list[bytes] = []
        if not self._has_begun:
            pieces.append(self._begun())
            self._has_begun = True
        if self._is_chunked:
            pieces += [b"%x\r\n" % len(body), body, b"\r\n"] if body else []
            pieces += [] if more else [b"0\r\n\r\n"]
        else:
            pieces.append(body)
        self._has_ended = not more
        if self._gone.is_set():
            return
        try:
            for piece in pieces if len(body) > RECEIVE_BYTES else (b"".join(pieces),):
                self._writer.write(piece)
            await self._writer.drain()
        except (ConnectionError, RuntimeError):
            self._gone.set()

    def _begun(self) -> bytes:
        """The head of the answer. What has no length is sent in chunks."""
        assert self._start is not None
        status, headers = int(self._start["status"]), list(self._start.get("headers", ()))
        names = dict(headers)
        self._is_chunked = b"content-length" not in names and status not in (204, 304)
        if self._is_chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        self._closes = names.get(b"connection", b"").lower() == b"close"
        if not self._closes and self._is_over():
            self._closes = True
            headers.append((b"connection", b"close"))
        return _head(status, headers)


def _head(status: int, headers: list[Header]) -> bytes:
    """The head of an answer.

    Raises:
        ValueError: a header would end the line it stands on.
    """
    lines = b"".join([_status_line(status), *(b"%b: %b\r\n" % header for header in headers), _date_line(), b"\r\n"])
    if lines.count(b"\n") != len(headers) + 3 or lines.count(b"\r") != len(headers) + 3:
        raise ValueError("a header of the answer has a line break in it")
    return lines


_STATUS_LINES: Final = {item.value: b"HTTP/1.1 %d %b\r\n" % (item.value, item.phrase.encode()) for item in HTTPStatus}


def _status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


class _Date:
    """The header of this second."""

    second = 0
    line = b""


def _date_line() -> bytes:
    now = int(time.time())
    if now != _Date.second:
        _Date.second, _Date.line = now, b"date: %b\r\n" % formatdate(now, usegmt=True).encode()
    return _Date.line


def scope_of(request: PlainRequest, scheme: str, client: Any, server: Any, state: dict[str, Any]) -> Scope:
    """Return the ASGI scope of a request, as Hypercorn makes it."""
    path, _, query = request.target.partition(b"?")
    return {
        "type": "http",
        "http_version": "1.1",
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "method": request.method,
        "scheme": scheme,
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": request.headers,
        "client": client,
        "server": server,
        "state": dict(state),
        "extensions": {},
    }
