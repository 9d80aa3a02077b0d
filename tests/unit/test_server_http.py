"""The application in front of a real engine: one life of a collection over HTTP, and the errors on its way."""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import numpy as np
import pytest
from starlette.types import ASGIApp

from chroma_async.engine import open_engine
from chroma_async.server.app import create_app
from chroma_async.server.worker import serve_by
from chroma_async.settings import EngineSettings, HttpServer, ServerSettings

pytestmark = pytest.mark.anyio

COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"


@pytest.fixture(params=["asgi", "hypercorn", "uvicorn"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application itself, and through each HTTP server."""
    async with open_engine(None, EngineSettings(allow_reset=True), compact=True) as engine:
        app = create_app(engine.dispatch, ServerSettings())
        if request.param == "asgi":
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
                yield client
        else:
            async with through(request.param, app) as client:
                yield client


@asynccontextmanager
async def through(server: HttpServer, app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    stop = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.ensure_future(serve_by(server)(app, ServerSettings(), os.dup(listening.fileno()), stop))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
            yield client
        stop.set()
        await serving


async def create(client: httpx.AsyncClient, name: str = "docs") -> str:
    """Return the path of a new collection's records."""
    response = await client.post(COLLECTIONS, json={"name": name})
    assert response.status_code == 200, response.text
    return f"{COLLECTIONS}/{response.json()['id']}"


async def test_client_finds_what_it_asks_for_when_it_connects(client: httpx.AsyncClient) -> None:
    assert set((await client.get("/api/v2/auth/identity")).json()) == {"user_id", "tenant", "databases"}
    assert (await client.get("/api/v2/tenants/default_tenant")).json()["name"] == "default_tenant"
    database = await client.get("/api/v2/tenants/default_tenant/databases/default_database")
    assert uuid.UUID(database.json()["id"])
    assert isinstance((await client.get("/api/v2/version")).json(), str)
    assert (await client.get("/api/v2/healthcheck")).status_code == 200
    assert (await client.get("/api/v2/pre-flight-checks")).json()["supports_base64_encoding"] is True


async def test_records_live_from_add_to_delete(client: httpx.AsyncClient) -> None:
    docs = await create(client)
    records = {
        "ids": ["a", "b"],
        "embeddings": [[1.0, 0.0], [0.0, 1.0]],
        "documents": ["one", None],
        "metadatas": [{"n": 1}, None],
    }
    added = await client.post(docs + "/add", json=records)
    assert (added.status_code, added.json()) == (201, {})
    assert int(added.headers["chroma-async-lsn"]) > 0
    assert (await client.get(docs + "/count")).json() == 2

    found = (await client.post(docs + "/query", json={"query_embeddings": [[1.0, 0.1]], "n_results": 5})).json()
    assert found["ids"] == [["a", "b"]]
    assert found["documents"] == [["one", None]]
    assert found["distances"][0] == pytest.approx([0.01, 1.81])
    assert found["embeddings"] is None

    got = (await client.post(docs + "/get", json={"where": {"n": 1}, "include": ["embeddings", "metadatas"]})).json()
    assert got["ids"] == ["a"]
    assert got["embeddings"] == [[1.0, 0.0]]
    assert got["metadatas"] == [{"n": 1}]

    deleted = await client.post(docs + "/delete", json={"ids": ["a"]})
    assert deleted.json() == {"deleted": 1}
    assert (await client.get(docs + "/count")).json() == 1


async def test_base64_batch_above_the_threads_threshold_is_stored_whole(client: httpx.AsyncClient) -> None:
    docs = await create(client)
    vectors = np.random.default_rng(1).standard_normal((400, 64)).astype("<f4")
    ids = [f"id-{row}" for row in range(len(vectors))]
    embeddings = [base64.b64encode(row.tobytes()).decode() for row in vectors]
    assert (await client.post(docs + "/upsert", json={"ids": ids, "embeddings": embeddings})).status_code == 200
    got = (await client.post(docs + "/get", json={"include": ["embeddings"]})).json()
    assert got["ids"] == ids
    np.testing.assert_array_equal(np.asarray(got["embeddings"], dtype=np.float32), vectors)


async def test_an_encoded_body_is_refused_by_its_encoding(client: httpx.AsyncClient) -> None:
    body = gzip.compress(b'{"name": "zipped"}')
    encoded = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    answer = await client.post(COLLECTIONS, content=body, headers=encoded)
    assert answer.status_code == 415
    assert "`Content-Encoding`. content_encoding='gzip'" in answer.json()["message"]


async def test_name_with_an_encoded_slash_is_one_name(client: httpx.AsyncClient) -> None:
    response = await client.get(COLLECTIONS + "/a%2Fb")
    assert response.status_code == 404
    assert response.json() == {"error": "NotFoundError", "message": "Collection [a/b] does not exist"}


async def test_name_that_is_taken_is_409(client: httpx.AsyncClient) -> None:
    await create(client)
    response = await client.post(COLLECTIONS, json={"name": "docs"})
    assert response.status_code == 409
    assert response.json() == {"error": "ChromaError", "message": "Collection [docs] already exists"}


async def test_collection_is_renamed_by_id_and_deleted_by_name(client: httpx.AsyncClient) -> None:
    docs = await create(client)
    assert (await client.put(docs, json={"new_name": "papers"})).json() == {}
    assert (await client.get(COLLECTIONS + "/papers")).status_code == 200
    assert (await client.delete(COLLECTIONS + "/papers")).json() == {}
    assert (await client.get(docs + "/count")).status_code == 404
    assert (await client.get("/api/v2/tenants/default_tenant/databases/default_database/collections_count")).json() == 0


async def test_reset_needs_no_body(client: httpx.AsyncClient) -> None:
    await create(client)
    assert (await client.post("/api/v2/reset")).json() is True
    assert (await client.get(COLLECTIONS)).json() == []
