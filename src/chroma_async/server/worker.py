"""A worker process: one engine, one event loop, requests from the shared socket."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any, Final, cast

import hypercorn.asyncio.run as hypercorn_run
from hypercorn.asyncio import serve  # pyright: ignore[reportUnknownVariableType]
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config
from hypercorn.events import Event, Updated
from starlette.types import ASGIApp

from chroma_async.engine import open_engine
from chroma_async.server.accept import start_server
from chroma_async.server.app import create_app
from chroma_async.server.child import Duty
from chroma_async.settings import ServerSettings

LISTEN_BACKLOG: Final = 2048
HEAD_BYTES_MAX: Final = 64 * 1024
SWITCH_SECONDS: Final = 0.0005
"""How long a searching thread may keep the interpreter from the event loop; answers would feel the usual 5 ms."""

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


async def work(duty: Duty) -> None:
    """Answer requests until told to stop, then finish those that have begun.

    Raises:
        FormatError, OSError: the data directory can't be opened.
    """
    orders = duty.orders
    sys.setswitchinterval(SWITCH_SECONDS)
    async with open_engine(Path(orders.path), orders.engine, compact=False) as engine:
        app = create_app(engine.dispatch, orders.server)
        duty.report_ready()
        await serve_until(app, hypercorn_config(orders.server, orders.socket), duty.stop)


async def serve_until(app: ASGIApp, config: Config, stop: asyncio.Event) -> None:
    """Serve an application until `stop` is set, and finish the requests that have begun, within the graceful timeout."""
    hypercorn_run.TCPServer = Connection  # type: ignore[attr-defined]
    cast("Any", hypercorn_run).asyncio = AsyncioOfHypercorn()
    serving = asyncio.create_task(serve(cast("Any", app), config, shutdown_trigger=stop.wait, mode="asgi"))
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


def hypercorn_config(settings: ServerSettings, socket: int) -> Config:
    """Return Hypercorn's settings for the listening socket of that descriptor number."""
    config = Config()
    config.bind = [f"fd://{socket}"]
    config.backlog = LISTEN_BACKLOG
    config.keep_alive_timeout = settings.keep_alive_seconds
    config.keep_alive_max_requests = sys.maxsize
    config.graceful_timeout = settings.graceful_seconds
    config.h11_max_incomplete_size = HEAD_BYTES_MAX
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config
