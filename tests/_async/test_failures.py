"""What a client makes of servers and proxies that fail."""

from __future__ import annotations

import socket

import httpx
import msgspec
import numpy as np
import pytest
from tests.api.raw_server import EMPTY, HEARTBEAT, RawServer, answer, fault, late, raw, reset

from chroma_async import AsyncCollection, AsyncHttpClient, errors
from chroma_async.client._async.http import AsyncHttpTransport
from chroma_async.client.address import parse_address
from chroma_async.client.colours import AsyncCaller
from chroma_async.client.retry import RetryPolicy
from chroma_async.model import Collection as Model
from chroma_async.model import CollectionId
from chroma_async.protocol import Call, GetIdentity, GetTenant, Heartbeat, UpsertRecords
from chroma_async.protocol.embeddings import EmbeddingBatch
from chroma_async.protocol.results import WriteResult

pytestmark = pytest.mark.anyio

HTML = "<html>\n<head><title>502 Bad Gateway</title></head>\n</html>"
UUID = "6b8ff5a8-3c8e-4b4e-9d3b-0f1a2b3c4d5e"
UPSERT = UpsertRecords(
    tenant="default_tenant",
    database="default_database",
    collection_id=UUID,
    ids=["a"],
    embeddings=EmbeddingBatch(np.ones((1, 2), dtype=np.float32)),
)


async def ask(port: int, call: Call[object], **timeouts: float) -> object:
    transport = AsyncHttpTransport(
        parse_address("127.0.0.1", port),
        headers={},
        timeout=httpx.Timeout(5.0, **timeouts),
        retry=RetryPolicy(retries=2, first_wait_seconds=0.01),
        limits=httpx.Limits(),
    )
    try:
        return await transport.send(call)
    finally:
        await transport.aclose()


async def refused(server: RawServer, call: Call[object], **timeouts: float) -> errors.ChromaError:
    with pytest.raises(errors.ChromaError) as caught:
        await ask(server.port, call, **timeouts)
    return caught.value


async def test_a_proxys_page_is_called_that_with_url_status_and_first_line() -> None:
    with RawServer(answer(502, HTML, content_type="text/html")) as server:
        error = await refused(server, Heartbeat())
    assert isinstance(error, errors.ServerUnreachableError)
    for part in (
        f"http://127.0.0.1:{server.port}/api/v2/heartbeat",
        "status=502",
        "body='<html>'",
        "this looks like an answer of a proxy, not of the server",
    ):
        assert part in str(error)
    assert len(server.requests) == 3


async def test_a_write_that_a_proxy_failed_to_deliver_is_not_sent_again() -> None:
    with RawServer(answer(502, HTML)) as server:
        await refused(server, UPSERT)
    assert len(server.requests) == 1


async def test_a_call_succeeds_after_passing_failures() -> None:
    with RawServer(answer(503), reset, HEARTBEAT) as server:
        assert await ask(server.port, Heartbeat()) == 7
    assert len(server.requests) == 3


async def test_a_refused_write_is_sent_again_after_the_wait_that_the_server_asks_for() -> None:
    with RawServer(fault(429, "RateLimitError", "too much", retry_after="1"), EMPTY) as server:
        await ask(server.port, UPSERT)
    assert len(server.requests) == 2
    assert server.times[1] - server.times[0] >= 1.0


async def test_a_server_that_keeps_refusing_is_believed() -> None:
    with RawServer(fault(429, "RateLimitError", "too much", retry_after="0")) as server:
        error = await refused(server, Heartbeat())
    assert isinstance(error, errors.RateLimitError)
    assert str(error) == "too much"
    assert len(server.requests) == 3


async def test_an_hour_is_not_waited_for() -> None:
    with RawServer(fault(503, "ChromaError", "come back later", retry_after="3600")) as server:
        error = await refused(server, Heartbeat())
    assert isinstance(error, errors.UnavailableError | errors.ServerUnreachableError)
    assert str(error) == "come back later"
    assert len(server.requests) == 1


async def test_garbage_is_not_an_answer() -> None:
    with RawServer(raw(b"\x00\x01 not http at all\r\n\r\n")) as server:
        error = await refused(server, Heartbeat())
    assert isinstance(error, errors.ServerUnreachableError)
    assert "the connection broke before the answer was complete" in str(error)
    assert f"127.0.0.1:{server.port}" in str(error)
    assert isinstance(error.__cause__, httpx.RequestError)


