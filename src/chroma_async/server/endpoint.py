"""One endpoint per call: a request in, the call to the engine, its result out."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar, cast
from urllib.parse import parse_qsl, unquote_to_bytes

import anyio
import anyio.to_thread
import msgspec
from starlette.types import Receive, Scope, Send

from chroma_async.errors import ChromaError, InvalidArgumentError, UnsupportedMediaTypeError
from chroma_async.metrics import HttpMetrics
from chroma_async.protocol import Call, Route, WireRequest, WireResponse
from chroma_async.protocol.call import KEY_HEADER
from chroma_async.protocol.records import LSN_HEADER
from chroma_async.protocol.results import Columns, GetResult, QueryResult
from chroma_async.server.answers import empty_response, error_response, send_response, unexpected_response, with_close
from chroma_async.server.body import BodyTimeout, ClientDisconnect, EndlessBodyError, discard_body, read_body
from chroma_async.server.feed_hall import FeedHall
from chroma_async.server.observe import BODY_BYTES, CALL, REQUEST_ID
from chroma_async.settings import ServerSettings

T = TypeVar("T")

Dispatch = Callable[[Call[Any]], Awaitable[Any]]
"""What the engine offers: a call in, its result or an error of `chroma_async.errors` out."""

LARGE_BODY_BYTES: Final = 256 * 1024
LARGE_RESULT_ROWS: Final = 256
LARGE_RESULT_FLOATS: Final = 16 * 1024
CODEC_THREADS: Final = 2
PATIENCE_SECONDS: Final = 0.25
IDEMPOTENCY_KEY: Final = KEY_HEADER.encode()

logger = logging.getLogger("chroma_async.server")


class Host(msgspec.Struct, frozen=True):
    """What all endpoints of one application share."""

    dispatch: Dispatch
    settings: ServerSettings
    refusal_of: Callable[[type[Call[Any]]], ChromaError | None] | None = None
    """Says of a kind of call whether its caller may make none of it anywhere: then its body need not be decoded."""
    check: Callable[[Call[Any]], Awaitable[None]] | None = None
    """Refuses a call that its caller may not make, or not any more; it is not answered."""
    position: Callable[[], int] | None = None
    """LSN through which the engine knows the log."""
    metrics: HttpMetrics | None = None
    feeds: FeedHall = msgspec.field(default_factory=FeedHall)
    codec_threads: anyio.CapacityLimiter = msgspec.field(default_factory=lambda: anyio.CapacityLimiter(CODEC_THREADS))


class Endpoint(ABC):
    """An ASGI application for requests of one route.

    Bodies and results that would hold up the event loop are decoded and encoded in a thread; the usual small ones are
    not worth the trip.
    """

    def __init__(self, route: Route, name: str, host: Host, *, takes_key: bool = False) -> None:
        self._name = name
        self._path_fields = route.path_fields
        self._has_body = route.has_body
        self._query_fields = route.query
        self._takes_key = takes_key
        self._host = host

    @abstractmethod
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    async def _settled(self, scope: Scope, answer: Awaitable[T]) -> T | WireResponse | None:
        """Return the answer, or the response that says why there is none; None: nobody waits for it."""
        try:
            return await answer
        except ChromaError as error:
            response = self._refusal(_encoded_body(scope) or error, scope.get(REQUEST_ID))
            return with_close(response) if isinstance(error, EndlessBodyError) else response
        except ClientDisconnect:
            return None
        except BodyTimeout:
            return empty_response(408, connection="close")
        except Exception as error:
            return unexpected_response(error, self._name, scope.get(REQUEST_ID))

    def _refusal(self, error: ChromaError, trace: str | None) -> WireResponse:
        return error_response(error, trace)

    async def _read(self, scope: Scope, receive: Receive) -> WireRequest:
        settings = self._host.settings
        timeout = settings.body_timeout_seconds
        if not self._has_body:
            await discard_body(receive, timeout_seconds=timeout)
            body = b""
        elif not is_json(scope):
            await discard_body(receive, timeout_seconds=timeout)
            raise UnsupportedMediaTypeError("Expected request with `Content-Type: application/json`")
        else:
            body = await read_body(receive, bytes_max=settings.body_bytes_max, timeout_seconds=timeout)
            scope[BODY_BYTES] = len(body)
        segments: list[str] = scope["path_segments"]
        path = {name: decode_segment(text) for name, text in zip(self._path_fields, segments, strict=True)}
        query: Mapping[str, str] = decode_query(scope) if self._query_fields else {}
        key = header(scope, IDEMPOTENCY_KEY) if self._takes_key else None
        return WireRequest(path=path, query=query, body=body, idempotency_key=key)

    async def _decode(self, decode: Callable[[WireRequest], Call[Any]], request: WireRequest) -> Call[Any]:
        if len(request.body) > LARGE_BODY_BYTES:
            return await anyio.to_thread.run_sync(decode, request, limiter=self._host.codec_threads)
        return decode(request)

    async def _dispatch(self, call: Call[Any], receive: Receive) -> Any:
        with _Patience(receive):
            return await self._host.dispatch(call)

    async def _encode(self, encode: Callable[[Any], WireResponse], result: Any) -> WireResponse:
        if is_large(result):
            return await anyio.to_thread.run_sync(encode, result, limiter=self._host.codec_threads)
        return encode(result)


class AnsweringEndpoint(Endpoint):
    """Gives one response to each request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[CALL] = self._name
        response = await self._settled(scope, self._answer(scope, receive))
        if response is not None:
            await send_response(send, response)

    @abstractmethod
    async def _answer(self, scope: Scope, receive: Receive) -> WireResponse: ...


