"""A worker process: one engine, one event loop, requests from the shared socket."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any, Final, cast

from hypercorn.asyncio import serve  # pyright: ignore[reportUnknownVariableType]
from hypercorn.config import Config
from starlette.types import ASGIApp

from chroma_async.engine import open_engine
from chroma_async.server.app import create_app
from chroma_async.server.child import Duty, run_child
from chroma_async.settings import ServerSettings

LISTEN_BACKLOG: Final = 2048
HEAD_BYTES_MAX: Final = 64 * 1024
_CLOSE_SECONDS: Final = 1.0


async def work(duty: Duty) -> None:
    """Answer requests until told to stop, then finish those that have begun.

    Raises:
        FormatError, OSError: the data directory can't be opened.
    """
    orders = duty.orders
    async with open_engine(Path(orders.path), orders.engine, compact=False) as engine:
        app = create_app(engine.dispatch, orders.server)
        duty.report_ready()
        await _serve(app, hypercorn_config(orders.server, orders.socket), duty.stop)


async def _serve(app: ASGIApp, config: Config, stop: asyncio.Event) -> None:
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


if __name__ == "__main__":
    sys.exit(run_child("worker", work))