async def test_a_success_without_the_promised_json_is_not_believed() -> None:
    with RawServer(answer(200, "<html>please log in</html>")) as server:
        error = await refused(server, Heartbeat())
    assert isinstance(error, errors.ServerUnreachableError)
    assert "please log in" in str(error)


async def test_a_truncated_answer_is_not_believed() -> None:
    with RawServer(raw(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"nanosecond')) as server:
        error = await refused(server, Heartbeat())
    assert isinstance(error, errors.ServerUnreachableError)


async def test_a_write_whose_connection_broke_may_have_been_done_and_is_not_repeated() -> None:
    with RawServer(reset) as server:
        error = await refused(server, UPSERT)
    assert isinstance(error, errors.ServerUnreachableError)
    assert "may have been carried out" in str(error)
    assert len(server.requests) == 1


async def test_a_write_is_repeated_with_its_key_where_the_server_keeps_keys() -> None:
    keeps = answer(200, '{"user_id": "", "tenant": "t", "databases": []}', chroma_async_idempotency="1")
    with RawServer(keeps, reset, EMPTY, EMPTY) as server:
        transport = AsyncHttpTransport(
            parse_address("127.0.0.1", server.port),
            headers={},
            timeout=httpx.Timeout(5.0),
            retry=RetryPolicy(retries=2, first_wait_seconds=0.01),
            limits=httpx.Limits(),
        )
        await transport.send(GetIdentity())
        assert (await transport.send(UPSERT)).reached == "committed"
        await transport.send(msgspec.structs.replace(UPSERT, idempotency_key="mine"))
        await transport.aclose()
        keys = [request.headers.get("idempotency-key") for request in server.requests]
    assert keys[0] is None
    assert keys[1] is not None
    assert keys[1] == keys[2]
    assert keys[3] == "mine"
    assert b"idempotency" not in server.requests[3].body


async def test_a_timeout_says_which_one() -> None:
    with RawServer(late(0.5, EMPTY)) as server:
        error = await refused(server, UPSERT, read=0.1)
    assert "read timeout of 0.1 s" in str(error)
    assert len(server.requests) == 1


async def test_a_write_that_waits_leaves_the_server_as_much_longer() -> None:
    with RawServer(late(0.5, EMPTY)) as server:
        call = msgspec.structs.replace(UPSERT, wait="applied", wait_seconds=5)
        assert await ask(server.port, call, read=0.1) == WriteResult(lsn=None, reached="committed")
    with RawServer(late(0.7, EMPTY)) as server:
        error = await refused(server, msgspec.structs.replace(UPSERT, wait="applied", wait_seconds=0.2), read=0.1)
    assert "read timeout of 0.3" in str(error)


async def test_nobody_at_the_port_is_named_with_its_cause() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(errors.ServerUnreachableError, match=f"127.0.0.1:{port}.*ConnectError"):
        await ask(port, Heartbeat())


async def test_an_unknown_route_is_not_a_missing_collection() -> None:
    with RawServer(answer(404)) as server:
        error = await refused(server, GetTenant(tenant="x"))
    assert isinstance(error, errors.ServerUnreachableError)
    assert "path prefix" in str(error)


@pytest.mark.parametrize(
    ("status", "name", "kind"),
    [
        (404, "NotFoundError", errors.NotFoundError),
        (400, "InvalidArgumentError", errors.InvalidArgumentError),
        (409, "ChromaError", errors.UniqueConstraintError),
        (401, "AuthorizationError", errors.AuthorizationError),
        (403, "AuthError", errors.ChromaAuthError),
        (422, "ChromaError", errors.MalformedRequestError),
        (501, "ChromaError", errors.UnimplementedError),
        (500, "InternalError", errors.InternalError),
        (418, "SomethingNew", errors.ChromaError),
    ],
)
async def test_an_error_of_the_server_keeps_its_class_and_message(
    status: int, name: str, kind: type[errors.ChromaError]
) -> None:
    with RawServer(fault(status, name, "what happened")) as server:
        error = await refused(server, GetTenant(tenant="x"))
    assert type(error) is kind
    assert str(error) == "what happened"
    assert len(server.requests) == 1


async def test_a_redirect_is_named_and_not_followed() -> None:
    with RawServer(answer(308, location="https://elsewhere.example/api/v2/heartbeat")) as server:
        error = await refused(server, Heartbeat())
    assert "https://elsewhere.example" in str(error)


async def test_a_proxys_login_page_is_an_authorization_error() -> None:
    with RawServer(answer(401, "who are you?")) as server:
        assert isinstance(await refused(server, Heartbeat()), errors.AuthorizationError)


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (401, '{"error": "AuthorizationError", "message": "wrong credentials"}', "AuthorizationError", "wrong credentials"),
        (403, '{"error": "AuthError", "message": "not allowed"}', "ChromaAuthError", "not allowed"),
        (401, HTML, "AuthorizationError", "a hop before the server wants credentials"),
        (403, HTML, "ChromaAuthError", "a hop before the server does not let this through"),
        (502, HTML, "ServerUnreachableError", "answer of a proxy"),
        (503, HTML, "ServerUnreachableError", "answer of a proxy"),
        (504, HTML, "ServerUnreachableError", "answer of a proxy"),
    ],
)
async def test_wrong_password_missing_permission_and_failing_proxy_are_told_apart(
    status: int, body: str, kind: str, message: str
) -> None:
    with RawServer(answer(status, body)) as server:
        error = await refused(server, UPSERT)
    assert type(error).__name__ == kind
    assert message in str(error)
    assert ("not of the server" in str(error)) == (body == HTML)


