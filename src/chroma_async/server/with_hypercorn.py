"""Hypercorn in front of the application: HTTP/1.1, and HTTP/2 for clients that begin with it."""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final, cast
from urllib.parse import unquote

import h11
import hypercorn.asyncio.run as hypercorn_run
import hypercorn.protocol as hypercorn_protocol
import hypercorn.protocol.h2 as hypercorn_h2
import hypercorn.protocol.h11 as hypercorn_h11
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamReset
from h2.events import Event as H2Event
from h2.exceptions import ProtocolError
from hypercorn.asyncio import serve as hypercorn_serve  # pyright: ignore[reportUnknownVariableType]
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.typing import ASGISendEvent
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chroma_async.server.abort import ABORT
from chroma_async.server.accept import FIRST_REQUEST_SECONDS, HEAD_BYTES_MAX, READ_BYTES, FairServer, Serve, start_server
from chroma_async.server.heads import AMBIGUOUS, is_ambiguous, is_unclear
from chroma_async.server.life import Life
from chroma_async.server.observe import plain as as_logged
from chroma_async.server.plain import Exchange, plain_request, scope_of
from chroma_async.server.tls import ServerContext, tls_context
from chroma_async.server.transport import STALL_SECONDS
from chroma_async.server.workload import Workload
from chroma_async.settings import ServerSettings

_CLOSE_SECONDS: Final = 1.0

_LOAD: Final[ContextVar[Workload | None]] = ContextVar("load", default=None)
"""Of the process that a server is started for; None: a server that is not ours."""

logger = logging.getLogger("chroma_async.server")

Header = tuple[bytes, bytes]


class Settings(Config):
    """Hypercorn's settings, and what the connections of one server share."""

    def __init__(self, app: ASGIApp, stop: asyncio.Event, head_seconds: float) -> None:
        super().__init__()
        self.app = app
        self.stop = stop
        self.head_seconds = head_seconds
        self.idle: set[IdleTimer] = set()
        self.tls: ServerContext | None = None

    @property
    def ssl_enabled(self) -> bool:
        return self.tls is not None

    def create_ssl_context(self) -> ServerContext | None:
        return self.tls


