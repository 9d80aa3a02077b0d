"""Ingest streams over HTTP: a body that is cut into parts as it comes, and an answer that flows beside it.

Theory of operation. Four tasks share one stream. The reader takes the body from the server, as long as little enough of it
waits. The cutter makes a part of what has come, after a pause that lets more lines join, and hands it to the engine; of two
parts one may be decoded while the other is appended. The settler awaits them in order. The sender, which is the request
itself, says what is durable.

Nobody waits for the client to read: what the sender can't say yet is merged, since positions are cumulative, and the bad
lines that wait are bounded. So a client may send its whole body before it reads a word. What holds back the body is the log
alone: a part that waits for room or for a slow disk stops the cutter, then the reader, then, by flow control, the client.

An error that is known before the first acknowledgement is an ordinary answer, with its status. Later it is the last line.
Either way the client may still be sending: what comes is thrown away for a while; closing at once would lose the answer.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import secrets
from collections import deque
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final, cast

import msgspec
from starlette.types import Message, Receive, Scope, Send

from chroma_async.errors import (
    ChromaError,
    InvalidArgumentError,
    RateLimitError,
    StreamGapError,
    UnavailableError,
    UnsupportedMediaTypeError,
)
from chroma_async.model import Lsn
from chroma_async.protocol import Ingest, WireRequest, WireResponse
from chroma_async.protocol.arrow import require_arrow
from chroma_async.protocol.ingest import (
    ARROW,
    NDJSON,
    Acknowledgement,
    IngestResult,
    LineError,
    encode_acknowledgement,
)
from chroma_async.server.answers import answer_at_once, error_response, linger, send_response, unexpected_error
from chroma_async.server.body import ClientDisconnect
from chroma_async.server.cutters import PART_BYTES_MAX, ArrowCutter, Cutter, LineCutter, Piece
from chroma_async.server.endpoint import Endpoint, Host, decode_query, decode_segment
from chroma_async.server.life import Life
from chroma_async.server.observe import BODY_BYTES, CALL, RENEW, REQUEST_ID

CONTENT_TYPES: Final[Mapping[str, str]] = {
    NDJSON: NDJSON,
    "application/ndjson": NDJSON,
    "application/jsonl": NDJSON,
    "application/json": NDJSON,
    ARROW: ARROW,
}
"""What a body may say that it is, and what that is to us. One JSON object is NDJSON of one line."""

JOIN_SECONDS: Final = 0.05
"""How long the first line of a part waits for others."""

WAITING_BYTES_MAX: Final = 4 * 2**20
"""Of whole lines that wait to be cut; then the body is not read on."""

PARTS_MAX: Final = 2
"""Of one stream that are decoded or appended at a time."""

ERRORS_MAX: Final = 10_000
"""Bad lines that wait to be named."""

HEARTBEAT_SECONDS: Final = 10.0
"""After so long without a word the position is said again, so that proxies know that the stream lives."""

RETRY_SECONDS: Final = 0.2

logger = logging.getLogger("chroma_async.server")


class IngestEndpoint(Endpoint):
    """Answers streams, any number of lines long."""

    def __init__(self, host: Host, life: Life) -> None:
        super().__init__(Ingest.route, Ingest.__name__, host)
        self._life = life

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[CALL] = self._name
        streams_max = self._host.settings.ingest_streams_max
        try:
            if self._host.refusal_of is not None and (refusal := self._host.refusal_of(Ingest)) is not None:
                raise refusal
            opening = _opening(scope, self._path_fields)
            if self._life.streams >= streams_max:
                raise RateLimitError(f"too many streams at the same time: wait for some. ingest_streams_max={streams_max}")
            stream = _Stream(self._host, opening, scope, receive, send, self._life.draining)
        except ChromaError as error:
            await answer_at_once(receive, send, error_response(error, scope.get(REQUEST_ID)))
            return
        self._count(1)
        try:
            await stream.run()
        finally:
            self._count(-1)
        await stream.say_last()

    def _count(self, change: int) -> None:
        self._life.count(streams=change)
        if self._host.metrics is not None:
            self._host.metrics.ingest_streams.inc(change)


def _opening(scope: Scope, path_fields: tuple[str, ...]) -> Ingest:
    """Return a part without lines: all that a stream says before its body.

    Raises:
        ChromaError: it can't be meant so.
    """
    segments: list[str] = scope["path_segments"]
    path = {name: decode_segment(text) for name, text in zip(path_fields, segments, strict=True)}
    query = {"stream_id": secrets.token_hex(16), "session": secrets.token_hex(16), **decode_query(scope)}
    return Ingest.decode(WireRequest(path=path, query=query, content_type=_content_type(scope)))


def _content_type(scope: Scope) -> str:
    headers = {name: value.decode("latin-1").strip().lower() for name, value in scope["headers"]}
    if headers.get(b"content-encoding", "identity") != "identity":
        raise UnsupportedMediaTypeError("a stream is sent as it is, without a `Content-Encoding`")
    kind = CONTENT_TYPES.get(headers.get(b"content-type", NDJSON).partition(";")[0].strip())
    if kind is None:
        raise UnsupportedMediaTypeError(f"a stream is sent as `Content-Type: {NDJSON}` or `{ARROW}`")
    return kind


class _Sent(msgspec.Struct, eq=False):
    """A part on its way through the engine; `number` counts what was handed over, again or for the first time."""

    call: Ingest
    number: int
    task: asyncio.Task[IngestResult]


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


class _Stream:
    """One request."""

    def __init__(
        self, host: Host, opening: Ingest, scope: Scope, receive: Receive, send: Send, draining: asyncio.Event
    ) -> None:
        self._host = host
        self._opening = opening
        self._scope = scope
        self._receive = receive
        self._send = send
        self._draining = draining
        self._cutter = _cutter(opening, host.settings.body_bytes_max)
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self._moved_at = self._loop.time()
        """When the last whole line came."""
        self._waiting_since = self._moved_at
        """When the first one came that waits to be cut."""
        self._is_bounded = any(name == b"content-length" for name, _ in scope["headers"])
        self._is_ended = False
        self._is_whole = False
        """The body was read to its end."""
        self._cause: ChromaError | None = None
        """Why the stream ends where its input ended, if not because it was whole."""
        self._input = asyncio.Event()
        self._room = asyncio.Event()
        self._slots = asyncio.Semaphore(PARTS_MAX - 1)
        self._sent: asyncio.Queue[_Sent | None] = asyncio.Queue()
        self._flying: deque[_Sent] = deque()
        self._numbers = itertools.count(1)
        self._settled_number = 0
        self._news = _News(opening.position)
        self._is_settled = False
        """Whether any part was."""
        self._told = asyncio.Event()
        self._is_over = False
        self._error: ChromaError | None = None
        self._is_gone = False
        self._has_begun = False
        self._patience: asyncio.Timeout | None = None

    async def run(self) -> None:
        """Take the stream to its end, and acknowledge what comes."""
        work = (self._read(), self._cut(), self._settle(), self._watch())
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self._guarded(item)) for item in work]
        try:
            await self._tell()
        except ClientDisconnect:
            self._is_gone = True
        finally:
            tasks += [sent.task for sent in self._flying]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except ChromaError as error:
            self._finish(error)
        except ClientDisconnect:
            self._is_gone = True
            self._finish(None)
        except Exception as error:
            self._finish(unexpected_error(error, Ingest.__name__, self._scope.get(REQUEST_ID)))

    def _finish(self, error: ChromaError | None) -> None:
        """Let the sender say its last word."""
        if self._is_over:
            return
        self._is_over, self._error = True, error
        self._told.set()
        if self._patience is not None:
            self._patience.reschedule(self._loop.time() + self._host.settings.body_timeout_seconds)

    # ---- reader

    async def _read(self) -> None:
        size = 0
        while not self._is_ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            data: bytes = message.get("body", b"")
            size += len(data)
            self._scope[BODY_BYTES] = size
            self._is_whole = not message.get("more_body", False)
            if self._is_ended:
                return
            waiting = self._cutter.waiting_bytes
            try:
                self._cutter.feed(data)
                if self._is_whole:
                    self._cutter.end()
            except ChromaError as error:
                self._end_input(error)
            else:
                if self._is_whole:
                    self._end_input(None)
            if self._cutter.waiting_bytes != waiting:
                self._moved_at = self._loop.time()
                if not waiting:
                    self._waiting_since = self._moved_at
                if not waiting or self._cutter.waiting_bytes >= PART_BYTES_MAX:
                    self._input.set()
            while self._cutter.waiting_bytes > WAITING_BYTES_MAX and not self._is_ended:
                self._room.clear()
                await self._room.wait()

    def _end_input(self, cause: ChromaError | None) -> None:
        """Take no more of the body. What has come whole is still appended, then the stream ends, for this cause."""
        if not self._is_ended:
            self._is_ended, self._cause = True, cause
            self._input.set()
            self._room.set()

    # ---- cutter

    async def _cut(self) -> None:
        position = self._opening.position
        piece: Piece | None = await self._next() or Piece(b"", 0)
        while piece is not None:
            call = msgspec.structs.replace(self._opening, position=position, content=piece.content)
            sent = _Sent(call, *self._dispatched(call))
            self._flying.append(sent)
            self._sent.put_nowait(sent)
            position += piece.lines
            await self._slots.acquire()
            piece = await self._next()
        self._sent.put_nowait(None)

    async def _next(self) -> Piece | None:
        """Return the next part, after more lines had the time to join it; None at the end.

        Soon at the beginning, and now and then later, it is one without lines: whether the stream may go on is told by the
        engine, which also remembers it anew.
        """
        patience = HEARTBEAT_SECONDS if self._flying or self._is_settled else JOIN_SECONDS
        while not self._cutter.waiting_bytes:
            if self._is_ended:
                return None
            self._input.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._input.wait()
            if not self._input.is_set():
                return Piece(b"", 0)
        while not self._is_ended and self._cutter.waiting_bytes < PART_BYTES_MAX:
            left = self._waiting_since + JOIN_SECONDS - self._loop.time()
            if left <= 0:
                break
            self._input.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._input.wait()
        piece = self._cutter.cut()
        self._waiting_since = self._loop.time()
        self._room.set()
        return piece

    # ---- settler

    async def _settle(self) -> None:
        while (sent := await self._sent.get()) is not None:
            result = await self._result(sent)
            self._flying.popleft()
            self._settled_number = sent.number
            self._slots.release()
            self._news.add(result)
            self._is_settled = True
            self._moved_at = self._loop.time()  # the client may have waited for this
            self._told.set()
            if result.stopped_by is not None:
                bad = result.stopped_by
                raise InvalidArgumentError(f"the stream stopped at a bad line. line={bad.line}: {bad.message}")
        self._finish(self._cause)

    async def _result(self, sent: _Sent) -> IngestResult:
        """Await a part. One that found no room is sent again: a stream waits for as long as it takes."""
        while True:
            try:
                return await sent.task
            except RateLimitError:
                await asyncio.sleep(RETRY_SECONDS)
            except StreamGapError:
                if sent.number > self._settled_number:
                    raise
                # It was handed over before the one before it was, again.
            sent.number, sent.task = self._dispatched(sent.call)

    def _dispatched(self, call: Ingest) -> tuple[int, asyncio.Task[IngestResult]]:
        answer = cast("Coroutine[Any, Any, IngestResult]", self._host.dispatch(call))
        return next(self._numbers), asyncio.create_task(answer, context=self._context.copy())

    # ---- what ends it from outside

    async def _watch(self) -> None:
        idle_seconds = self._host.settings.ingest_idle_seconds
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(HEARTBEAT_SECONDS, idle_seconds / 4)):
                    await self._draining.wait()
            if (renew := self._scope.get(RENEW)) is not None:
                await renew(self._context)
            if self._draining.is_set():
                if not self._is_bounded:
                    self._end_input(UnavailableError("the server is stopping: send the rest to another one, or later"))
                return
            is_idle = not self._flying and not self._cutter.waiting_bytes
            if is_idle and self._loop.time() - self._moved_at > idle_seconds:
                self._end_input(UnavailableError(f"no whole line came for {idle_seconds:g} seconds: send the rest anew"))
                return

    # ---- sender

    async def _tell(self) -> None:
        """Acknowledge, until there is but one word left to say."""
        while not self._is_over:
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._told.wait()
            self._told.clear()
            if self._is_settled and not self._is_over:
                await self._say(self._news.take())

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
                    self._patience.reschedule(self._loop.time() + self._host.settings.body_timeout_seconds)
                await self._send(message)
        except TimeoutError:
            raise ClientDisconnect from None
        finally:
            self._patience = None

    async def say_last(self) -> None:
        """Say how it ended. A client that still sends is listened to for a while."""
        if not self._is_gone:
            with suppress(ClientDisconnect):
                await self._say_last()

    async def _say_last(self) -> None:
        error = self._error
        if error is not None and not self._is_settled:
            response = error_response(error, self._scope.get(REQUEST_ID))
            if self._is_whole:
                await send_response(self._deliver, response)
            else:
                await answer_at_once(self._receive, self._send, response)
            return
        last = self._news.take()
        if error is None:
            last = msgspec.structs.replace(last, done=True)
        else:
            last = msgspec.structs.replace(last, error=error.wire_name, status=error.status, message=error.message)
        if self._is_whole and not self._has_begun:
            body = encode_acknowledgement(last)
            await send_response(self._deliver, WireResponse(200, body, {"content-type": NDJSON}))
            return
        await self._say(last)
        if not self._is_whole:
            await linger(self._receive)
        await self._deliver({"type": "http.response.body", "body": b""})


def _cutter(opening: Ingest, line_bytes_max: int) -> Cutter:
    if opening.content_type == ARROW:
        require_arrow()
        return ArrowCutter(line_bytes_max)
    return LineCutter(line_bytes_max)
