"""The answer to an ingest stream: what is durable, said as it becomes so, and a last word."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import msgspec
from starlette.types import Message, Receive, Scope, Send

from chroma_async.errors import ChromaError
from chroma_async.model import Lsn
from chroma_async.protocol import WireResponse
from chroma_async.protocol.ingest import NDJSON, Acknowledgement, IngestResult, LineError, encode_acknowledgement
from chroma_async.server.answers import answer_at_once, error_response, linger, send_response
from chroma_async.server.body import ClientDisconnect
from chroma_async.server.observe import REQUEST_ID

ERRORS_MAX: Final = 10_000
"""Bad lines that wait to be named."""


class _News(msgspec.Struct):
    """What the client was not told yet."""

    position: int
    lsn: Lsn | None = None
    errors: list[LineError] = msgspec.field(default_factory=list[LineError])
    dropped: int = 0

    def add(self, result: IngestResult) -> None:
        self.position = result.position
        self.lsn = self.lsn if result.lsn is None else result.lsn
        room = ERRORS_MAX - len(self.errors)
        self.errors.extend(result.errors[:room])
        self.dropped += max(0, len(result.errors) - room)

    def take(self) -> Acknowledgement:
        errors, self.errors = self.errors, []
        dropped, self.dropped = self.dropped, 0
        return Acknowledgement(position=self.position, lsn=self.lsn, errors=errors, errors_dropped=dropped)


class StreamAnswer:
    """Says what is told to it: at once, or later in one word when its client reads slowly. Nobody waits for that.

    From `finish` on the client may pause for `patience_seconds`, before that for as long as it likes.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, position: int, patience_seconds: float) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._patience_seconds = patience_seconds
        self._loop = asyncio.get_running_loop()
        self._news = _News(position)
        self._has_news = asyncio.Event()
        self._is_settled = False
        """Whether any part was: from then on an error is the last line of an answer, before that an answer of its own."""
        self._is_over = False
        self._error: ChromaError | None = None
        self._is_gone = False
        self._has_begun = False
        self._patience: asyncio.Timeout | None = None

    # ---- what it is told

    def add(self, result: IngestResult) -> None:
        """A part is settled."""
        self._news.add(result)
        self._is_settled = True
        self._has_news.set()

    def finish(self, error: ChromaError | None) -> None:
        """All is settled, or nothing more will be, for this error: what is left is the last word."""
        if self._is_over:
            return
        self._is_over, self._error = True, error
        self._has_news.set()
        if self._patience is not None:
            self._patience.reschedule(self._loop.time() + self._patience_seconds)

    def give_up(self) -> None:
        """The client has gone."""
        self._is_gone = True
        self.finish(None)

    # ---- what it says

    async def run(self, heartbeat_seconds: float) -> None:
        """Acknowledge, until there is but one word left to say; after so long without a word the position once more."""
        try:
            while not self._is_over:
                with suppress(TimeoutError):
                    async with asyncio.timeout(heartbeat_seconds):
                        await self._has_news.wait()
                self._has_news.clear()
                if self._is_settled and not self._is_over:
                    await self._say(self._news.take())
        except ClientDisconnect:
            self._is_gone = True

    async def _say(self, acknowledged: Acknowledgement) -> None:
        if not self._has_begun:
            self._has_begun = True
            headers = [(b"content-type", NDJSON.encode()), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
            await self._deliver({"type": "http.response.start", "status": 200, "headers": headers})
        body = encode_acknowledgement(acknowledged)
        await self._deliver({"type": "http.response.body", "body": body, "more_body": True})

    async def _deliver(self, message: Message) -> None:
        """Send on, for as long as it takes; when all else is over, for as long as a client may pause.

        Raises:
            ClientDisconnect: the client reads no more.
        """
        try:
            async with asyncio.timeout(None) as self._patience:
                if self._is_over:
                    self._patience.reschedule(self._loop.time() + self._patience_seconds)
                await self._send(message)
        except TimeoutError:
            raise ClientDisconnect from None
        finally:
            self._patience = None

    async def say_last(self, *, is_whole: bool) -> None:
        """Say how it ended. A client that still sends, since its body is not whole, is listened to for a while."""
        if self._is_gone:
            return
        with suppress(ClientDisconnect):
            if self._error is not None and not self._is_settled:
                await self._refuse(self._error, is_whole)
            else:
                await self._end(is_whole)

    async def _refuse(self, error: ChromaError, is_whole: bool) -> None:
        response = error_response(error, self._scope.get(REQUEST_ID))
        if is_whole:
            await send_response(self._deliver, response)
        else:
            await answer_at_once(self._receive, self._send, response)

    async def _end(self, is_whole: bool) -> None:
        error = self._error
        last = self._news.take()
        if error is None:
            last = msgspec.structs.replace(last, done=True)
        else:
            last = msgspec.structs.replace(last, error=error.wire_name, status=error.status, message=error.message)
        if is_whole and not self._has_begun:
            body = encode_acknowledgement(last)
            await send_response(self._deliver, WireResponse(200, body, {"content-type": NDJSON}))
            return
        await self._say(last)
        if not is_whole:
            await linger(self._receive)
        await self._deliver({"type": "http.response.body", "body": b""})