class CallEndpoint(AnsweringEndpoint):
    """Answers one kind of call."""

    def __init__(self, call: type[Call[Any]], host: Host) -> None:
        super().__init__(call.route, call.__name__, host, takes_key=call.takes_key)
        self._call = call
        msgspec.json.Decoder(call)  # msgspec's first look into a type must not be taken by two threads at once

    async def _answer(self, scope: Scope, receive: Receive) -> WireResponse:
        await self._check_allowed(receive)
        call = await self._decode(self._call.decode, await self._read(scope, receive))
        response = await self._encode(self._call.encode_result, await self._dispatch(call, receive))
        if call.writes_catalog and self._host.position is not None:
            return msgspec.structs.replace(response, headers={**response.headers, LSN_HEADER: str(self._host.position())})
        return response

    async def _check_allowed(self, receive: Receive) -> None:
        """Refuse what this caller may do nowhere, before it is decoded."""
        refusal = None if self._host.refusal_of is None else self._host.refusal_of(self._call)
        if refusal is not None:
            await discard_body(receive, timeout_seconds=self._host.settings.body_timeout_seconds)
            raise refusal


class _Patience:
    """Stops waiting for an answer when its client has gone; only requests that take long pay for the watching.

    What is cancelled is the wait in this request. The engine finishes or forgets the work by its own rules: a write that
    has reached the writer is committed whole or not at all, whether or not anybody listens.

    Raises:
        ClientDisconnect: the client has gone. No CancelledError: the request may be its connection's own task, and whoever
            looks at that would call a cancelled one a failure.
    """

    __slots__ = ("_is_abandoned", "_receive", "_request", "_timer", "_watcher")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive

    def __enter__(self) -> None:
        self._request = asyncio.current_task()
        self._is_abandoned = False
        self._watcher: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._start)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._is_abandoned and self._request is not None:
            is_cancelled_by_others = self._request.uncancel() > 0
            if kind is asyncio.CancelledError and not is_cancelled_by_others:
                raise ClientDisconnect from None

    def _start(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        assert self._request is not None
        logger.debug("request.abandoned")
        self._is_abandoned = True
        self._request.cancel()


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first header of that name."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    return next((value.decode("latin-1") for key, value in headers if key == name), None)


def _encoded_body(scope: Scope) -> UnsupportedMediaTypeError | None:
    """What is to be said of a refused request whose body came encoded, say with gzip: nothing else of it was understood."""
    encoding = header(scope, b"content-encoding")
    if not encoding or encoding == "identity" or BODY_BYTES not in scope:
        return None
    return UnsupportedMediaTypeError(f"a body is sent as it is, without a `Content-Encoding`. content_encoding={encoding!r}")


def is_json(scope: Scope) -> bool:
    """Whether the body is declared as JSON; one without a declaration counts as JSON."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == b"content-type":
            return value == b"application/json" or _is_json_type(value.partition(b";")[0].strip().lower())
    return True


def _is_json_type(kind: bytes) -> bool:
    return kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))


def decode_segment(text: str) -> str:
    """Return a path segment without its percent-encoding; an encoded slash is part of the name.

    Raises:
        InvalidArgumentError: the segment is not UTF-8.
    """
    if "%" not in text and text.isascii():
        return text
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"Invalid URL: the path must be percent-encoded UTF-8. got={text!r}") from error


def decode_query(scope: Scope) -> Mapping[str, str]:
    """Return the values of the query string; of a repeated one the last."""
    query: bytes = scope["query_string"]
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)) if query else {}


def is_large(result: object) -> bool:
    """Whether encoding a result takes a noticeable part of a millisecond."""
    if isinstance(result, GetResult):
        return _are_large([result.columns])
    if isinstance(result, QueryResult):
        return _are_large(result.columns)
    return isinstance(result, list) and len(cast("list[object]", result)) > LARGE_RESULT_ROWS


def _are_large(pages: Sequence[Columns]) -> bool:
    rows = sum(len(page.ids) for page in pages)
    floats: int = sum(page.embeddings.size for page in pages if page.embeddings is not None)
    return rows > LARGE_RESULT_ROWS or floats > LARGE_RESULT_FLOATS
