"""HTTP-level behaviour of the application, whatever the engine behind it answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from starlette.types import ASGIApp, Message

from chroma_async.errors import NotFoundError, RateLimitError, UnavailableError, UniqueConstraintError
from chroma_async.model import Collection, CollectionId, Tenant
from chroma_async.protocol import (
    CALLS,
    Call,
    CountCollections,
    CountRecords,
    DeleteCollection,
    GetCollection,
    GetRecords,
    GetTenant,
    Heartbeat,
    ListCollections,
)
from chroma_async.protocol.records import WriteRecords
from chroma_async.protocol.results import Columns, CountResult, GetResult, WriteResult
from chroma_async.protocol.v1 import FindCollection
from chroma_async.server.app import create_app
from chroma_async.server.endpoint import LARGE_BODY_BYTES, LARGE_RESULT_ROWS, Dispatch, is_large
from chroma_async.settings import ServerSettings

pytestmark = pytest.mark.anyio

DATABASE = "/api/v2/tenants/default_tenant/databases/default_database"
RECORDS = DATABASE + "/collections/6f1b4c60-5b1a-4b4e-9f5c-3b8d1f3d0001"


class Recorder:
    """An engine's side of the contract: keeps the calls that arrive, and answers them from a table or raises."""

    def __init__(self, *answers: Any) -> None:
        self.calls: list[Call[Any]] = []
        self._answers = list(answers)

    async def __call__(self, call: Call[Any]) -> Any:
        self.calls.append(call)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@asynccontextmanager
async def client_of(dispatch: Dispatch, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(dispatch, ServerSettings(**settings)), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


def example_url(call: type[Call[Any]]) -> str:
    return call.route.path.format_map({name: f"{name}-1" for name in call.route.path_fields})


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
async def test_every_call_of_the_catalogue_is_reached_by_its_route(call: type[Call[Any]]) -> None:
    seen = Recorder(NotFoundError("reached"))
    async with client_of(seen) as client:
        response = await client.request(
            call.route.method, example_url(call), params={"stream_id": "s"}, content=body_for(call)
        )
    assert response.json() == {"error": "NotFoundError", "message": "reached"}
    assert [type(item) for item in seen.calls] == [call]


def body_for(call: type[Call[Any]]) -> bytes:
    required = {"ids": ["a"], "embeddings": [[1.0]], "query_embeddings": [[1.0]], "name": "abc", "resource_name": "abc"}
    return orjson.dumps(required) if call.route.has_body else b""


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", RECORDS + "/search", {"searches": []}, 501, "Search operation is not implemented"),
        ("POST", RECORDS + "/search", {}, 422, "searches"),
        ("POST", RECORDS + "/fork", {"new_name": "abc"}, 501, "Collection forking is unsupported"),
        ("GET", RECORDS + "/fork_count", None, 501, "Count forks is unsupported"),
        ("GET", RECORDS + "/functions/f", None, 404, "Attached function not found"),
        ("GET", "/api/v2/collections/a:b:c", None, 404, "Collection [a:b:c] does not exist"),
        ("GET", "/api/v2/collections/a::c", None, 400, "CRN must be in the format"),
    ],
)
async def test_what_one_node_does_not_do_is_refused_in_plain_words(
    method: str, path: str, body: object, status: int, message: str
) -> None:
    async with client_of(Recorder()) as client:
        response = await client.request(method, path, json=body)
    assert response.status_code == status
    assert message in response.json()["message"]


async def test_bare_api_path_is_a_heartbeat_too() -> None:
    seen = Recorder(17, 18)
    async with client_of(seen) as client:
        assert (await client.get("/api/v2")).json() == {"nanosecond heartbeat": 17}
        assert (await client.get("/api/v2/heartbeat")).json() == {"nanosecond heartbeat": 18}
    assert seen.calls == [Heartbeat(), Heartbeat()]


async def test_head_answers_as_get_does() -> None:
    async with client_of(Recorder(17)) as client:
        response = await client.head("/api/v2/heartbeat")
    assert response.status_code == 200
    assert response.headers["content-length"] == str(len(b'{"nanosecond heartbeat":17}'))


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nothing",
        "/api/v2/",
        "/api/v2/heartbeat/",
        "/API/v2/heartbeat",
        "/api/v2/tenants//databases",
        "/api/v2/count_collections",
    ],
)
async def test_unknown_path_is_404_without_a_body(path: str) -> None:
    async with client_of(Recorder()) as client:
        for method in ("GET", "POST"):
            response = await client.request(method, path)
            assert (response.status_code, response.content) == (404, b"")
            assert "content-type" not in response.headers


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/api/v2/heartbeat", "GET,HEAD"),
        ("GET", "/api/v2/reset", "POST"),
        ("DELETE", "/api/v2/tenants/x", "GET,HEAD,PATCH"),
        ("POST", DATABASE + "/collections/x", "DELETE,GET,HEAD,PUT"),
        ("OPTIONS", "/api/v2", "GET,HEAD"),
    ],
)
async def test_wrong_method_is_405_without_a_body_and_names_the_right_ones(method: str, path: str, allowed: str) -> None:
    async with client_of(Recorder()) as client:
        response = await client.request(method, path)
    assert (response.status_code, response.content) == (405, b"")
    assert response.headers["allow"] == allowed


