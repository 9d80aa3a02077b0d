"""Spans of requests for OpenTelemetry: an extra, configured by its standard variables, and not there without them.

A span has the name of the call, continues the trace that the request names (`traceparent`, W3C Trace Context), and tells
status, client, path and request id. Nothing of documents, vectors, credentials or query strings is in it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chroma_async.server.observe import CALL, REQUEST_ID
from chroma_async.server.peers import client_of
from chroma_async.server.start_error import StartError

if TYPE_CHECKING:  # an extra
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

SERVICE: Final = "chroma-async"

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class TracingError(StartError):
    """Spans are asked for and can't be made; the message says what to install or change."""


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the variables ask for spans: where they go, or by which exporter."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER")
    return exporter != "none" if exporter else any(environment.get(name) for name in _ENDPOINTS)


def check_tracing() -> None:
    """Make sure that spans can be made, if they are wanted.

    Raises:
        TracingError: a package is missing, or the exporter is not known.
    """
    if is_wanted(os.environ):
        _exporter()


def tracer_provider() -> TracerProvider | None:
    """Return what makes spans and sends them in the background; None where nobody wants them. Made after a fork.

    Raises:
        TracingError: as `check_tracing`.
    """
    if not is_wanted(os.environ):
        return None
    exporter = _exporter()
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": SERVICE}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporter() -> Any:
    kind = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    try:
        if kind == "console":
            from opentelemetry.sdk.trace.export import ConsoleSpanExporter

            return ConsoleSpanExporter()
        if kind == "otlp" and protocol in (None, "", "http/protobuf"):
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            return OTLPSpanExporter()
    except ImportError as error:
        raise TracingError(f"OTEL_... variables ask for tracing; pip install 'chroma-async[otel]' ({error})") from error
    raise TracingError(
        "spans are sent by otlp over http/protobuf, or written by console. "
        f"OTEL_TRACES_EXPORTER={kind!r} OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}"
    )


class Traced:
    """Makes a span of each request."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._app = app
        self._tracer = tracer
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["raw_path"].decode("latin-1")
        status = 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        parent = self._propagator.extract(carrier) if carrier else None
        kind = self._trace.SpanKind.SERVER
        with self._tracer.start_as_current_span(method, context=parent, kind=kind) as span:
            try:
                await self._app(scope, receive, send_and_note)
            finally:
                if span.is_recording():
                    span.update_name(scope.get(CALL) or method)
                    span.set_attributes(
                        {
                            "http.request.method": method,
                            "url.path": path,
                            "url.scheme": scope.get("scheme", "http"),
                            "network.protocol.version": scope.get("http_version", ""),
                            "client.address": client_of(scope),
                            "http.response.status_code": status,
                            "chroma_async.request_id": scope.get(REQUEST_ID, ""),
                        }
                    )
                    if status >= 500:
                        span.set_status(self._trace.StatusCode.ERROR)
