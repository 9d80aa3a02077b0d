"""Request ids, the access log and counts: what is noted of a request, whatever it holds."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from chroma_async.errors import NotFoundError
from chroma_async.metrics import HttpMetrics
from chroma_async.protocol import Heartbeat
from chroma_async.server.app import create_app
from chroma_async.server.observe import SENDER, TEXT_MAX, Observed, plain
from chroma_async.server.shared_metrics import MetricsPage
from chroma_async.settings import ServerSettings

pytestmark = pytest.mark.anyio

ACCESS = "chroma_async.access"


async def dispatch(call: Any) -> Any:
    if isinstance(call, Heartbeat):
        return 1
    raise NotFoundError("none")


def client_of(metrics: MetricsPage | None = None, **settings: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(dispatch, ServerSettings(**settings), metrics=metrics))
    return httpx.AsyncClient(transport=transport, base_url="http://server")


@pytest.mark.parametrize("given_id", ["abc", "550e8400-e29b-41d4-a716-446655440000", "a/b=c+d@e:f.g", "x" * 128])
async def test_id_of_a_request_comes_back_and_is_the_trace_of_its_error(given_id: str) -> None:
    async with client_of(request_ids=True) as client:
        answer = await client.get("/api/v2/heartbeat", headers={"X-Request-Id": given_id})
        assert answer.headers["x-request-id"] == given_id
        refused = await client.get("/api/v2/tenants/x", headers={"X-Request-Id": given_id})
        assert refused.headers["chroma-trace-id"] == refused.headers["x-request-id"] == given_id


@pytest.mark.parametrize("given_id", ["", "a b", "a\tb", 'a"b', "x" * 129, "é", "a\\nb", "a;b"])
async def test_id_that_is_none_is_replaced(given_id: str) -> None:
    async with client_of(request_ids=True) as client:
        answer = await client.get("/api/v2/heartbeat", headers={"X-Request-Id": given_id.encode()})  # type: ignore[dict-item]
        made = answer.headers["x-request-id"]
        assert made
        assert made != given_id
        twice = await client.get("/api/v2/heartbeat", headers=[("X-Request-Id", "a"), ("X-Request-Id", "b")])
        assert twice.headers["x-request-id"] not in ("a", "b", made)


async def test_nothing_is_added_where_nothing_is_asked_for() -> None:
    async with client_of() as client:
        assert "x-request-id" not in (await client.get("/api/v2/heartbeat")).headers
        assert (await client.get("/metrics")).status_code == 404


async def test_text_has_a_line_a_request(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, ACCESS):
        async with client_of(access_log="text", trusted_proxies=("127.0.0.1",)) as client:
            headers = {"X-Request-Id": "r-1", "X-Forwarded-For": "203.0.113.9"}
            await client.get("/api/v2/tenants/a%0Ab", headers=headers)
    (line,) = caplog.messages
    assert line.startswith(
        "request.done client=203.0.113.9 identity=- method=GET path=/api/v2/tenants/a%0Ab call=GetTenant status=404"
    )
    assert line.endswith("request_id=r-1")


async def test_json_has_an_object_a_request(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, ACCESS):
        async with client_of(access_log="json") as client:
            await client.get("/nothing")
    (line,) = caplog.messages
    noted = json.loads(line)
    assert {
        "time",
        "event",
        "client",
        "identity",
        "method",
        "path",
        "call",
        "status",
        "bytes",
        "seconds",
        "request_id",
    } == set(noted)
    assert (noted["status"], noted["path"], noted["call"], noted["bytes"]) == (404, "/nothing", "-", 0)


@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_request_can_write_a_line_of_its_own(form: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Methods and targets of HTTP/2 may hold any byte, names of identities any character."""
    evil = "x\r\n2026-01-01T00:00:00Z INFO request.done status=200 \u2028\u202e\x1b[31m" + "y" * 10_000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope[SENDER] = SimpleNamespace(name=evil)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"abc"})

    async def send(message: Any) -> None:
        return None

    scope = {"type": "http", "method": evil, "raw_path": evil.encode(), "headers": [], "client": None}
    with caplog.at_level(logging.INFO, ACCESS):
        await Observed(app, form)(scope, send, send)  # type: ignore[arg-type]
    (line,) = caplog.messages
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 40_000
    if form == "json":
        assert json.loads(line)["identity"] == evil[:TEXT_MAX]
    else:
        assert [part.partition("=")[0] for part in line.split(" ") if "=" in part][:2] == ["client", "identity"]


@given(st.text())
def test_plain_values_are_printable_and_told_apart(text: str) -> None:
    shown = plain(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert shown.startswith('"') or not set(shown) & set(' ="')
    assert (json.loads(shown) if shown.startswith('"') else shown) == text[:TEXT_MAX]


async def test_client_that_left_is_noted_as_such(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        return None

    metrics = HttpMetrics()
    scope = {"type": "http", "method": "GET", "raw_path": b"/", "headers": [], "client": ("127.0.0.1", 1)}
    with caplog.at_level(logging.INFO, ACCESS):
        await Observed(app, "text", metrics)(scope, None, None)  # type: ignore[arg-type]
    assert "status=499" in caplog.text
    assert metrics.registry.get_sample_value("chroma_async_http_requests_total", {"call": "", "status": "499"}) == 1
    assert metrics.registry.get_sample_value("chroma_async_http_requests_in_flight") == 0


async def test_requests_are_counted_by_call_and_status() -> None:
    metrics = HttpMetrics()
    seen: list[float] = []

    async def watching(call: Any) -> Any:
        seen.append(metrics.registry.get_sample_value("chroma_async_http_requests_in_flight") or 0)
        return await dispatch(call)

    app = Observed(create_app(watching, ServerSettings()), metrics=metrics)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        await client.get("/api/v2/heartbeat")
        body = b'{"name": "x"}'
        await client.post("/api/v2/tenants", content=body)
        await client.get("/nothing/secret-name")
    value = metrics.registry.get_sample_value
    assert value("chroma_async_http_requests_total", {"call": "Heartbeat", "status": "200"}) == 1
    assert value("chroma_async_http_requests_total", {"call": "CreateTenant", "status": "404"}) == 1
    assert value("chroma_async_http_requests_total", {"call": "", "status": "404"}) == 1
    assert value("chroma_async_http_received_bytes_total", {"call": "CreateTenant"}) == len(body)
    assert value("chroma_async_http_request_seconds_count", {"call": "Heartbeat"}) == 1
    assert seen == [1, 1]


async def test_metrics_are_a_page() -> None:
    registry = CollectorRegistry()
    metrics = HttpMetrics(registry)
    metrics.count("Heartbeat", 200, 0.1, 0, 5)
    async with client_of(MetricsPage(registry)) as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'chroma_async_http_requests_total{call="Heartbeat",status="200"} 1.0' in answer.text