class IdleTimer:
    """Closes a connection that idles for too long, or when the server stops.

    Hypercorn keeps a task for that, ended and begun anew for each request; a timer costs a tenth of it.
    """

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._settings = settings
        self._timer: asyncio.TimerHandle | None = None
        self.restarts = 0
        self._hurried = 0

    async def restart(self, *_: object) -> None:
        """Begin to count anew."""
        self.restarts += 1
        self._begin(self._settings.keep_alive_timeout)

    def hurry(self, restarts: int) -> None:
        """Part of a head has come, and nothing else since there were so many restarts: the rest has less time."""
        if self._timer is not None and self.restarts == restarts and self._hurried != restarts:
            self._hurried = restarts
            self._begin(self._settings.head_seconds)

    def end(self) -> None:
        """Count the time that is left when the server stops."""
        if self._timer is not None:
            self._begin(0.0)

    def _begin(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._settings.stop.is_set():
            expected = not self._connection.had_request or self._hurried == self.restarts
            seconds = FIRST_REQUEST_SECONDS if expected else 0.0
        self._timer = self._connection.loop.call_later(seconds, self._expire)
        self._settings.idle.add(self)

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._settings.idle.discard(self)

    def _expire(self) -> None:
        """Close the connection now, in a task of its own: its client may be slow to take what was sent."""
        self._timer = None
        self._settings.idle.discard(self)
        self._connection.close_soon()


class Connection(TCPServer):
    """A connection that ends when its client ends it.

    Hypercorn's own goes on waiting for the keep-alive timeout, with a descriptor each: clients that come and go for two
    minutes would use them all up.
    """

    takes_plain_requests = True
    had_request = False

    _is_over = False
    _is_idle = True
    _closing: asyncio.Task[None] | None = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.idle_task = cast("Any", IdleTimer(self, cast("Settings", self.config)))

    async def run(self) -> None:
        if self.writer.get_extra_info("socket") is not None:  # else its client has left already
            ABORT.set(self.writer.transport.abort)
            try:
                await super().run()
            except Exception as error:
                _log_failure(error)

    def close_soon(self) -> None:
        self._closing = self.loop.create_task(self._close_idle())

    async def _close_idle(self) -> None:
        if self._is_idle:  # still: a request may have come while this task waited for its turn
            await self._initiate_server_close()

    async def _read_data(self) -> None:
        timer = cast("IdleTimer", self.idle_task)
        while not self.reader.at_eof():
            try:
                data = await self.reader.read(READ_BYTES if self._is_in_body() else HEAD_BYTES_MAX)
            except OSError:
                break
            if self.takes_plain_requests and self._is_between_requests():
                rest = await self._answer_plain(data)
                if rest is None:
                    break
                if data and not rest:
                    continue
                data = rest
            restarts = timer.restarts
            await self.protocol.handle(RawData(data))
            if data and isinstance(self.protocol.protocol, H11Protocol):
                timer.hurry(restarts)
        await self.protocol.handle(Closed())
        self._is_over = True
        await self.idle_task.stop()

    def _is_in_body(self) -> bool:
        """Whether what comes next can't be a head of HTTP/1.1, which is bounded by what is read at a time."""
        protocol = self.protocol.protocol
        return not isinstance(protocol, H11Protocol) or protocol.connection.their_state is h11.SEND_BODY

    def _is_between_requests(self) -> bool:
        """Whether what comes next is the beginning of a request over HTTP/1.1."""
        protocol = self.protocol.protocol
        return (
            isinstance(protocol, H11Protocol)
            and protocol.stream is None
            and protocol.connection.their_state is h11.IDLE
            and not protocol.connection.trailing_data[0]
        )

    async def _answer_plain(self, data: bytes) -> bytes | None:
        """Answer the plain requests that data begins with; return the rest of it, None when the connection is to end."""
        while (request := plain_request(data)) is not None:
            await self.idle_task.stop()
            self._is_idle, self.had_request = False, True
            protocol = cast("H11Protocol", self.protocol.protocol)
            scheme = "https" if protocol.ssl else "http"
            scope = scope_of(request, scheme, protocol.client, protocol.server, self.state)
            exchange = Exchange(request, self.reader, self.writer, self.context.terminated.is_set)
            try:
                goes_on = await exchange.run(cast("Settings", self.config).app, scope)
            except Exception:
                logger.exception("request.failed path=%s", as_logged(scope["path"]))
                return None
            if not goes_on:
                return None
            self._is_idle = True
            await self.idle_task.restart(self._task_group, self._idle_timeout)
            data = exchange.ahead
            if data:
                await asyncio.sleep(0)  # others have their turn between requests that came together
        return data

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):
            self._is_idle = event.idle
            self.had_request = self.had_request or not event.idle
            if self._is_over:
                return  # idle again, after the answer to a request whose sender is gone: there is nothing to wait for
        await super().protocol_send(event)


def _log_failure(error: BaseException) -> None:
    """Log what ended a connection: its kind and place. Its message and chain may hold what was received."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseException", error.exceptions[0])
    place = traceback.extract_tb(error.__traceback__)[-1]
    logger.error("connection.failed error=%s place=%s:%s", type(error).__name__, place.name, place.lineno)


class Requests(h11.Connection):
    """The requests of a connection over HTTP/1, without those that could be read in two ways, and without `Upgrade`.

    A proxy that passes `Upgrade: h2c` on knows nothing of the streams that would follow, and of the headers in them.
    """

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE and is_unclear(self.trailing_data[0]):
            raise h11.RemoteProtocolError(AMBIGUOUS.decode())
        event = super().next_event()
        if isinstance(event, h11.Request):
            if event.method != event.method.upper():  # Hypercorn would make capitals of it: to proxies it is another method
                raise h11.RemoteProtocolError("a method is written in capitals")
            headers = [header for header in event.headers if header[0] != b"upgrade"]
            if len(headers) < len(event.headers):
                version = event.http_version
                return h11.Request(method=event.method, target=event.target, headers=headers, http_version=version)
        return event


class Stream(HTTPStream):
    """A request whose body the application may leave unread.

    What comes of a body waits for the application in a queue of ten, and so does the end of the request. Where that is full
    and nobody reads any more, the connection would wait for good.
    """

    _has_ended = False

    async def app_send(self, message: ASGISendEvent | None) -> None:
        self._has_ended = message is None
        await super().app_send(message)

    async def handle(self, event: StreamEvent) -> None:
        is_answered = self._has_ended or self.state is ASGIHTTPState.CLOSED
        if isinstance(event, StreamClosed) and is_answered and not self.closed:
            queue = cast("asyncio.Queue[Any]", cast("Any", self.app_put).__self__)
            while not queue.empty():
                queue.get_nowait()  # which lets the connection, that waits for room, go on
        await super().handle(event)


class Http1(H11Protocol):
    """HTTP/1, and how clients begin with HTTP/2."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.connection = Requests(h11.SERVER, max_incomplete_event_size=self.config.h11_max_incomplete_size)


