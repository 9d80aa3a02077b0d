"""The ASGI application: Chroma's API over HTTP, with the routes that the catalogue of calls names, and its first API's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import orjson
from msgspec.structs import replace
from starlette.types import ASGIApp, Receive, Scope, Send

from chroma_async.metrics import HttpMetrics
from chroma_async.protocol import CALLS, Call, Heartbeat, Ingest, WireResponse
from chroma_async.protocol.call import API_V2
from chroma_async.protocol.changes import LOG_HEADER
from chroma_async.protocol.records import LSN_HEADER, REACHED_HEADER
from chroma_async.protocol.unsupported import UNSUPPORTED
from chroma_async.protocol.v1 import API_V1, LEGACY_ROUTES
from chroma_async.server.answers import TRACE_HEADER, Unread, answer_unread, empty_response, send_response
from chroma_async.server.endpoint import CallEndpoint, Dispatch, Host
from chroma_async.server.feed import FEEDS, FeedEndpoint
from chroma_async.server.feed_hall import FeedHall
from chroma_async.server.forwarded import Forwarded
from chroma_async.server.ingest import IngestEndpoint
from chroma_async.server.legacy import LegacyCallEndpoint
from chroma_async.server.life import Life, Reason
from chroma_async.server.limits import Limits
from chroma_async.server.observe import Observed
from chroma_async.server.routing import LIVE_PATH, READY_PATH, PathTable
from chroma_async.server.shared_metrics import METRICS_PATH, MetricsPage
from chroma_async.settings import ServerSettings

if TYPE_CHECKING:  # loaded where it is asked for
    from opentelemetry.trace import Tracer

    from chroma_async.server.auth.build import Access

OPENAPI_PATH: Final = "/openapi.json"
DOCS_PATH: Final = "/docs"

EXPOSED_HEADERS: Final = (TRACE_HEADER, LSN_HEADER, REACHED_HEADER, LOG_HEADER, "x-request-id", "retry-after")
"""What programs in browsers may read, beside what they always may."""


def create_app(
    dispatch: Dispatch,
    settings: ServerSettings,
    access: Access | None = None,
    *,
    life: Life | None = None,
    metrics: MetricsPage | None = None,
    tracer: Tracer | None = None,
    position: Callable[[], int] | None = None,
) -> ASGIApp:
    """Return the application that answers every call of the catalogue by `dispatch`, with pages that describe them.

    With `access`, only those who are known and may. `life` answers the probes, `metrics` the scrapes, `tracer` makes
    spans, `position` gives the LSN through which the engine knows the log. What is not configured has no layer.

    Raises:
        ValueError: a setting that can't be meant so.
    """
    life = life or Life()
    counted = HttpMetrics() if metrics else None
    feeds = FeedHall(settings.feeds_max, life.draining)
    host, nobody = _hosts(Host(dispatch, settings, position=position, metrics=counted, feeds=feeds), access)
    app: ASGIApp = Application(host, nobody, _pages(life, metrics), life)
    for layer in reversed([*_layers(settings, access, counted, tracer)]):
        app = layer(app)
    return app


def _hosts(host: Host, access: Access | None) -> tuple[Host, Host]:
    """Return what answers the calls, and what the calls that are always refused."""
    if access is None:
        return host, replace(host, dispatch=_refuse)
    from chroma_async.server.auth.guard import Guard

    guard, refusing = Guard(host.dispatch, host.dispatch, access.note), Guard(_refuse, host.dispatch)
    return (
        replace(host, dispatch=guard, refusal_of=guard.refusal_of, check=guard.check),
        replace(host, dispatch=refusing, refusal_of=refusing.refusal_of),
    )


def _layers(
    settings: ServerSettings, access: Access | None, counted: HttpMetrics | None, tracer: Tracer | None
) -> Iterator[Callable[[ASGIApp], ASGIApp]]:
    """What is around the application, in the order in which a request comes through it."""
    if settings.access_log or settings.request_ids or counted is not None or tracer is not None:
        yield lambda app: Observed(app, settings.access_log, counted)
    if tracer is not None:
        from chroma_async.server.tracing import Traced

        yield lambda app: Traced(app, tracer)
    if settings.root_path or settings.trusted_proxies:
        yield lambda app: Forwarded(app, settings)
    if settings.cors_origins:
        from starlette.middleware.cors import CORSMiddleware

        yield lambda app: CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    if access is not None:
        from chroma_async.server.auth.authentication import Authentication

        yield lambda app: Authentication(app, access.authenticator, settings.body_timeout_seconds)
    if settings.requests_per_second is not None or settings.concurrency is not None:
        yield lambda app: Limits(app, settings)


def _pages(life: Life, metrics: MetricsPage | None) -> dict[str, ASGIApp]:
    """What is answered beside the calls, by path."""
    pages: dict[str, ASGIApp] = {LIVE_PATH: Probe(_alive), READY_PATH: Probe(life.not_ready)}
    if metrics is not None:
        pages[METRICS_PATH] = metrics
    return pages


class Application:
    """Hands each request to the endpoint of its path and method; `nobody` answers the calls that are always refused."""

    def __init__(self, host: Host, nobody: Host, pages: Mapping[str, ASGIApp], life: Life) -> None:
        self._refusal = Refusal(host.settings)
        self._paths = _call_routes(host, nobody, self._refusal, life)
        for path, page in pages.items():
            page = Unread(page, host.settings.body_timeout_seconds)
            self._paths.setdefault(path, MethodTable(self._refusal)).setdefault("GET", page)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        found = self._paths.find(scope["raw_path"].decode("latin-1")) if scope["type"] == "http" else None
        if found is None:
            await self._refusal(scope, receive, send)
        else:
            methods, scope["path_segments"] = found
            await methods(scope, receive, send)


async def _live(receive: Receive, send: Send) -> None:
    """Have nothing to do when the server starts and stops: whoever made the application has done it."""
    for step in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{step}.complete"})


class Refusal:
    """Answers what no call is meant by: with an empty body, below the first API as that did."""

    def __init__(self, settings: ServerSettings) -> None:
        self._timeout_seconds = settings.body_timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": ""})
        elif scope["path"].startswith(API_V1 + "/"):
            await self.answer(WireResponse(status=404, body=b'{"detail":"Not Found"}'), receive, send)
        else:
            await self.answer(empty_response(404), receive, send)

    async def answer(self, response: WireResponse, receive: Receive, send: Send) -> None:
        """Answer a request whose body does not matter."""
        await answer_unread(receive, send, response, timeout_seconds=self._timeout_seconds)


class MethodTable:
    """The endpoints of one path, by method."""

    def __init__(self, refusal: Refusal) -> None:
        self._endpoints: dict[str, ASGIApp] = {}
        self._refusal = refusal

    def setdefault(self, method: str, endpoint: ASGIApp) -> None:
        """Answer a method by this endpoint unless it has one already."""
        self._endpoints.setdefault(method, endpoint)
        if method == "GET":
            self._endpoints.setdefault("HEAD", endpoint)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is None:
            allowed = ",".join(sorted(self._endpoints))
            await self._refusal.answer(empty_response(405, allow=allowed), receive, send)
        else:
            await endpoint(scope, receive, send)


class Probe:
    """Answers whether a process lives, or is ready: status 200, or 503 with the reason why not."""

    def __init__(self, reason: Reason) -> None:
        self._reason = reason

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = self._reason()
        body = {"status": "ok"} if reason is None else {"status": "unavailable", "reason": reason}
        headers = {"cache-control": "no-store"}
        await send_response(send, WireResponse(200 if reason is None else 503, orjson.dumps(body), headers))


def _alive() -> None:
    return None


def _call_routes(host: Host, nobody: Host, refusal: Refusal, life: Life) -> PathTable[MethodTable]:
    paths: PathTable[MethodTable] = PathTable()

    def add(path: str, method: str, endpoint: ASGIApp) -> None:
        paths.setdefault(path, MethodTable(refusal)).setdefault(method, endpoint)

    add(API_V2, "GET", CallEndpoint(Heartbeat, host))
    for call in (*CALLS, *UNSUPPORTED):
        endpoint = FeedEndpoint if call in FEEDS else CallEndpoint
        made = IngestEndpoint(host, life) if call is Ingest else endpoint(call, nobody if call in UNSUPPORTED else host)
        add(call.route.path, call.route.method, made)
    for path in (OPENAPI_PATH, DOCS_PATH, DOCS_PATH + "/"):
        add(path, "GET", Unread(_Page(path), host.settings.body_timeout_seconds))
    for row in LEGACY_ROUTES:
        legacy = LegacyCallEndpoint(row, host)
        for path in (row.route.path, row.route.path + "/"):
            add(path, row.route.method, legacy)
    return paths


class _Page:
    """A page about the API, made when somebody asks for one: servers start without it."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from chroma_async.server.pages import pages

        await pages(scope.get("root_path", ""))[self._path](scope, receive, send)


async def _refuse(call: Call[Any]) -> Any:
    """Answer an unsupported call: by an error."""
    call.validate()
    raise AssertionError(f"unreachable: {type(call).__name__} is always refused")
