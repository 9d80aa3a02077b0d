"""Feeds over HTTP: changes as Server-Sent Events, or as NDJSON, for as long as both sides want.

    https://html.spec.whatwg.org/multipage/server-sent-events.html

Each change is sent before the next one is read, so a slow consumer slows down its own feed and nothing else. One that takes
nothing at all for a while is ended, as is a feed that has lasted long: its client connects again, and shows who it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from contextvars import Context, copy_context
from typing import Any, Final, cast

import anyio.to_thread
from starlette.types import Receive, Scope, Send

from chroma_async.errors import ChromaError, NotFoundError
from chroma_async.protocol import Call, WatchCollection, WatchDatabase, WireRequest, WireResponse
from chroma_async.protocol.changes import EVENT_STREAM, LOG_HEADER, Change, ChangeFeed, error_json
from chroma_async.protocol.ingest import NDJSON
from chroma_async.server.abort import abort
from chroma_async.server.answers import send_response, unexpected_error
from chroma_async.server.endpoint import CallEndpoint, header
from chroma_async.server.observe import CALL, RENEW, REQUEST_ID

SEND_SECONDS_MAX: Final = 60.0
"""How long a consumer may take nothing."""

FEED_SECONDS_MAX: Final = 3600.0

RENEW_SECONDS: Final = 10.0
"""After so long it is looked again whether the client is still who it was, and may still read this."""

DRAIN_SECONDS: Final = 1.0
"""For a last word to somebody who is slow to take it."""

ENCODE_INLINE_BYTES: Final = 64 * 2**10
RETRY: Final = b"retry: 1000\n\n"
"""How long browsers wait before they connect again, in milliseconds."""

Form = Callable[[Change], bytes]

logger = logging.getLogger("chroma_async.server")


def as_event(change: Change) -> bytes:
    """Return a change as an event whose id is the cursor. A heartbeat is a comment, which moves the cursor on."""
    position = b"" if change.cursor is None else b"id: " + change.cursor.encode() + b"\n"
    if change.kind == "heartbeat":
        return b": heartbeat\n" + position + b"\n"
    return position + b"data: " + change.to_json() + b"\n\n"


def as_line(change: Change) -> bytes:
    return change.to_json() + b"\n"


class FeedEndpoint(CallEndpoint):
    """Answers the calls for a feed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[CALL] = self._name
        with ExitStack() as seat:
            begun = await self._settled(scope, self._begin(scope, receive, seat))
            if isinstance(begun, WireResponse):
                await send_response(send, begun)
            elif begun is not None:
                call, feed = begun
                try:
                    await self._stream(call, feed, scope, receive, send)
                finally:
                    await feed.aclose()

    async def _begin(self, scope: Scope, receive: Receive, seat: ExitStack) -> tuple[Call[Any], ChangeFeed]:
        await self._check_allowed(receive)
        call = self._call.decode(_resumed(await self._read(scope, receive), header(scope, b"last-event-id")))
        seat.enter_context(self._host.feeds.seat())
        return call, cast("ChangeFeed", await self._dispatch(call, receive))

    async def _stream(self, call: Call[Any], feed: ChangeFeed, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what the feed gives until it ends, its client has gone, or this process is about to end."""
        lines = _wants_lines(scope)
        headers = [
            (b"content-type", (NDJSON if lines else EVENT_STREAM).encode()),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
            (LOG_HEADER.encode(), feed.identity.encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        is_alone = scope["http_version"] != "2"  # else other requests share the connection
        refused: asyncio.Future[ChromaError] = asyncio.get_running_loop().create_future()
        pump = asyncio.create_task(self._pump(feed, as_line if lines else as_event, scope, send, refused))
        others = {asyncio.create_task(_until_left(receive)), asyncio.create_task(self._until_draining(feed))}
        if RENEW in scope:
            others.add(asyncio.create_task(self._until_refused(call, feed, scope[RENEW], refused)))
        try:
            await asyncio.wait({pump, *others}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_stuck = not pump.done() and (self._host.feeds.draining.is_set() or (refused.done() and is_alone))
            for task in (pump, *others):
                task.cancel()
            await asyncio.wait({pump, *others})
        if pump.cancelled():
            if is_stuck:
                abort()  # nobody takes what was sent: the server would wait for that
        elif not pump.result() and is_alone:
            abort()

    async def _until_draining(self, feed: ChangeFeed) -> None:
        await self._host.feeds.draining.wait()
        await feed.aclose()
        await asyncio.sleep(DRAIN_SECONDS)

    async def _until_refused(
        self,
        call: Call[Any],
        feed: ChangeFeed,
        renew: Callable[[Context], Awaitable[None]],
        refused: asyncio.Future[ChromaError],
    ) -> None:
        """Look again and again who asks; one who may not any more gets no further change, and is told by `_pump`."""
        context = copy_context()
        while not refused.done():
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await renew(context)
                if self._host.check is not None:
                    await asyncio.get_running_loop().create_task(_awaited(self._host.check(call)), context=context)
            except ChromaError as error:
                if isinstance(error, NotFoundError):
                    await asyncio.sleep(DRAIN_SECONDS)  # if the collection was deleted, the feed says so itself
                refused.set_result(error)
                await feed.aclose()
        await asyncio.sleep(DRAIN_SECONDS)

    async def _pump(
        self, feed: ChangeFeed, form: Form, scope: Scope, send: Send, refused: asyncio.Future[ChromaError]
    ) -> bool:
        """Send changes to the end of the feed; False: the consumer takes nothing."""
        ends_at = time.monotonic() + FEED_SECONDS_MAX

        async def push(body: bytes, *, more: bool = True) -> None:
            async with asyncio.timeout(SEND_SECONDS_MAX):
                await send({"type": "http.response.body", "body": body, "more_body": more})

        with suppress(TimeoutError):  # who takes nothing for so long has gone, or may as well
            if form is as_event:
                await push(RETRY)
            try:
                async for change in feed:
                    await push(await self._formed(form, change))
                    if refused.done() or time.monotonic() > ends_at:
                        break
                if refused.done():
                    raise refused.result()
            except ChromaError as error:
                await push(_last_words(form, error))
            except TimeoutError:
                raise
            except Exception as error:
                await push(_last_words(form, unexpected_error(error, self._name, scope.get(REQUEST_ID))))
            await push(b"", more=False)
            return True
        return False

    async def _formed(self, form: Form, change: Change) -> bytes:
        if change.size_bytes <= ENCODE_INLINE_BYTES:
            return form(change)
        return await anyio.to_thread.run_sync(form, change, limiter=self._host.codec_threads)


def _resumed(request: WireRequest, last_event_id: str | None) -> WireRequest:
    """The same request as a browser means it that connects again: from the last event on, whatever its URL says."""
    if not last_event_id:
        return request
    query = {**request.query, "after": last_event_id}
    query.pop("snapshot", None)
    return WireRequest(path=request.path, query=query)


def _wants_lines(scope: Scope) -> bool:
    accepted = (header(scope, b"accept") or "").lower()
    return EVENT_STREAM not in accepted and any(kind in accepted for kind in (NDJSON, "application/ndjson", "jsonl"))


def _last_words(form: Form, error: ChromaError) -> bytes:
    return b"data: " + error_json(error) + b"\n\n" if form is as_event else error_json(error) + b"\n"


async def _awaited(check: Awaitable[None]) -> None:
    await check


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


FEEDS: Final[frozenset[Any]] = frozenset({WatchCollection, WatchDatabase})
"""The calls that are answered by a feed."""