class Http2(H2Protocol):
    """HTTP/2. A request that Hypercorn can't read costs its stream only, not all others of the connection.

    So does one whose client gives no room for the answer, and neither takes nor sends anything of it for `STALL_SECONDS`.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._moves: Counter[int] = Counter()
        """How often something of a stream was taken or received."""
        self._watching: asyncio.Task[None] | None = None

    async def initiate(self, headers: list[Header] | None = None, settings: bytes | None = None) -> None:
        await super().initiate(headers, settings)
        await self.send(Updated(idle=True))  # else a client that begins and asks nothing would stay for ever

    async def handle(self, event: Event) -> None:
        if isinstance(event, Closed):
            for stream_id in [*self.stream_buffers]:
                await self._forget_answer(stream_id)
            if self._watching is not None:
                self._watching.cancel()
        await super().handle(event)

    async def _send_data(self, stream_id: int) -> None:
        buffer = self.stream_buffers[stream_id]
        before = len(buffer.buffer)
        await super()._send_data(stream_id)
        if before > len(buffer.buffer):
            self._moves[stream_id] += 1
        if stream_id not in self.stream_buffers:
            del self._moves[stream_id]
        elif buffer.buffer and self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """End streams that stall, for as long as there are answers that wait for room."""
        while held := {number: self._moves[number] for number, buffer in self.stream_buffers.items() if buffer.buffer}:
            await asyncio.sleep(STALL_SECONDS)
            for number, moves in held.items():
                buffer = self.stream_buffers.get(number)
                if buffer is not None and buffer.buffer and self._moves[number] == moves:
                    self._reset(number, ErrorCodes.CANCEL)
                    await self._leave(number)
            await self._flush()
        self._watching = None

    async def _handle_events(self, events: list[H2Event]) -> None:
        for event in events:
            if isinstance(event, RequestReceived) and not _is_readable(event):
                self._refuse(event)
            elif isinstance(event, DataReceived) and event.stream_id not in self.streams:  # it was refused, or is answered
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            else:
                if isinstance(event, DataReceived):
                    self._moves[event.stream_id] += 1
                await super()._handle_events([event])
                if isinstance(event, StreamReset):
                    await self._leave(event.stream_id)
        await self._flush()

    async def _leave(self, stream_id: int) -> None:
        """Be done with a stream that was reset."""
        await self._forget_answer(stream_id)
        await self._close_stream(stream_id)
        await self.send(Updated(idle=self.idle))  # else a connection of which this was all would stay for ever

    async def _forget_answer(self, stream_id: int) -> None:
        """Let go of what a client has left without giving room for it: whoever answers would wait for that for ever."""
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None:
            await buffer.close()
            await self._window_updated(stream_id)  # who sends finds it closed, and removes it

    def _refuse(self, event: RequestReceived) -> None:
        logger.info("request.unreadable client=%s", self.client and self.client[0])
        self._reset(event.stream_id, ErrorCodes.PROTOCOL_ERROR)

    def _reset(self, stream_id: int, reason: ErrorCodes) -> None:
        with suppress(ProtocolError):  # the client has ended it already
            self.connection.reset_stream(stream_id, reason)


def _is_readable(event: RequestReceived) -> bool:
    """Whether a request has a path, both that and its method are ASCII, this is in capitals, and it asks for no tunnel."""
    fields = dict(event.headers)
    method, path = fields[b":method"], fields.get(b":path", b"")
    return path != b"" and path.isascii() and method.isascii() and method == method.upper() and method != b"CONNECT"


def _chosen(ours: type[Any], theirs: type[Any]) -> Callable[..., Any]:
    """Make one of ours for our servers. Others that this process serves by Hypercorn keep Hypercorn's own."""

    def make(*arguments: Any) -> Any:
        return (ours if any(isinstance(argument, Settings) for argument in arguments) else theirs)(*arguments)

    return make


