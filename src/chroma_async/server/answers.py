"""Answers on the wire: results, errors, and the empty ones of HTTP itself."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress
from typing import Final

import orjson
from msgspec.structs import replace
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chroma_async.errors import ChromaError, InternalError
from chroma_async.protocol import WireResponse
from chroma_async.server.body import DISCARD_BYTES_MAX, BodyTimeout, ClientDisconnect, EndlessBodyError, discard_body

LINGER_SECONDS: Final = 5.0
"""How long a client may go on sending after its answer."""

TRACE_HEADER: Final = "chroma-trace-id"
_JSON: Final = (b"content-type", b"application/json")

logger = logging.getLogger("chroma_async.server")


async def send_response(send: Send, response: WireResponse) -> None:
    """Send an answer; one without a body carries no content type."""
    headers = [(b"content-length", b"%d" % len(response.body))]
    if response.body and "content-type" not in response.headers:
        headers.append(_JSON)
    if response.headers:
        headers.extend((name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.items())
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


async def answer_unread(receive: Receive, send: Send, response: WireResponse, *, timeout_seconds: float) -> None:
    """Send an answer that does not depend on the request's body, which is read and thrown away first."""
    try:
        await discard_body(receive, timeout_seconds=timeout_seconds)
    except ClientDisconnect:
        return
    except BodyTimeout:
        response = empty_response(408, connection="close")
    except EndlessBodyError:
        response = with_close(response)
    await send_response(send, response)


class Unread:
    """A page for which the request's body does not matter: it is read and thrown away first."""

    def __init__(self, page: ASGIApp, timeout_seconds: float) -> None:
        self._page = page
        self._timeout_seconds = timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await discard_body(receive, timeout_seconds=self._timeout_seconds)
        except ClientDisconnect:
            return
        except BodyTimeout:
            await send_response(send, empty_response(408, connection="close"))
        except EndlessBodyError:
            await send_response(send, empty_response(413, connection="close"))
        else:
            await self._page(scope, receive, send)


async def refuse(scope: Scope, receive: Receive, send: Send, response: WireResponse, *, timeout_seconds: float) -> None:
    """Send an answer to a request that has not come to its endpoint; the body of a stream has no end to wait for."""
    path: bytes = scope["raw_path"]
    if path.endswith(b"/ingest") and scope["method"] == "POST":
        await answer_at_once(receive, send, response)
    else:
        await answer_unread(receive, send, response, timeout_seconds=timeout_seconds)


async def answer_at_once(receive: Receive, send: Send, response: WireResponse) -> None:
    """Send an answer while the body may still come, for which there may be no end to wait; then the connection ends."""

    async def send_open(message: Message) -> None:
        is_body = message["type"] == "http.response.body"
        await send({**message, "more_body": True} if is_body else message)

    await send_response(send_open, with_close(response))
    await linger(receive)
    await send({"type": "http.response.body", "body": b""})


async def linger(receive: Receive) -> None:
    """Throw away what a client sends that has its answer already, for a while: closing at once would lose the answer."""
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while size < DISCARD_BYTES_MAX:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                size += len(message.get("body", b""))


def with_close(response: WireResponse) -> WireResponse:
    """The same answer, after which the connection ends."""
    return replace(response, headers={**response.headers, "connection": "close"})


def empty_response(status: int, **headers: str) -> WireResponse:
    """An answer of HTTP rather than of the API: unknown path, wrong method, a body that never came."""
    return WireResponse(status=status, body=b"", headers=headers)


def error_response(error: ChromaError, trace: str | None = None, *, named: tuple[str, int] | None = None) -> WireResponse:
    """Return the answer that a client turns back into this error.

    `trace` is the request's id, if it has one; `named` the error's name and status where they are others than its own.
    """
    name, status = named or (error.wire_name, error.status)
    headers = {TRACE_HEADER: trace or secrets.token_hex(16)}
    if error.retryable:
        headers["retry-after"] = str(error.retry_after_seconds)
    body = orjson.dumps({"error": name, "message": error.message})
    return WireResponse(status=status, body=body, headers=headers)


def unexpected_response(error: Exception, call: str, trace: str | None = None) -> WireResponse:
    """Log an error that nobody foresaw, and answer without its details."""
    trace = trace or secrets.token_hex(16)
    return error_response(unexpected_error(error, call, trace), trace)


def unexpected_error(error: Exception, call: str, trace: str | None = None) -> InternalError:
    """Log an error that nobody foresaw, and return one without its details: they may hold what a caller mustn't see."""
    trace = trace or secrets.token_hex(16)
    logger.error("request.failed call=%s trace_id=%s", call, trace, exc_info=error)
    return InternalError(f"internal error; the server's log has the details. trace_id={trace}")
