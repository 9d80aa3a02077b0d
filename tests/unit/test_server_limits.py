"""How much one client may ask for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send
from tests.support.waiting import eventually

from chroma_async.protocol import Heartbeat
from chroma_async.server import body
from chroma_async.server.app import create_app
from chroma_async.server.limits import CLIENTS_MAX, Bucket, Limits, client_key
from chroma_async.server.observe import SENDER
from chroma_async.settings import ServerSettings

pytestmark = pytest.mark.anyio


async def dispatch(call: Any) -> Any:
    assert isinstance(call, Heartbeat)
    return 1


def client_of(app: Any, address: str = "203.0.113.9") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 1)), base_url="http://server")


def test_bucket_gives_a_seconds_worth_at_once_and_then_as_it_fills() -> None:
    bucket = Bucket(5.0, 100.0)
    assert [bucket.take(100.0) for _ in range(5)] == [0.0] * 5
    assert bucket.take(100.0) == pytest.approx(0.2)
    assert bucket.take(100.25) == 0.0
    assert bucket.take(1_000.0) == 0.0
    assert [bucket.take(1_000.0) for _ in range(5)].count(0.0) == 4
    slow = Bucket(0.1, 0.0)
    assert slow.take(0.0) == 0.0
    assert slow.take(0.0) == pytest.approx(10.0)


async def test_too_many_requests_get_429_and_the_time_to_wait() -> None:
    now = 0.0
    settings = ServerSettings(requests_per_second=0.25)
    app = Limits(create_app(dispatch, ServerSettings()), settings, lambda: now)
    async with client_of(app) as client, client_of(app, "203.0.113.10") as other:
        assert (await client.get("/api/v2/heartbeat")).status_code == 200
        refused = await client.get("/api/v2/heartbeat")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "4")
        assert refused.json() == {
            "error": "RateLimitError",
            "message": "too many requests; send fewer. requests_per_second=0.25",
        }
        assert (await other.get("/api/v2/heartbeat")).status_code == 200
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/%6civez")).status_code == 429
        now = 4.0
        assert (await client.get("/api/v2/heartbeat")).status_code == 200


async def test_options_make_the_limits_and_cors_shows_them() -> None:
    app = create_app(dispatch, ServerSettings(requests_per_second=1, cors_origins=("https://a",)))
    async with client_of(app) as client:
        origin = {"Origin": "https://a"}
        answers = [await client.get("/api/v2/heartbeat", headers=origin) for _ in range(3)]
        assert [answer.status_code for answer in answers][:2] == [200, 429]
        assert answers[1].headers["access-control-allow-origin"] == "https://a"
        assert "retry-after" in answers[1].headers["access-control-expose-headers"]
        asked = {**origin, "Access-Control-Request-Method": "POST"}
        assert (await client.options("/api/v2/heartbeat", headers=asked)).status_code == 200  # a preflight is not counted


async def test_requests_at_the_same_time_are_bounded_for_each_client() -> None:
    go, begun = asyncio.Event(), list[Any]()

    async def slow(call: Any) -> Any:
        begun.append(call)
        await go.wait()
        return 1

    app = create_app(slow, ServerSettings(concurrency=2))
    async with client_of(app) as client, client_of(app, "203.0.113.10") as other:
        running = [asyncio.ensure_future(client.get("/api/v2/heartbeat")) for _ in range(2)]
        running.append(asyncio.ensure_future(other.get("/api/v2/heartbeat")))
        await eventually(lambda: len(begun) == 3)
        refused = await client.get("/api/v2/heartbeat")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "concurrency=2" in refused.json()["message"]
        go.set()
        assert [answer.status_code for answer in await asyncio.gather(*running)] == [200] * 3
        assert (await client.get("/api/v2/heartbeat")).status_code == 200


async def test_a_request_that_breaks_is_no_longer_running() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError

    limits = Limits(broken, ServerSettings(concurrency=1))
    for _ in range(3):
        with pytest.raises(RuntimeError):
            await limits({"type": "http", "raw_path": b"/", "client": ("a", 1)}, None, None)  # type: ignore[arg-type]
    assert limits._running == {}


async def test_clients_are_forgotten_before_they_fill_the_memory() -> None:
    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        return None

    limits = Limits(nothing, ServerSettings(requests_per_second=1))
    for number in range(CLIENTS_MAX + 500):
        scope = {"type": "http", "raw_path": b"/", "client": (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1)}
        await limits(scope, None, None)  # type: ignore[arg-type]
    assert len(limits._buckets) == CLIENTS_MAX
    assert limits._running == {}


def test_identities_go_before_addresses_and_networks_are_one_client() -> None:
    def key(address: str | None, name: str | None = None) -> str:
        scope: dict[str, Any] = {"client": (address, 1) if address else None}
        if name is not None:
            scope[SENDER] = SimpleNamespace(name=name)
        return client_key(scope)

    assert key("203.0.113.9", "alice") == key("203.0.113.10", "alice") != key("203.0.113.9")
    assert key("2001:db8::1") == key("2001:db8::2") != key("2001:db8:0:1::1")
    assert key(None) == "unix"
    assert key("203.0.113.9", "203.0.113.9") != key("203.0.113.9")


async def test_endless_body_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "DISCARD_BYTES_MAX", 100_000)
    read = 0

    async def receive() -> Any:
        nonlocal read
        read += 10_000
        return {"type": "http.request", "body": b" " * 10_000, "more_body": True}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    app = create_app(dispatch, ServerSettings(body_bytes_max=1_000))
    for path, status in {"/api/v2/tenants": 413, "/api/v2/heartbeat": 405, "/nothing": 404}.items():
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "headers": [],
            "query_string": b"",
        }
        await app(scope, receive, send)
        start, _ = sent[-2:]
        assert start["status"] == status
        assert (b"connection", b"close") in start["headers"]
    assert read < 400_000