class AsyncioOfHypercorn:
    """The `asyncio` that Hypercorn's module sees: that of all others, but for how our servers accept connections."""

    @staticmethod
    async def start_server(serve: Serve, **arguments: Any) -> FairServer | asyncio.Server:
        load = _LOAD.get()
        return await (asyncio.start_server(serve, **arguments) if load is None else start_server(load, serve, **arguments))

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


class Front:
    """Stands before the application, for what Hypercorn leaves to it.

    A target may name scheme and host (RFC 9112, 3.2.2). `Connection` is no header of HTTP/2; Hypercorn would send nothing at
    all. And of HTTP/1.1 the answers say from `draining` on that their connection ends with them.
    """

    def __init__(self, app: ASGIApp, draining: asyncio.Event) -> None:
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if is_ambiguous(scope["http_version"], scope["headers"]):
                await _refuse(send)
                return
            if not scope["raw_path"].startswith(b"/"):
                _drop_authority(scope)
            if scope["http_version"] == "2":
                send = _Edited(send, _without_connection)
            elif self._draining.is_set():
                send = _Edited(send, _with_close)
        await self._app(scope, receive, send)


async def _refuse(send: Send) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(AMBIGUOUS)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": AMBIGUOUS})


def _drop_authority(scope: Scope) -> None:
    """Leave the path of `http://host/path`."""
    scheme, found, rest = scope["raw_path"].partition(b"://")
    if found and scheme.lower() in (b"http", b"https"):
        scope["raw_path"] = b"/" + rest.partition(b"/")[2]
        scope["path"] = unquote(scope["raw_path"].decode("ascii"))


class _Edited:
    """Sends an answer with other headers."""

    __slots__ = ("_edit", "_send")

    def __init__(self, send: Send, edit: Callable[[list[Header]], list[Header]]) -> None:
        self._send = send
        self._edit = edit

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = self._edit(list(message["headers"]))
        await self._send(message)


def _without_connection(headers: list[Header]) -> list[Header]:
    return [header for header in headers if header[0] != b"connection"]


def _with_close(headers: list[Header]) -> list[Header]:
    return [*_without_connection(headers), (b"connection", b"close")]


async def serve(
    app: ASGIApp,
    settings: ServerSettings,
    descriptor: int,
    stop: asyncio.Event,
    life: Life | None = None,
) -> None:
    """Serve until `stop` is set, and finish the requests that have begun, within the graceful timeout."""
    life = life or Life(draining=stop)
    app = Front(app, life.draining)
    cast("Any", hypercorn_run).TCPServer = _chosen(Connection, TCPServer)
    cast("Any", hypercorn_protocol).H11Protocol = _chosen(Http1, H11Protocol)
    cast("Any", hypercorn_protocol).H2Protocol = _chosen(Http2, H2Protocol)
    cast("Any", hypercorn_h11).HTTPStream = cast("Any", hypercorn_h2).HTTPStream = _chosen(Stream, HTTPStream)
    cast("Any", hypercorn_run).asyncio = AsyncioOfHypercorn()
    _LOAD.set(life.load)  # for the task that follows
    config = _config(app, settings, descriptor, stop)
    serving = asyncio.create_task(hypercorn_serve(cast("Any", app), config, shutdown_trigger=stop.wait, mode="asgi"))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for timer in list(config.idle):
        timer.end()
    life.load.note_wait(len(config.idle), config.graceful_timeout)
    # Hypercorn waits for connections without a limit on some versions of Python: a client that stops halfway through its
    # request would keep us here for ever.
    done, _ = await asyncio.wait({serving}, timeout=config.graceful_timeout + _CLOSE_SECONDS)
    if done:
        serving.result()
    else:
        serving.cancel()
        await asyncio.wait({serving}, timeout=_CLOSE_SECONDS)


def _config(app: ASGIApp, settings: ServerSettings, descriptor: int, stop: asyncio.Event) -> Settings:
    config = Settings(app, stop, min(settings.head_seconds, settings.keep_alive_seconds))
    config.bind = [f"fd://{descriptor}"]
    config.tls = tls_context(settings)
    config.keep_alive_timeout = settings.keep_alive_seconds
    config.keep_alive_max_requests = sys.maxsize
    config.graceful_timeout = settings.graceful_seconds
    config.h11_max_incomplete_size = HEAD_BYTES_MAX
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config
