"""A worker process: one engine, one event loop, requests from the shared socket."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from starlette.types import ASGIApp

from chroma_async.engine import Engine, open_engine
from chroma_async.server.app import create_app
from chroma_async.server.child import Duty, Orders
from chroma_async.settings import AuthSettings, HttpServer, ServerSettings

if TYPE_CHECKING:  # loaded where it is asked for
    from chroma_async.server.auth.build import Access

SWITCH_SECONDS: Final = 0.0005
"""How long a searching thread may keep the interpreter from the event loop; answers would feel the usual 5 ms."""

BRIEF_SECONDS: Final = 0.01
"""A worker's loop has nothing to do but answer requests, so a read that is over sooner may run on it. With a limit of half
of this, busy workers could get stuck in threads that fight for the interpreter."""

Serve = Callable[[ASGIApp, ServerSettings, int, asyncio.Event], Awaitable[None]]
"""Serves an application on the socket of a descriptor until told to stop, and finishes the requests that have begun."""


async def work(duty: Duty) -> None:
    """Answer requests until told to stop, then finish those that have begun.

    Raises:
        FormatError, OSError: the data directory can't be opened.
    """
    orders = duty.orders
    serve = serve_by(orders.server.http_server)
    sys.setswitchinterval(SWITCH_SECONDS)
    settings = replace(orders.engine, brief_seconds=BRIEF_SECONDS)
    async with open_engine(Path(orders.path), settings, compact=False) as engine:
        app = create_app(engine.dispatch, orders.server, _access(orders))
        duty.report_ready()
        stopping = asyncio.create_task(_end_waits(engine, duty.stop))
        try:
            await serve(app, orders.server, orders.socket, duty.stop)
        finally:
            stopping.cancel()


async def _end_waits(engine: Engine, stop: asyncio.Event) -> None:
    """Answer writes that wait for the compactor, as soon as this process is to stop."""
    await stop.wait()
    engine.progress.stop()


def _access(orders: Orders) -> Access | None:
    if orders.auth == AuthSettings():
        return None
    from chroma_async.server.auth.build import build_access

    return build_access(orders.auth, orders.server.trusted_proxies)


def serve_by(name: HttpServer) -> Serve:
    """Import an HTTP server."""
    if name == "uvicorn":
        from chroma_async.server.with_uvicorn import serve
    else:
        from chroma_async.server.with_hypercorn import serve
    return serve
