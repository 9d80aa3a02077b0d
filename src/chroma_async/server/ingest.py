"""Ingest streams over HTTP: a body that is cut into parts as it comes, and an answer that flows beside it.

Theory of operation. Four tasks share one stream. The reader (`ingest_body.py`) takes the body from the server, as long as
little enough of it waits. The cutter makes a part of what has come, after a pause that lets more lines join, and hands it to
the engine; of two parts one may be decoded while the other is appended. The settler awaits them in order. The sender
(`ingest_answer.py`), which is the request itself, says what is durable.

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
import secrets
from collections import deque
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final, cast

import msgspec
from starlette.types import Receive, Scope, Send

from chroma_async.errors import (
    ChromaError,
    InvalidArgumentError,
    RateLimitError,
    StreamGapError,
    UnavailableError,
    UnsupportedMediaTypeError,
)
from chroma_async.protocol import Ingest, WireRequest
from chroma_async.protocol.arrow import require_arrow
from chroma_async.protocol.ingest import ARROW, NDJSON, IngestResult
from chroma_async.server.answers import answer_at_once, error_response, unexpected_error
from chroma_async.server.body import ClientDisconnect
from chroma_async.server.cutters import ArrowCutter, Cutter, LineCutter, Piece
from chroma_async.server.endpoint import Endpoint, Host, decode_query, decode_segment
from chroma_async.server.ingest_answer import StreamAnswer
from chroma_async.server.ingest_body import JOIN_SECONDS, StreamBody
from chroma_async.server.life import Life
from chroma_async.server.observe import CALL, RENEW, REQUEST_ID

CONTENT_TYPES: Final[Mapping[str, str]] = {
    NDJSON: NDJSON,
    "application/ndjson": NDJSON,
    "application/jsonl": NDJSON,
    "application/json": NDJSON,
    ARROW: ARROW,
}
"""What a body may say that it is, and what that is to us. One JSON object is NDJSON of one line."""

PARTS_MAX: Final = 2
"""Of one stream that are decoded or appended at a time."""

HEARTBEAT_SECONDS: Final = 10.0
"""After so long without a word the position is said again, so that proxies know that the stream lives."""

RETRY_SECONDS: Final = 0.2


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
            if self._life.load.streams >= streams_max:
                raise RateLimitError(f"too many streams at the same time: wait for some. ingest_streams_max={streams_max}")
            body = StreamBody(scope, receive, _cutter(opening, self._host.settings.body_bytes_max))
        except ChromaError as error:
            await answer_at_once(receive, send, error_response(error, scope.get(REQUEST_ID)))
            return
        patience = self._host.settings.body_timeout_seconds
        answer = StreamAnswer(scope, receive, send, position=opening.position, patience_seconds=patience)
        self._count(1)
        try:
            await _Stream(self._host, opening, scope, body, answer, self._life.draining).run()
        finally:
            self._count(-1)
        await answer.say_last(is_whole=body.is_whole)

    def _count(self, change: int) -> None:
        self._life.load.count(streams=change)
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


class _Stream:
    """What is between a body and its answer: parts, on their way through the engine."""

    def __init__(
        self, host: Host, opening: Ingest, scope: Scope, body: StreamBody, answer: StreamAnswer, draining: asyncio.Event
    ) -> None:
        self._host = host
        self._opening = opening
        self._scope = scope
        self._body = body
        self._answer = answer
        self._draining = draining
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(PARTS_MAX - 1)
        self._sent: asyncio.Queue[_Sent | None] = asyncio.Queue()
        self._flying: deque[_Sent] = deque()
        self._numbers = itertools.count(1)
        self._settled_number = 0
        self._settled_at = self._loop.time()

    async def run(self) -> None:
        """Take the stream to its end, and acknowledge what comes."""
        work = (self._body.read(), self._cut(), self._settle(), self._watch())
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self._guarded(item)) for item in work]
        try:
            await self._answer.run(HEARTBEAT_SECONDS)
        finally:
            tasks += [sent.task for sent in self._flying]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except ChromaError as error:
            self._answer.finish(error)
        except ClientDisconnect:
            self._answer.give_up()
        except Exception as error:
            self._answer.finish(unexpected_error(error, Ingest.__name__, self._scope.get(REQUEST_ID)))

    # ---- cutter

    async def _cut(self) -> None:
        """Hand over part after part.

        Soon at the beginning, and now and then later, it is one without lines: whether the stream may go on is told by the
        engine, which also remembers it anew.
        """
        position = self._opening.position
        piece: Piece | None = await self._body.take(JOIN_SECONDS) or Piece(b"", 0)
        while piece is not None:
            call = msgspec.structs.replace(self._opening, position=position, content=piece.content)
            sent = _Sent(call, *self._dispatched(call))
            self._flying.append(sent)
            self._sent.put_nowait(sent)
            position += piece.lines
            await self._slots.acquire()
            piece = await self._body.take(HEARTBEAT_SECONDS)
        self._sent.put_nowait(None)

    # ---- settler

    async def _settle(self) -> None:
        while (sent := await self._sent.get()) is not None:
            result = await self._result(sent)
            self._flying.popleft()
            self._settled_number = sent.number
            if sent.call.content:  # else it only asked whether the stream may go on
                self._settled_at = self._loop.time()
            self._slots.release()
            self._answer.add(result)
            if result.stopped_by is not None:
                bad = result.stopped_by
                raise InvalidArgumentError(f"the stream stopped at a bad line. line={bad.line}: {bad.message}")
        self._answer.finish(self._body.cause)

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
                if not self._body.is_bounded:
                    self._body.end(UnavailableError("the server is stopping: send the rest to another one, or later"))
                return
            if self._idle_seconds > idle_seconds:
                self._body.end(UnavailableError(f"no whole line came for {idle_seconds:g} seconds: send the rest anew"))
                return

    @property
    def _idle_seconds(self) -> float:
        """For how long there has been nothing to do. The client may have waited for what was settled last."""
        if self._body.is_waiting or any(sent.call.content for sent in self._flying):
            return 0.0
        return self._loop.time() - max(self._body.moved_at, self._settled_at)


def _cutter(opening: Ingest, line_bytes_max: int) -> Cutter:
    if opening.content_type == ARROW:
        require_arrow()
        return ArrowCutter(line_bytes_max)
    return LineCutter(line_bytes_max)
