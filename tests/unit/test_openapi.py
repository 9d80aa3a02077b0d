"""The OpenAPI document says what the server does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from tests.api.serving import serving

from chroma_async.protocol import CALLS, Ingest, WatchCollection, WatchDatabase
from chroma_async.protocol.ingest import ARROW, NDJSON
from chroma_async.protocol.openapi import openapi_document
from chroma_async.protocol.unsupported import UNSUPPORTED
from chroma_async.server.app import create_app
from chroma_async.server.auth.rules import RULES
from chroma_async.settings import ServerSettings

DOCUMENT = openapi_document("1.2.3")


def operation(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method.lower()]
    return found


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    checked = Draft202012Validator({**schema, "components": DOCUMENT["components"]})
    Draft202012Validator.check_schema(schema)
    return checked


def body_of(found: dict[str, Any]) -> Draft202012Validator:
    return validator(found["requestBody"]["content"]["application/json"]["schema"])


@pytest.mark.parametrize("call", [*CALLS, *UNSUPPORTED], ids=lambda call: call.__name__)
def test_every_call_is_described_whole(call: Any) -> None:
    found = operation(call.route.method, call.route.path)
    assert found["operationId"] == call.__name__
    assert found["summary"]
    described = {(item["name"], item["in"]) for item in found["parameters"]}
    in_body = set(
        found.get("requestBody", {})
        .get("content", {})
        .get("application/json", {})
        .get("schema", {"properties": {}})["properties"]
    )
    expected = {(name, "path") for name in call.route.path_fields} | {(name, "query") for name in call.route.query}
    resumes = call in (WatchCollection, WatchDatabase)
    expected |= {("idempotency-key", "header")} if call.takes_key else set()
    assert described == expected | ({("last-event-id", "header")} if resumes else set())
    if call is Ingest:
        in_body = {"content", "content_type"}
        assert set(found["requestBody"]["content"]) == {NDJSON, ARROW}
    named = [*in_body, *(name.replace("-", "_") for name, _ in described if name != "last-event-id")]
    assert sorted(named) == sorted(call.__struct_fields__)  # each once
    assert (str(call.route.status) in found["responses"]) == (call in CALLS)
    for answer in found["responses"].values():
        for content in answer["content"].values():
            validator(content["schema"])


def test_operations_have_names_of_their_own() -> None:
    names = [found["operationId"] for operations in DOCUMENT["paths"].values() for found in operations.values()]
    assert len(set(names)) == len(names) == len(CALLS) + len(UNSUPPORTED)


RECORDS = "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection_id}"


@pytest.mark.parametrize(
    ("path", "body", "is_valid"),
    [
        ("/add", {"ids": ["a"], "embeddings": [[1, 2.5]]}, True),
        ("/add", {"ids": ["a"], "embeddings": ["AACAPw=="], "metadatas": [None], "documents": ["x"]}, True),
        ("/add", {"ids": ["a"]}, False),
        ("/add", {"ids": [1], "embeddings": [[1]]}, False),
        ("/update", {"ids": ["a"], "embeddings": [None]}, True),
        ("/query", {"query_embeddings": [[1]], "where": {"a": 1}, "include": ["distances"]}, True),
        ("/query", {"query_embeddings": [["x"]]}, False),
        ("/get", {"include": ["nothing"]}, False),
        ("/get", {}, True),
    ],
    ids=str,
)
def test_bodies_are_told_apart(path: str, body: Any, is_valid: bool) -> None:
    assert body_of(operation("POST", RECORDS + path)).is_valid(body) is is_valid


def test_options_of_an_index_are_listed() -> None:
    create = body_of(operation("POST", RECORDS.removesuffix("/{collection_id}")))
    assert create.is_valid({"name": "abc", "configuration": {"hnsw": {"space": "cosine"}}})
    assert not create.is_valid({"name": "abc", "configuration": {"hnsw": {"space": "euclid"}}})
    assert not create.is_valid({"name": "abc", "configuration": {"hnsw": {"speed": 1}}})


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serving(tmp_path_factory.mktemp("server")) as url:
        yield url


def test_answers_of_a_server_are_as_described(server_url: str) -> None:
    place = {"tenant": "default_tenant", "database": "default_database", "name": "described", "collection_id": "?"}
    seen: set[str] = set()
    with httpx.Client(base_url=server_url, timeout=30) as client:

        def ask(method: str, path: str, body: Any = None, **query: str) -> Any:
            found = operation(method, path)
            answer = client.request(method, path.format_map(place), json=body, params=query)
            said = found["responses"][str(answer.status_code)]
            validator(said["content"][answer.headers["content-type"]]["schema"]).validate(answer.json())
            seen.add(found["operationId"])
            return answer.json()

        collections = RECORDS.removesuffix("/{collection_id}")
        for path in ("heartbeat", "version", "healthcheck", "pre-flight-checks", "auth/identity"):
            ask("GET", f"/api/v2/{path}")
        ask("POST", "/api/v2/reset")
        ask("POST", "/api/v2/tenants", {"name": "described"})
        ask("GET", "/api/v2/tenants/{tenant}")
        ask("PATCH", "/api/v2/tenants/{tenant}", {"resource_name": "x"})
        databases = "/api/v2/tenants/{tenant}/databases"
        ask("POST", databases, {"name": "described"})
        ask("GET", databases)
        ask("GET", databases + "/{database}")
        place["collection_id"] = ask("POST", collections, {"name": "described", "metadata": {"a": 1}})["id"]
        for path in ("", "/{name}", "/by-id/{collection_id}"):
            ask("GET", collections + path)
        ask("GET", databases + "/{database}/collections_count")
        ask("PUT", RECORDS, {"new_metadata": {"b": [1, 2]}})
        ask("POST", RECORDS + "/reindex", {"max_neighbors": 8})
        body = {"ids": ["a", "b"], "embeddings": [[1, 0], [0, 1]], "documents": ["x", None], "metadatas": [{"n": 1}, None]}
        for verb in ("add", "upsert", "update"):
            ask("POST", f"{RECORDS}/{verb}", body)
        ask("POST", RECORDS + "/ingest", {"id": "c", "embedding": [1, 1]}, stream_id="s")
        ask("GET", RECORDS + "/ingest", stream_id="s")
        everything = ["documents", "embeddings", "metadatas", "uris"]
        ask("POST", RECORDS + "/get", {"include": everything})
        ask("POST", RECORDS + "/query", {"query_embeddings": [[1, 1], [1e39, 0]], "include": [*everything, "distances"]})
        ask("POST", RECORDS + "/query", {"query_embeddings": [[1]]})
        ask("GET", RECORDS + "/count")
        ask("GET", RECORDS + "/indexing_status")
        ask("POST", RECORDS + "/purge", {"wait_seconds": 20})
        ask("POST", RECORDS + "/flush", {"wait": "indexed", "wait_seconds": 5})
        ask("POST", databases + "/{database}/flush", {})
        ask("POST", RECORDS + "/delete", {"ids": ["a"]})
        ask("POST", RECORDS + "/search", {"searches": []})
        for path in (RECORDS, databases + "/{database}"):
            found = operation("GET", path + "/changes")
            answer = client.get(path.format_map(place) + "/changes", params={"after": "x"})
            validator(found["responses"]["400"]["content"]["application/json"]["schema"]).validate(answer.json())
            query = {"snapshot": "true", "include": "embeddings,metadatas"}
            with client.stream("GET", path.format_map(place) + "/changes", params=query) as feed:
                assert feed.headers["content-type"] in found["responses"]["200"]["content"]
                changes = (line[6:] for line in feed.iter_lines() if line.startswith("data: "))
                validator({"$ref": "#/components/schemas/Change"}).validate(json.loads(next(changes)))
            seen.add(found["operationId"])
        ask("DELETE", collections + "/{name}")
        place["database"] = "described"
        ask("DELETE", databases + "/{database}")
    assert {call.__name__ for call in CALLS} <= seen


def test_the_key_of_a_write_is_a_header_and_no_part_of_the_body() -> None:
    for verb in ("add", "upsert", "update", "delete"):
        described = operation("POST", f"{RECORDS}/{verb}")
        headers = [found["name"] for found in described["parameters"] if found["in"] == "header"]
        assert headers == ["idempotency-key"]
        body = described["requestBody"]["content"]["application/json"]["schema"]["properties"]
        assert "wait" in body
        assert "idempotency_key" not in body


@asynccontextmanager
async def browser() -> AsyncIterator[httpx.AsyncClient]:
    async def nobody(call: Any) -> Any:
        raise AssertionError("pages need no engine")

    transport = httpx.ASGITransport(create_app(nobody, ServerSettings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


@pytest.mark.anyio
async def test_document_and_page_are_served_as_chroma_serves_them() -> None:
    async with browser() as client:
        served = await client.get("/openapi.json")
        assert (served.status_code, served.headers["content-type"]) == (200, "application/json")
        assert served.json()["paths"] == DOCUMENT["paths"]
        redirect = await client.get("/docs")
        assert (redirect.status_code, redirect.headers["location"]) == (303, "/docs/")
        page = await client.get("/docs/")
        assert page.headers["content-type"].startswith("text/html")
        for call in CALLS:
            assert f"<td>{call.route.method}</td><td>{call.route.path}</td>" in page.text
        assert "src=" not in page.text
        assert (await client.head("/openapi.json")).status_code == 200
        assert (await client.post("/openapi.json")).status_code == 405


def test_credentials_are_described_and_asked_of_all_but_the_public_calls() -> None:
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert DOCUMENT["security"] == [{}, *({name: []} for name in schemes)]
    open_to_all = {
        found["operationId"] for path in DOCUMENT["paths"].values() for found in path.values() if found.get("security") == []
    }
    assert open_to_all == {call.__name__ for call, rule in RULES.items() if rule.place == "public"}
