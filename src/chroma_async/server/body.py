"""Request bodies: collected up to a limit, and always read to their end, also when the answer is already known.

An answer that is sent while the client still writes is often lost: the server's close reaches the client as a reset, before
it has read a word. So a refused body is read and thrown away first. What guards against endless ones is the pause allowed
between two pieces, and that nothing is kept.
"""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from chroma_async.errors import PayloadTooLargeError


class BodyTimeout(Exception):
    """The client paused for too long in the middle of a body."""


async def read_body(receive: Receive, *, bytes_max: int, timeout_seconds: float) -> bytes:
    """Return the whole body of a request.

    Raises:
        PayloadTooLargeError: it has more than `bytes_max` bytes; it was read to its end.
        BodyTimeout: the client paused for longer than `timeout_seconds`.
        ClientDisconnect: the client went away; nobody waits for an answer.
    """
    try:
        pieces, size = await _collect(receive, bytes_max, timeout_seconds)
    except TimeoutError as error:
        raise BodyTimeout from error
    if size > bytes_max:
        raise PayloadTooLargeError("Failed to buffer the request body: length limit exceeded")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _collect(receive: Receive, bytes_max: int, timeout_seconds: float) -> tuple[list[bytes], int]:
    """Return the pieces of a body, none when they exceed `bytes_max`, and its size."""
    pieces: list[bytes] = []
    size = 0
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_seconds) as deadline:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            piece: bytes = message.get("body", b"")
            size += len(piece)
            if size > bytes_max:
                pieces.clear()
            elif piece:
                pieces.append(piece)
            if not message.get("more_body", False):
                return pieces, size
            deadline.reschedule(loop.time() + timeout_seconds)


async def discard_body(receive: Receive, *, timeout_seconds: float) -> None:
    """Read a body to its end and keep nothing; raises as `read_body` does, but for the size."""
    try:
        await read_body(receive, bytes_max=0, timeout_seconds=timeout_seconds)
    except PayloadTooLargeError:
        return
