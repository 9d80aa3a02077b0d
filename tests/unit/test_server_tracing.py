"""Spans of requests: what they tell, whose trace they continue, and that they are there only when they are wanted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from chroma_async.protocol import Heartbeat
from chroma_async.server.app import create_app
from chroma_async.server.tracing import TracingError, check_tracing, is_wanted
from chroma_async.settings import ServerSettings

pytestmark = pytest.mark.anyio


async def dispatch(call: Any) -> Any:
    if isinstance(call, Heartbeat):
        return 1
    raise RuntimeError("unforeseen")


async def test_a_request_is_a_span_in_the_trace_that_it_names() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = create_app(dispatch, ServerSettings(), tracer=provider.get_tracer("test"))
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "X-Request-Id": "r-1"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        answer = await client.get("/api/v2/heartbeat?secret=x", headers=headers)
        assert answer.headers["x-request-id"] == "r-1"
        await client.get("/api/v2/tenants/x", headers={"traceparent": "nonsense"})
        await client.get("/nothing")
    first, second, third = exporter.get_finished_spans()
    assert first.name == "Heartbeat"
    assert first.context is not None
    assert format(first.context.trace_id, "032x") == "0af7651916cd43dd8448eb211c80319c"
    assert first.parent is not None
    attributes = dict(first.attributes or {})
    assert attributes["http.response.status_code"] == 200
    assert attributes["chroma_async.request_id"] == "r-1"
    assert attributes["url.path"] == "/api/v2/heartbeat"
    assert "secret" not in str(attributes)
    assert (second.name, second.status.is_ok, second.parent) == ("GetTenant", False, None)
    assert (third.name, third.status.is_ok) == ("GET", True)


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
    ],
)
def test_variables_decide_whether_there_are_spans(environment: dict[str, str], wanted: bool) -> None:
    assert is_wanted(environment) is wanted


def test_exporter_that_is_not_known_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with pytest.raises(TracingError, match="zipkin"):
        check_tracing()


def test_missing_package_is_one_line_and_starts_nothing(tmp_path: Path) -> None:
    program = "import sys; sys.modules['opentelemetry.exporter.otlp.proto.http.trace_exporter'] = None\n"
    program += "from chroma_async.cli import main; main()"
    command = [sys.executable, "-c", program, "run", "--path", str(tmp_path / "data"), "--port", "0"]
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "pip install 'chroma-async[otel]'" in line
    assert not (tmp_path / "data").exists()


def test_nothing_of_it_is_loaded_without_the_variables() -> None:
    program = "import sys, chroma_async.server.worker, chroma_async.server.run\n"
    program += "assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
