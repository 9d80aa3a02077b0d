"""A worker process: one engine, one event loop, requests from the shared socket."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from starlette.types import ASGIApp

from chroma_async.engine import Engine, open_engine
from chroma_async.server.app import create_app
from chroma_async.server.child import Duty, Orders
from chroma_async.server.life import CompactorWatch, Life
from chroma_async.server.shared_metrics import MetricsPage
from chroma_async.server.tracing import tracer_provider
from chroma_async.settings import AuthSettings, HttpServer, ServerSettings

if TYPE_CHECKING:  # loaded where it is asked for
    from chroma_async.server.auth.build import Access

SWITCH_SECONDS: Final = 0.0005
"""How long a searching thread may keep the interpreter from the event loop; answers would feel the usual 5 ms."""

BRIEF_SECONDS: Final = 0.01
"""A worker's loop has nothing to do but answer requests, so a read that is over sooner may run on it. With a limit of half
of this, busy workers could get stuck in threads that fight for the interpreter."""


class Serve(Protocol):
    """Serves an application on the socket of a descriptor until `stop`, and finishes the requests that have begun.

    Once the process is draining, answers say that their connection ends with them.
    """

    def __call__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        descriptor: int,
        stop: asyncio.Event,
        life: Life | None = None,
    ) -> Awaitable[None]: ...


async def work(duty: Duty) -> None:
    """Answer requests until told to stop, then finish those that have begun.

    Raises:
        FormatError, OSError: the data directory can't be opened.
    """
    orders = duty.orders
    serve = serve_by(orders.server.http_server)
    sys.setswitchinterval(SWITCH_SECONDS)
    settings = replace(orders.engine, brief_seconds=BRIEF_SECONDS)
    searches = orders.open_searches()
    async with open_engine(Path(orders.path), settings, compact=False, searches=searches) as engine:
        life = Life(
            lambda: None if engine.is_ready else "the engine is not open",
            lambda: engine.writer.refusal,
            CompactorWatch(Path(orders.path)),
            loads=orders.open_loads(),
            searches=searches,
        )
        metrics = None if orders.metrics is None else MetricsPage.shared(orders.metrics)
        provider = tracer_provider()
        tracer = None if provider is None else provider.get_tracer("chroma_async")
        app = create_app(
            engine.dispatch,
            orders.server,
            _access(orders),
            life=life,
            metrics=metrics,
            tracer=tracer,
            position=lambda: engine.position,
        )
        stop = asyncio.Event()
        tasks = [
            asyncio.create_task(_drain(duty, life, stop)),
            asyncio.create_task(_end_waits(engine, stop)),
            asyncio.create_task(_end_feeds(engine, life.draining)),
        ]
        duty.report_ready()
        try:
            await serve(app, orders.server, orders.socket, stop, life)
        finally:
            for task in tasks:
                task.cancel()
            if provider is not None:
                await asyncio.to_thread(provider.shutdown)  # which sends what waits


async def _drain(duty: Duty, life: Life, stop: asyncio.Event) -> None:
    """Let readiness go first: whoever probes it, and connections that are kept, can turn elsewhere before they must."""
    await duty.stop.wait()
    life.draining.set()
    await asyncio.sleep(duty.orders.server.drain_seconds)
    stop.set()


async def _end_waits(engine: Engine, stop: asyncio.Event) -> None:
    """Answer writes that wait for the compactor, as soon as this process stops listening."""
    await stop.wait()
    engine.progress.stop()


async def _end_feeds(engine: Engine, draining: asyncio.Event) -> None:
    """End feeds before anything else: they would last, and their clients can turn elsewhere at once."""
    await draining.wait()
    engine.feeds.stop()


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
