"""The ASGI application: Chroma's API over HTTP, with the routes that the catalogue of calls names, and its first API's.

Routing looks at the path as it was sent. ASGI servers decode `%2F` before an application sees the path, and a name with a
slash would fall apart into two segments; so segments are told apart first, and decoded afterwards, one by one.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chroma_async.protocol import CALLS, Call, Heartbeat, WireResponse
from chroma_async.protocol.call import API_V2
from chroma_async.protocol.records import LSN_HEADER
from chroma_async.protocol.unsupported import UNSUPPORTED
from chroma_async.protocol.v1 import API_V1, LEGACY_ROUTES
from chroma_async.server.answers import TRACE_HEADER, empty_response, send_response
from chroma_async.server.body import BodyTimeout, discard_body
from chroma_async.server.endpoint import CallEndpoint, Dispatch, Host
from chroma_async.server.legacy import LegacyCallEndpoint
from chroma_async.server.pages import pages
from chroma_async.settings import ServerSettings

access_logger = logging.getLogger("chroma_async.access")


def create_app(dispatch: Dispatch, settings: ServerSettings, *, more_routes: Sequence[BaseRoute] = ()) -> ASGIApp:
    """Return the application that answers every call of the catalogue by `dispatch`, with pages that describe them.

    `more_routes` are further pages beside the API, matched first.
    """
    host = Host(dispatch, settings)
    refusal = Refusal(settings)
    described = [Route(path, MethodTable({"GET": page}, refusal)) for path, page in pages().items()]
    routes = [*more_routes, *_call_routes(host, refusal), *described]
    app: ASGIApp = RawPathRouting(Router(routes, redirect_slashes=False, default=refusal))
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[TRACE_HEADER, LSN_HEADER],
        )
    return AccessLog(app) if settings.access_log else app


class RawPathRouting:
    """Lets the router see the path as it was sent, still percent-encoded."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["raw_path"].decode("latin-1")}
        await self._app(scope, receive, send)


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
        try:
            await discard_body(receive, timeout_seconds=self._timeout_seconds)
        except ClientDisconnect:
            return
        except BodyTimeout:
            response = empty_response(408, connection="close")
        await send_response(send, response)


class MethodTable:
    """The endpoints of one path, by method."""

    def __init__(self, endpoints: Mapping[str, ASGIApp], refusal: Refusal) -> None:
        self._endpoints = dict(endpoints)
        if "GET" in self._endpoints:
            self._endpoints["HEAD"] = self._endpoints["GET"]
        self._wrong_method = empty_response(405, allow=",".join(sorted(self._endpoints)))
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is None:
            await self._refusal.answer(self._wrong_method, receive, send)
        else:
            await endpoint(scope, receive, send)


class AccessLog:
    """Logs every request when it is done, with its path as it was sent: an encoded newline stays encoded."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            method, path = scope["method"], scope["raw_path"].decode("latin-1")
            seconds = time.perf_counter() - started
            access_logger.info("request.done method=%s path=%s status=%d seconds=%.6f", method, path, status, seconds)


def _call_routes(host: Host, refusal: Refusal) -> list[BaseRoute]:
    """One route per shape of path: `{name}` and `{collection_id}` in one place are one shape with different methods.

    Longer paths stand first: those of records are the frequent ones, and the router goes through the list in order.
    """
    nobody = Host(_refuse, host.settings)
    shapes: dict[str, dict[str, ASGIApp]] = {API_V2: {"GET": CallEndpoint(Heartbeat, host)}}
    for call in (*CALLS, *UNSUPPORTED):
        endpoints = shapes.setdefault(path_shape(call.route.path), {})
        endpoints.setdefault(call.route.method, CallEndpoint(call, nobody if call in UNSUPPORTED else host))
    for row in LEGACY_ROUTES:
        shape = path_shape(row.route.path)
        for path in (shape, shape + "/"):
            shapes.setdefault(path, {})[row.route.method] = LegacyCallEndpoint(row, host)
    ordered = sorted(shapes.items(), key=lambda item: item[0].count("/"), reverse=True)
    return [Route(shape, MethodTable(endpoints, refusal)) for shape, endpoints in ordered]


async def _refuse(call: Call[Any]) -> Any:
    """Answer an unsupported call: by an error."""
    call.validate()
    raise AssertionError(f"unreachable: {type(call).__name__} is always refused")


def path_shape(path: str) -> str:
    """Return a path with its placeholders numbered instead of named."""
    number = iter(range(len(path)))
    return re.sub(r"{\w+}", lambda _: f"{{segment_{next(number)}}}", path)
