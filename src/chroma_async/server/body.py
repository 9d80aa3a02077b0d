"""Request bodies: collected up to a limit, and always read to their end, also when the answer is already known.

An answer that is sent while the client still writes is often lost: the server's close reaches the client as a reset, before
it has read a word. So a refused body is read and thrown away first. What guards against endless ones is the pause allowed
between two pieces, the rate at which they must come, how much is thrown away, and that nothing is kept.
"""

from __future__ import annotations

import asyncio
from typing import Final, Self

from starlette.types import Receive

from chroma_async.errors import PayloadTooLargeError

BYTES_PER_SECOND_MIN: Final = 500
PAUSES_MAX: Final = 5
"""A body that has taken as long as so many of the longest pauses must have come at that rate, or is ended: one that trickles
holds a connection. Apache's mod_reqtimeout has the same rate."""

DISCARD_BYTES_MAX: Final = 256 * 2**20
"""Of a body that is thrown away; then the answer is sent, whether or not it arrives."""


class BodyTimeout(Exception):
    """The client paused for too long in the middle of a body, or sends it too slowly."""


class EndlessBodyError(PayloadTooLargeError):
    """A refused body that does not end: the connection has to."""


class ClientDisconnect(Exception):
    """The client went away; nobody waits for an answer."""


async def read_body(receive: Receive, *, bytes_max: int, timeout_seconds: float) -> bytes:
    """Return the whole body of a request.

    Raises:
        PayloadTooLargeError: it has more than `bytes_max` bytes; it was read to its end.
        BodyTimeout: the client paused for longer than `timeout_seconds`.
        ClientDisconnect: the client went away; nobody waits for an answer.
    """
    pieces, size, ended = await _collect(receive, bytes_max, timeout_seconds)
    if size > bytes_max:
        kind = PayloadTooLargeError if ended else EndlessBodyError
        raise kind(f"Failed to buffer the request body: length limit exceeded. bytes_max={bytes_max}")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _collect(receive: Receive, bytes_max: int, timeout_seconds: float) -> tuple[list[bytes], int, bool]:
    """Return the pieces of a body, none when they exceed `bytes_max`, its size, and whether it was read to its end."""
    pieces: list[bytes] = []
    size = 0
    with _Watch(timeout_seconds) as watch:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            piece: bytes = message.get("body", b"")
            size += len(piece)
            if size > bytes_max:
                pieces.clear()
                if size > bytes_max + DISCARD_BYTES_MAX:
                    return pieces, size, False
            elif piece:
                pieces.append(piece)
            if not message.get("more_body", False):
                return pieces, size, True
            watch.moved(size)


class _Watch:
    """Ends the reading of a body that does not move, by `BodyTimeout`.

    This is `asyncio.timeout`, moved on with each piece, at a quarter of the cost, which shows in small requests.
    """

    __slots__ = ("_began_at", "_cancelling", "_expired", "_loop", "_moved_at", "_seconds", "_size", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._expired = False
        self._began_at = self._moved_at = self._loop.time()
        self._size = 0
        self._timer = self._loop.call_later(self._seconds, self._look)
        return self

    def moved(self, size: int) -> None:
        """Begin to wait anew: so many bytes have come by now."""
        self._moved_at = self._loop.time()
        self._size = size

    def _look(self) -> None:
        whole = self._began_at + PAUSES_MAX * self._seconds + self._size / BYTES_PER_SECOND_MIN
        left = min(self._moved_at + self._seconds, whole) - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._expired = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._timer.cancel()
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise BodyTimeout from error


async def discard_body(receive: Receive, *, timeout_seconds: float) -> None:
    """Read a body to its end and keep nothing; raises as `read_body` does, but for a size that comes to an end."""
    try:
        await read_body(receive, bytes_max=0, timeout_seconds=timeout_seconds)
    except EndlessBodyError:
        raise
    except PayloadTooLargeError:
        return