@pytest.mark.parametrize("slash", ["", "/"])
async def test_first_api_is_served_with_and_without_a_trailing_slash(slash: str) -> None:
    seen = Recorder(17, ["a"], 3)
    async with client_of(seen) as client:
        assert (await client.get("/api/v1/heartbeat" + slash)).json() == {"nanosecond heartbeat": 17}
        assert (await client.delete("/api/v1/collections/x" + slash)).json() is None
        assert (await client.get("/api/v1/count_collections" + slash, params={"tenant": "abc"})).json() == 3
    assert seen.calls[1:] == [
        DeleteCollection(tenant="default_tenant", database="default_database", name="x"),
        CountCollections(tenant="abc", database="default_database"),
    ]


async def test_records_of_the_first_api_are_sought_where_their_collection_lives() -> None:
    identifier = "6f1b4c60-5b1a-4b4e-9f5c-3b8d1f3d0001"
    home = Collection(id=CollectionId(identifier), name="x", tenant="abc", database="def")
    seen = Recorder(home, CountResult(5))
    async with client_of(seen) as client:
        assert (await client.get(f"/api/v1/collections/{identifier}/count")).json() == 5
    assert seen.calls == [
        FindCollection(collection_id=identifier),
        CountRecords(tenant="abc", database="def", collection_id=identifier),
    ]


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        ("coll%2Da", "coll-a"),
        ("a%2Fb", "a/b"),
        ("%E2%98%83", "\u2603"),
        ("a%25b", "a%b"),
        ("a+b", "a+b"),
        ("a%2525", "a%25"),
    ],
)
async def test_path_segments_are_decoded_one_by_one_and_once(segment: str, name: str) -> None:
    seen = Recorder(NotFoundError("no"))
    async with client_of(seen) as client:
        await client.get(f"{DATABASE}/collections/{segment}")
    assert seen.calls == [GetCollection(tenant="default_tenant", database="default_database", name=name)]


async def test_path_that_is_no_utf8_is_refused() -> None:
    async with client_of(Recorder()) as client:
        response = await client.get("/api/v2/tenants/%ff")
    assert response.status_code == 400
    assert response.json()["error"] == "InvalidArgumentError"


async def test_query_values_arrive_typed_and_the_last_one_counts() -> None:
    seen = Recorder([])
    async with client_of(seen) as client:
        response = await client.get(DATABASE + "/collections?limit=3&offset=4&limit=5&unknown=1")
    assert response.json() == []
    assert seen.calls == [ListCollections(tenant="default_tenant", database="default_database", limit=5, offset=4)]


async def test_bad_query_value_is_refused() -> None:
    async with client_of(Recorder()) as client:
        response = await client.get(DATABASE + "/collections?limit=many")
    assert response.status_code == 400
    assert response.json()["error"] == "InvalidArgumentError"
    assert "Failed to deserialize query string: limit" in response.json()["message"]


@pytest.mark.parametrize(
    "kind", [None, "application/json", "application/json; charset=utf-8", "Application/JSON", "application/x+json"]
)
async def test_json_bodies_are_taken_with_or_without_their_content_type(kind: str | None) -> None:
    async with client_of(Recorder(None)) as client:
        headers = {} if kind is None else {"content-type": kind}
        response = await client.post("/api/v2/tenants", content=b'{"name": "abc"}', headers=headers)
    assert (response.status_code, response.content) == (200, b"{}")
    assert response.headers["content-type"] == "application/json"


async def test_other_content_type_is_refused() -> None:
    async with client_of(Recorder()) as client:
        response = await client.post("/api/v2/tenants", content=b'{"name": "abc"}', headers={"content-type": "text/plain"})
    assert response.status_code == 415
    assert response.json() == {
        "error": "ChromaError",
        "message": "Expected request with `Content-Type: application/json`",
    }


