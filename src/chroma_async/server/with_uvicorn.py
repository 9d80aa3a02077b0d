"""uvicorn with httptools in front of the application: HTTP/1.1, a third of Hypercorn's cost for each request.

Its connections get what they lack: a limit to the size of a request's head, and a time in which it must arrive, also on a
connection that has not asked for anything yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Generator
from typing import Any, Final, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from chroma_async.server.abort import ABORT
from chroma_async.server.accept import FIRST_REQUEST_SECONDS, HEAD_BYTES_MAX, FairServer
from chroma_async.server.heads import AMBIGUOUS, is_ambiguous
from chroma_async.server.life import Life
from chroma_async.server.tls import ServerContext, tls_context
from chroma_async.server.transport import HeldTransport
from chroma_async.settings import ServerSettings

_STATUS_HEAD_TOO_LARGE: Final = 431
_CLOSE: Final = (b"connection", b"close")


class Config(uvicorn.Config):
    """uvicorn's settings, how long a head may take, whether connections end with their next answer, and the server."""

    life: Life
    stop: asyncio.Event
    head_seconds: float
    tls: ServerContext | None


class Connection(HttpToolsProtocol):
    """A connection that has to send its requests' heads whole, in time, and not too large."""

    _head_bytes = 0
    _in_head = True

    @property
    def _config(self) -> Config:
        return cast("Config", self.config)

    @property
    def is_idle(self) -> bool:
        """Whether it is in the midst of no request."""
        cycle = cast("Any", self.cycle)
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._held = HeldTransport(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", self._held))
        self._config.life.load.count(connections=1)
        # One that was accepted during a stop is not told of it.
        stopping = self._config.stop.is_set()
        self._wait_for_head(FIRST_REQUEST_SECONDS if stopping else self.timeout_keep_alive)

    def _wait_for_head(self, seconds: float) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def shutdown(self) -> None:
        if cast("Any", self.cycle) is None:
            self._wait_for_head(FIRST_REQUEST_SECONDS)
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._config.life.load.count(connections=-1)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        # uvicorn forgets its timer with the first byte.
        self._held.has_heard = True
        timer, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        begins = not self._head_bytes
        self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head:
            if timer is not None:
                timer.cancel()
            return
        if begins and self._head_bytes and timer is not None:
            timer.cancel()
            timer = self.loop.call_later(self._config.head_seconds, self.timeout_keep_alive_handler)
        self.timeout_keep_alive_task = timer
        if self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self.transport.write(STATUS_LINE[_STATUS_HEAD_TOO_LARGE] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._in_head = False
        parser = cast("Any", self.parser)
        upgrades = parser.should_upgrade()  # nobody does, but for the parser what follows the head is no body then
        if is_ambiguous(parser.get_http_version(), self.headers) or (upgrades and _has_body(self.headers)):
            raise ValueError(AMBIGUOUS)  # which the parser stops at, and uvicorn answers with status 400
        ABORT.set(self.transport.abort)
        super().on_headers_complete()

        if upgrades or self._config.life.draining.is_set() or self._config.stop.is_set():
            self.cycle.default_headers = [*self.cycle.default_headers, _CLOSE]  # uvicorn sees it, and closes

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True
        self._head_bytes = 0


def _has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers)


class Server(uvicorn.Server):
    """Shares the socket with other processes, and leaves signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets is not None
        await self.lifespan.startup()

        def make() -> Connection:
            return Connection(self.config, self.server_state, {})

        config = cast("Config", self.config)
        self.servers = [cast("Any", FairServer(make, listening, config.life.load, config.tls)) for listening in sockets]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        connections = cast("set[Connection]", self.server_state.connections)
        idle = sum(connection.is_idle for connection in connections)
        cast("Config", self.config).life.load.note_wait(idle, cast("float", self.config.timeout_graceful_shutdown))
        await super().shutdown(sockets)


async def serve(
    app: ASGIApp,
    settings: ServerSettings,
    descriptor: int,
    stop: asyncio.Event,
    life: Life | None = None,
) -> None:
    """Serve until `stop` is set, and finish the requests that have begun, within the graceful timeout."""
    config = _config(app, settings)
    config.life = life or Life(draining=stop)
    config.stop = stop
    config.tls = tls_context(settings)
    config.head_seconds = min(settings.head_seconds, settings.keep_alive_seconds)
    server = Server(config)

    async def tell() -> None:
        await stop.wait()
        server.should_exit = True

    telling = asyncio.create_task(tell())
    with socket.socket(fileno=descriptor) as listening:
        await server.serve([listening])
    telling.cancel()


def _config(app: ASGIApp, settings: ServerSettings) -> Config:
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    return Config(
        cast("Any", app),
        http=Connection,
        ws="none",
        lifespan="off",
        loop="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=cast("int", settings.keep_alive_seconds),
        timeout_graceful_shutdown=cast("int", settings.graceful_seconds),
    )
