"""Clients of every kind, on one server and in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from tests.api.serving import is_reference, serving

from chroma_async import (
    AsyncClientAPI,
    AsyncCollection,
    AsyncEphemeralClient,
    AsyncHttpClient,
    AsyncPersistentClient,
    Settings,
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "reference_differs: a deliberate difference, not asserted of the real Chroma server")


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(params=["http", "persistent", "ephemeral"])
def make_client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncClientAPI:
    """A client of each kind; embedded ones allow reset."""
    allowing = Settings(allow_reset=True)
    if request.param == "http":
        url = request.getfixturevalue("server_url")
        if request.node.get_closest_marker("reference_differs") and is_reference(url):
            pytest.skip("differs deliberately from the reference")
        return AsyncHttpClient(url)
    if request.param == "persistent":
        return AsyncPersistentClient(tmp_path / "data", settings=allowing)
    return AsyncEphemeralClient(settings=allowing)


@pytest.fixture
async def client(make_client: AsyncClientAPI) -> AsyncIterator[AsyncClientAPI]:
    async with make_client as client:
        yield client


@pytest.fixture
async def docs(client: AsyncClientAPI) -> AsyncCollection:
    """A fresh collection with three records on the axes of a plane, compared by cosine."""
    collection = await client.create_collection(
        f"docs-{uuid4()}", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
    )
    await collection.add(
        ids=["east", "north", "north-east"],
        embeddings=[[1, 0], [0, 1], [1, 1]],
        documents=["the sun rises", "cold wind", None],
        metadatas=[{"degrees": 90, "tags": ["warm", "dry"]}, {"degrees": 0}, None],
    )
    return collection