@pytest.mark.parametrize("body", [b"", b"{", b'{"name": NaN}', b"{} x", b'{"name": "\xff"}'])
async def test_body_that_is_no_json_is_400(body: bytes) -> None:
    async with client_of(Recorder()) as client:
        response = await client.post("/api/v2/tenants", content=body)
    assert response.status_code == 400
    assert response.json()["error"] == "InvalidArgumentError"
    assert response.json()["message"].startswith("Failed to parse the request body as JSON: ")


@pytest.mark.parametrize("body", [b"{}", b'{"name": 1}', b"[]"])
async def test_body_of_the_wrong_shape_is_422(body: bytes) -> None:
    async with client_of(Recorder()) as client:
        response = await client.post("/api/v2/tenants", content=body)
    assert response.status_code == 422
    assert response.json()["error"] == "ChromaError"


async def test_body_above_the_limit_is_413_and_is_read_to_its_end() -> None:
    read = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(10):
            read += 1000
            yield b"x" * 1000

    async with client_of(Recorder(), body_bytes_max=3000) as client:
        response = await client.post("/api/v2/tenants", content=pieces())
    assert response.status_code == 413
    assert response.json() == {
        "error": "ChromaError",
        "message": "Failed to buffer the request body: length limit exceeded. bytes_max=3000",
    }
    assert read == 10_000


async def test_body_of_exactly_the_limit_is_taken() -> None:
    body = b'{"name": "abc"}'
    async with client_of(Recorder(None), body_bytes_max=len(body)) as client:
        assert (await client.post("/api/v2/tenants", content=body)).status_code == 200


async def test_large_body_is_decoded_like_a_small_one() -> None:
    seen = Recorder(WriteResult(lsn=None))
    vectors = np.arange(40_000, dtype=np.float32).reshape(100, 400)
    body = orjson.dumps({"ids": [str(row) for row in range(100)], "embeddings": vectors}, option=orjson.OPT_SERIALIZE_NUMPY)
    assert len(body) > LARGE_BODY_BYTES
    async with client_of(seen) as client:
        response = await client.post(RECORDS + "/add", content=body)
    assert (response.status_code, response.content) == (201, b"{}")
    (call,) = seen.calls
    assert isinstance(call, WriteRecords)
    assert call.embeddings is not None
    np.testing.assert_array_equal(call.embeddings.vectors, vectors)


async def test_errors_of_a_large_body_keep_their_status() -> None:
    async with client_of(Recorder()) as client:
        response = await client.post(RECORDS + "/add", content=b'{"ids": ["' + b"x" * LARGE_BODY_BYTES)
    assert response.status_code == 400


async def test_large_result_is_encoded_like_a_small_one() -> None:
    ids = [str(number) for number in range(LARGE_RESULT_ROWS + 1)]
    result = GetResult(Columns(ids=ids), include=())
    assert is_large(result)
    async with client_of(Recorder(result)) as client:
        response = await client.post(RECORDS + "/get", content=b'{"include": []}')
    assert response.json()["ids"] == ids


async def test_small_and_scalar_results_are_not_large() -> None:
    assert not is_large(GetResult(Columns(ids=["a"], embeddings=np.zeros((1, 384), np.float32)), include=()))
    assert is_large(GetResult(Columns(ids=["a"] * 50, embeddings=np.zeros((50, 384), np.float32)), include=()))
    assert not is_large(7)
    assert not is_large(None)


async def test_lsn_of_a_write_travels_in_a_header() -> None:
    async with client_of(Recorder(WriteResult(lsn=12))) as client:  # type: ignore[arg-type]
        response = await client.post(RECORDS + "/add", content=b'{"ids": ["a"], "embeddings": [[1.0]]}')
    assert response.headers["chroma-async-lsn"] == "12"


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [(NotFoundError("x"), 404, "NotFoundError"), (UniqueConstraintError("x"), 409, "ChromaError")],
)
async def test_errors_carry_their_wire_name_and_status_and_a_trace(error: Exception, status: int, name: str) -> None:
    async with client_of(Recorder(error)) as client:
        response = await client.get("/api/v2/tenants/x")
    assert response.status_code == status
    assert response.json() == {"error": name, "message": "x"}
    assert len(response.headers["chroma-trace-id"]) == 32
    assert "retry-after" not in response.headers


@pytest.mark.parametrize("error", [RateLimitError("later"), UnavailableError("later")])
async def test_retryable_errors_say_when_to_come_again(error: Exception) -> None:
    async with client_of(Recorder(error)) as client:
        response = await client.get("/api/v2/tenants/x")
    assert response.headers["retry-after"] == "1"


