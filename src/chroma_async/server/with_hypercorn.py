"""Hypercorn in front of the application: HTTP/1.1, and HTTP/2 for clients that begin with it."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any, Final, cast

import hypercorn.asyncio.run as hypercorn_run
from hypercorn.asyncio import serve as hypercorn_serve  # pyright: ignore[reportUnknownVariableType]
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config
from hypercorn.events import Event, Updated
from starlette.types import ASGIApp

from chroma_async.server.accept import HEAD_BYTES_MAX, start_server
from chroma_async.settings import ServerSettings

_CLOSE_SECONDS: Final = 1.0


class Connection(TCPServer):
    """A connection that ends when its client ends it.

    Hypercorn's own goes on waiting for the keep-alive timeout, with a descriptor each: clients that come and go for two
    minutes would use them all up.
    """

    _is_over = False

    async def _read_data(self) -> None:
        await super()._read_data()
        self._is_over = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if self._is_over and isinstance(event, Updated):
            return  # idle again, after the answer to a request whose sender is gone: there is nothing to wait for
        await super().protocol_send(event)


class AsyncioOfHypercorn:
    """The `asyncio` that Hypercorn's module sees: ours but for how connections are accepted."""

    start_server = staticmethod(start_server)

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


async def serve(app: ASGIApp, settings: ServerSettings, descriptor: int, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, and finish the requests that have begun, within the graceful timeout."""
    hypercorn_run.TCPServer = Connection  # type: ignore[attr-defined]
    cast("Any", hypercorn_run).asyncio = AsyncioOfHypercorn()
    config = _config(settings, descriptor)
    serving = asyncio.create_task(hypercorn_serve(cast("Any", app), config, shutdown_trigger=stop.wait, mode="asgi"))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    # Hypercorn waits for connections without a limit on some versions of Python: a client that stops halfway through its
    # request would keep us here for ever.
    done, _ = await asyncio.wait({serving}, timeout=config.graceful_timeout + _CLOSE_SECONDS)
    if done:
        serving.result()
    else:
        serving.cancel()
        await asyncio.wait({serving}, timeout=_CLOSE_SECONDS)


def _config(settings: ServerSettings, descriptor: int) -> Config:
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.keep_alive_timeout = settings.keep_alive_seconds
    config.keep_alive_max_requests = sys.maxsize
    config.graceful_timeout = settings.graceful_seconds
    config.h11_max_incomplete_size = HEAD_BYTES_MAX
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config
