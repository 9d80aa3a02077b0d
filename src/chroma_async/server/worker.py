"""A worker process: one engine, one event loop, requests from the shared socket."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from starlette.types import ASGIApp

from chroma_async.engine import Engine, open_engine
from chroma_async.server.app import create_app
from chroma_async.server.child import Duty, Orders
from chroma_async.server.life import CompactorWatch, Life
from chroma_async.server.shared_metrics import MetricsPage
from chroma_async.server.tracing import tracer_provider
from chroma_async.server.workload import Workload
from chroma_async.settings import AuthSettings, HttpServer, ServerSettings

if TYPE_CHECKING:  # loaded where it is asked for
    from opentelemetry.trace import Tracer

    from chroma_async.server.auth.build import Access

SWITCH_SECONDS: Final = 0.0005
"""How long a searching thread may keep the interpreter from the event loop; answers would feel the usual 5 ms."""


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
    async with _engine(orders) as (engine, life), _tracing() as tracer:
        app = create_app(
            engine.dispatch,
            orders.server,
            _access(orders),
            life=life,
            metrics=None if orders.metrics is None else MetricsPage.shared(orders.metrics),
            tracer=tracer,
            position=lambda: engine.position,
        )
        stop = asyncio.Event()
        ending = asyncio.create_task(_end(duty, engine, life, stop))
        duty.report_ready()
        try:
            await serve(app, orders.server, orders.socket, stop, life)
        finally:
            ending.cancel()


@asynccontextmanager
async def _engine(orders: Orders) -> AsyncGenerator[tuple[Engine, Life]]:
    path, searches = Path(orders.path), orders.open_searches()
    async with open_engine(path, orders.engine, compact=False, searches=searches) as engine:
        yield (
            engine,
            Life(
                lambda: None if engine.is_ready else "the engine is not open",
                lambda: engine.writer.refusal,
                CompactorWatch(path),
                load=Workload(orders.open_loads(), searches),
            ),
        )


@asynccontextmanager
async def _tracing() -> AsyncGenerator[Tracer | None]:
    """What makes spans, None where nobody wants them; those that wait at the end are sent."""
    provider = tracer_provider()
    if provider is None:
        yield None
        return
    try:
        yield provider.get_tracer("chroma_async")
    finally:
        await asyncio.to_thread(provider.shutdown)


async def _end(duty: Duty, engine: Engine, life: Life, stop: asyncio.Event) -> None:
    """Let readiness go first: whoever probes it, and connections that are kept, can turn elsewhere before they must.

    So can feeds, which would last. Writes that wait for the compactor are answered when this process stops listening.
    """
    await duty.stop.wait()
    life.draining.set()
    engine.feeds.stop()
    await asyncio.sleep(duty.orders.server.drain_seconds)
    stop.set()
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