async def test_unexpected_error_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        async with client_of(Recorder(TimeoutError("secret"))) as client:
            response = await client.get("/api/v2/tenants/x")
    assert response.status_code == 500
    assert response.json()["error"] == "InternalError"
    assert "secret" not in response.text
    (record,) = caplog.records
    assert response.headers["chroma-trace-id"] in record.getMessage()
    assert record.exc_info is not None


async def test_success_has_no_trace() -> None:
    async with client_of(Recorder(Tenant("x"))) as client:
        response = await client.get("/api/v2/tenants/x")
    assert response.json() == {"name": "x", "resource_name": None}
    assert "chroma-trace-id" not in response.headers


async def test_browsers_may_call_only_from_allowed_origins() -> None:
    preflight = {"origin": "http://page.example", "access-control-request-method": "POST"}
    async with client_of(Recorder(1), cors_origins=("http://page.example",)) as client:
        allowed = await client.options("/api/v2/reset", headers=preflight)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "http://page.example"
        other = await client.get("/api/v2/heartbeat", headers={"origin": "http://other.example"})
        assert "access-control-allow-origin" not in other.headers
    async with client_of(Recorder()) as client:
        assert "access-control-allow-origin" not in (await client.options("/api/v2/reset", headers=preflight)).headers


class Connection:
    """A client's side of ASGI that decides itself what arrives and when."""

    def __init__(self, *messages: Message) -> None:
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: list[Message] = []
        for message in messages:
            self.inbox.put_nowait(message)

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def run(self, app: ASGIApp, method: str, path: str) -> None:
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
            "root_path": "",
        }
        await app(scope, self.inbox.get, self.send)


def piece(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_client_that_leaves_ends_the_waiting_for_its_answer() -> None:
    waiting = asyncio.Event()
    cancelled = asyncio.Event()

    async def dispatch(call: Call[Any]) -> Any:
        waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    connection = Connection(piece(b"", more=False))
    request = asyncio.create_task(connection.run(create_app(dispatch, ServerSettings()), "GET", "/api/v2/tenants/x"))
    await waiting.wait()
    connection.inbox.put_nowait({"type": "http.disconnect"})
    await asyncio.wait_for(request, 5)
    assert cancelled.is_set()
    assert connection.sent == []


async def test_client_that_stays_gets_a_late_answer() -> None:
    async def dispatch(call: Call[Any]) -> Any:
        await asyncio.sleep(0.4)
        return 17

    connection = Connection(piece(b"", more=False))
    await connection.run(create_app(dispatch, ServerSettings()), "GET", "/api/v2/heartbeat")
    assert [message["type"] for message in connection.sent] == ["http.response.start", "http.response.body"]


async def test_client_that_leaves_in_the_middle_of_a_body_reaches_nobody() -> None:
    seen = Recorder()
    connection = Connection(piece(b'{"name"', more=True), {"type": "http.disconnect"})
    await connection.run(create_app(seen, ServerSettings()), "POST", "/api/v2/tenants")
    assert (seen.calls, connection.sent) == ([], [])


@pytest.mark.parametrize("path", ["/api/v2/tenants", "/nothing"])
async def test_client_that_pauses_in_the_middle_of_a_body_gets_408(path: str) -> None:
    connection = Connection(piece(b'{"name"', more=True))
    await connection.run(create_app(Recorder(), ServerSettings(body_timeout_seconds=0.05)), "POST", path)
    assert connection.sent[0]["status"] == 408
    assert (b"connection", b"close") in connection.sent[0]["headers"]


async def test_slow_body_is_taken_as_long_as_it_moves() -> None:
    connection = Connection()
    app = create_app(Recorder(None), ServerSettings(body_timeout_seconds=0.2))
    request = asyncio.create_task(connection.run(app, "POST", "/api/v2/tenants"))
    for letter in (b'{"na', b'me":', b'"abc', b'"'):
        connection.inbox.put_nowait(piece(letter, more=True))
        await asyncio.sleep(0.1)
    connection.inbox.put_nowait(piece(b"}", more=False))
    await request
    assert connection.sent[0]["status"] == 200


async def test_asking_for_records_hands_over_the_defaults() -> None:
    seen = Recorder(GetResult(Columns(ids=[]), include=("documents", "metadatas")))
    async with client_of(seen) as client:
        response = await client.post(RECORDS + "/get", content=b"{}")
    assert response.json()["include"] == ["documents", "metadatas"]
    assert isinstance(seen.calls[0], GetRecords)


async def test_tenants_are_asked_for_by_name() -> None:
    seen = Recorder(Tenant("abc"))
    async with client_of(seen) as client:
        await client.get("/api/v2/tenants/abc")
    assert seen.calls == [GetTenant(tenant="abc")]