async def test_names_are_percent_encoded_wholly() -> None:
    with RawServer(answer(200, '{"name": "x"}')) as server:
        await ask(server.port, GetTenant(tenant="a/b c?ü%2F.."))
        await ask(server.port, GetTenant(tenant=".."))
    assert server.requests[0].target == "/api/v2/tenants/a%2Fb%20c%3F%C3%BC%252F.."
    assert server.requests[1].target == "/api/v2/tenants/%2E%2E"


async def test_connecting_asks_for_identity_tenant_and_database_below_the_prefix_with_the_headers() -> None:
    identity = answer(200, '{"user_id": "", "tenant": "default_tenant", "databases": []}')
    database = answer(200, '{"id": "1", "name": "db1", "tenant": "t1"}')
    with RawServer(identity, answer(200, '{"name": "t1"}'), database, HEARTBEAT) as server:
        client = AsyncHttpClient(
            f"http://127.0.0.1:{server.port}/vectors/", headers={"X-Team": "blue"}, tenant="t1", database="db1"
        )
        async with client:
            await client.heartbeat()
    targets = [request.target.removeprefix("/vectors/api/v2/") for request in server.requests]
    assert targets == ["auth/identity", "tenants/t1", "tenants/t1/databases/db1", "heartbeat"]
    assert all(request.headers["x-team"] == "blue" for request in server.requests)


@pytest.mark.parametrize(
    ("of_client", "of_call", "sent"),
    [(None, None, None), ("exclude", None, "exclude"), (None, "include", "include"), ("exclude", "include", "include")],
)
async def test_how_missing_fields_count_is_said_in_every_filtered_call(
    of_client: str | None, of_call: str | None, sent: str | None
) -> None:
    found = answer(200, '{"ids":[],"embeddings":null,"documents":[],"uris":null,"metadatas":[],"include":[]}')
    with RawServer(found, answer(200, '{"deleted": 2}')) as server:
        transport = AsyncHttpTransport(
            parse_address("127.0.0.1", server.port),
            headers={},
            timeout=httpx.Timeout(5.0),
            retry=RetryPolicy(),
            limits=httpx.Limits(),
        )
        model = Model(CollectionId(UUID), "docs", "default_tenant", "default_database")
        collection = AsyncCollection(transport, AsyncCaller(), model, missing=of_client)
        await collection.get(where={"a": {"$ne": 1}}, missing=of_call)
        assert await collection.delete(where={"a": {"$ne": 1}}, missing=of_call) == {"deleted": 2}
        await transport.aclose()
    assert [request.json.get("missing") for request in server.requests] == [sent, sent]
    assert [request.json["missing_default"] for request in server.requests] == ["exclude", "exclude"]


async def test_a_read_that_the_server_has_waited_for_is_not_sent_again() -> None:
    with RawServer(fault(504, "NotYetVisibleError", "not in time")) as server:
        assert isinstance(await refused(server, Heartbeat()), errors.NotYetVisibleError)
    assert len(server.requests) == 1
    with RawServer(fault(504, "Gateway Timeout", "a proxy's")) as server:
        await refused(server, Heartbeat())
    assert len(server.requests) == 3
