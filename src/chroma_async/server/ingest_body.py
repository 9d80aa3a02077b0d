"""The body of an ingest stream: read as it comes, given away in parts of whole lines."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from starlette.types import Receive, Scope

from chroma_async.errors import ChromaError
from chroma_async.server.body import ClientDisconnect
from chroma_async.server.cutters import PART_BYTES_MAX, Cutter, Piece
from chroma_async.server.observe import BODY_BYTES

JOIN_SECONDS: Final = 0.05
"""How long the first line of a part waits for others."""

WAITING_BYTES_MAX: Final = 4 * 2**20
"""Of whole lines that wait to be cut; then the body is not read on."""


class StreamBody:
    """What has come and was not taken yet. One task reads, another one takes; whoever wants ends it."""

    def __init__(self, scope: Scope, receive: Receive, cutter: Cutter) -> None:
        self._scope = scope
        self._receive = receive
        self._cutter = cutter
        self._loop = asyncio.get_running_loop()
        self.is_bounded = any(name == b"content-length" for name, _ in scope["headers"])
        """Whether its end is known to come: its sender has said how long it is."""
        self.is_whole = False
        """It was read to its end."""
        self._is_ended = False
        """No more is read of it."""
        self.cause: ChromaError | None = None
        """Why no more is read, if not because it was whole."""
        self.moved_at = self._loop.time()
        """When the last whole line came."""
        self._waiting_since = self.moved_at
        """When the first one came that waits to be taken."""
        self._has_come = asyncio.Event()
        self._has_room = asyncio.Event()

    @property
    def is_waiting(self) -> bool:
        """Whether there is a line that nobody has taken yet."""
        return self._cutter.waiting_bytes > 0

    def end(self, cause: ChromaError | None) -> None:
        """Read no more. What has come whole can still be taken."""
        if not self._is_ended:
            self._is_ended, self.cause = True, cause
            self._has_come.set()
            self._has_room.set()

    async def read(self) -> None:
        """Read to the end, as long as little enough waits.

        Raises:
            ClientDisconnect: the client has gone.
        """
        size = 0
        while not self._is_ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            data: bytes = message.get("body", b"")
            size += len(data)
            self._scope[BODY_BYTES] = size
            self.is_whole = not message.get("more_body", False)
            if not self._is_ended:
                self._feed(data)
            while self._cutter.waiting_bytes > WAITING_BYTES_MAX and not self._is_ended:
                self._has_room.clear()
                await self._has_room.wait()

    def _feed(self, data: bytes) -> None:
        before = self._cutter.waiting_bytes
        try:
            self._cutter.feed(data)
            if self.is_whole:
                self._cutter.end()
        except ChromaError as error:
            self.end(error)
        else:
            if self.is_whole:
                self.end(None)
        if self._cutter.waiting_bytes != before:
            self.moved_at = self._loop.time()
            if not before:
                self._waiting_since = self.moved_at
            if not before or self._cutter.waiting_bytes >= PART_BYTES_MAX:
                self._has_come.set()

    async def take(self, patience_seconds: float) -> Piece | None:
        """Return the next part, after more lines had the time to join it; None at the end.

        Where no line comes for so long it is one without lines.
        """
        while not self.is_waiting:
            if self._is_ended:
                return None
            if not await self._comes_within(patience_seconds):
                return Piece(b"", 0)
        while not self._is_ended and self._cutter.waiting_bytes < PART_BYTES_MAX:
            left = self._waiting_since + JOIN_SECONDS - self._loop.time()
            if left <= 0:
                break
            await self._comes_within(left)
        piece = self._cutter.cut()
        self._waiting_since = self._loop.time()
        self._has_room.set()
        return piece

    async def _comes_within(self, seconds: float) -> bool:
        """Wait for the first line, for as many as a part may have, or for the end."""
        self._has_come.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._has_come.wait()
        return self._has_come.is_set()
