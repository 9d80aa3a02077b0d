"""What is noted of each request: its id, a line in the access log, and counts. It stands before everything else."""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chroma_async.metrics import HttpMetrics
from chroma_async.server.peers import client_of
from chroma_async.settings import AccessLogForm

REQUEST_ID: Final = "chroma_async.request_id"
CALL: Final = "chroma_async.call"
BODY_BYTES: Final = "chroma_async.body_bytes"
SENDER: Final = "chroma_async.identity"
"""Names in the scope: of the request's id, of the call that it is, of the bytes of its body, and of who sent it."""

RENEW: Final = "chroma_async.renew"
"""Name in the scope of a function: is whoever sent the request still known? It puts who that is now into a context.

Requests that last ask it now and then. It raises what a new request would be answered by.
"""

REQUEST_ID_HEADER: Final = b"x-request-id"
STATUS_LEFT: Final = 499
"""Written down for a client that went away before there was an answer, as nginx does."""

TEXT_MAX: Final = 2048

access_logger = logging.getLogger("chroma_async.access")

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,128}")
_PLAIN: Final = re.compile(r"[!#-<>-\[\]-~]+")
"""Visible ASCII but for quotation marks, equals signs and backslashes."""


class Observed:
    """Gives each request an id, which its answer carries too; logs it and counts it where that is wanted."""

    def __init__(self, app: ASGIApp, log: AccessLogForm | None = None, metrics: HttpMetrics | None = None) -> None:
        self._app = app
        self._write: Callable[[Mapping[str, Any]], None] | None = {None: None, "text": log_text, "json": log_json}[log]
        self._metrics = metrics
        # Not when the module is imported: processes that are forked afterwards would make the same ids.
        self._prefix = secrets.token_hex(6).encode()
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _given_id(scope) or b"%s-%x" % (self._prefix, next(self._numbers))
        scope[REQUEST_ID] = request_id.decode()
        raw_path: bytes = scope["raw_path"]
        answer = _Answer(send, request_id)
        if self._metrics is not None:
            self._metrics.in_flight.inc()
        began = time.perf_counter()
        try:
            await self._app(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - began
            if self._metrics is not None:
                self._metrics.in_flight.dec()
                call, size = scope.get(CALL, ""), scope.get(BODY_BYTES, 0)
                self._metrics.count(call, answer.status or STATUS_LEFT, seconds, size, answer.size)
            if self._write is not None:
                self._write(_fields(scope, raw_path, answer, seconds))


class _Answer:
    """Sends an answer on, adds the request's id, and remembers status and bytes."""

    __slots__ = ("_request_id", "_send", "size", "status")

    def __init__(self, send: Send, request_id: bytes) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 0
        self.size = 0

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.body":
            self.size += len(message.get("body", b""))
        elif kind == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], (REQUEST_ID_HEADER, self._request_id)]
        await self._send(message)


def _given_id(scope: Scope) -> bytes | None:
    """The id that the sender gave: one, of plain characters, so that it can stand in headers and logs."""
    found: bytes | None = None
    for name, value in scope["headers"]:
        if name == REQUEST_ID_HEADER:
            if found is not None or not _REQUEST_ID.fullmatch(value):
                return None
            found = value
    return found


def _fields(scope: Scope, raw_path: bytes, answer: _Answer, seconds: float) -> dict[str, Any]:
    return {
        "client": client_of(scope),
        "identity": getattr(scope.get(SENDER), "name", "-"),
        "method": scope["method"],
        "path": raw_path.decode("latin-1"),
        "call": scope.get(CALL, "-"),
        "status": answer.status or STATUS_LEFT,
        "bytes": answer.size,
        "seconds": round(seconds, 6),
        "request_id": scope[REQUEST_ID],
    }


def log_text(fields: Mapping[str, Any]) -> None:
    """Log `request.done name=value ...`. A value that is not plain stands in quotation marks, as JSON has it."""
    access_logger.info("request.done %s", " ".join(f"{name}={plain(value)}" for name, value in fields.items()))


def log_json(fields: Mapping[str, Any]) -> None:
    """Log one JSON object, which is the whole line."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    cut = {name: value[:TEXT_MAX] if isinstance(value, str) else value for name, value in fields.items()}
    access_logger.info("%s", _json({"time": at, "event": "request.done", **cut}))


def plain(value: object) -> str:
    """A value as it may stand in a line of a log: no white space, nothing like the next name, not endless."""
    text = f"{value:.6f}" if isinstance(value, float) else str(value)[:TEXT_MAX]
    return text if _PLAIN.fullmatch(text) else _json(text)


def _json(value: object) -> str:
    """ASCII only: other characters may be line ends, or turn the direction of writing."""
    text = orjson.dumps(value, default=str).decode()
    return text if text.isprintable() and text.isascii() else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    if " " <= char <= "~":
        return char
    encoded = char.encode("utf-16-be")
    return "".join(f"\\u{encoded[place : place + 2].hex()}" for place in range(0, len(encoded), 2))
