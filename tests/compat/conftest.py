"""A server for the compatibility tests: ours by default, or the one that CHROMA_ASYNC_COMPAT_URL names.

    CHROMA_ASYNC_COMPAT_URL=http://127.0.0.1:8000 pytest tests/compat

Pointing the variable at a real Chroma server shows whether the expectations of this suite are true of the original.
Such a server has to allow reset, and loses its data: `allow_reset: true` in the YAML file given to `chroma run`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import chromadb
import httpx
import pytest
from chromadb.api import ClientAPI
from chromadb.api.fastapi import FastAPI
from chromadb.config import System
from tests.compat.servers import our_server
from tests.compat.wire import Wire, WireCollection

URL_VARIABLE = "CHROMA_ASYNC_COMPAT_URL"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "reference_differs: a deliberate difference, not asserted of the real Chroma server")


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of the server under test."""
    named = os.environ.get(URL_VARIABLE)
    if named:
        yield named.rstrip("/")
        return
    with our_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="session")
def is_reference(server_url: str) -> bool:
    """True when the server under test is the real Chroma server, which its OpenAPI document admits."""
    answer = httpx.get(server_url + "/openapi.json")
    return answer.status_code == 200 and answer.json()["info"]["title"] == "chroma-frontend"


@pytest.fixture(autouse=True)
def _keep_deliberate_differences_from_the_reference(request: pytest.FixtureRequest, is_reference: bool) -> None:
    if is_reference and request.node.get_closest_marker("reference_differs"):
        pytest.skip("differs deliberately from the reference")


@pytest.fixture(scope="session", autouse=True)
def _close_what_the_chroma_client_leaves_open() -> Iterator[None]:
    """Chroma's synchronous client never closes its connections, and a warning about that would fail a test."""
    sessions: list[httpx.Client] = []
    construct = FastAPI.__init__

    def construct_and_remember(self: FastAPI, system: System) -> None:
        construct(self, system)
        sessions.append(self._session)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FastAPI, "__init__", construct_and_remember)
        yield
    for session in sessions:
        session.close()


@pytest.fixture(scope="session")
def wire(server_url: str) -> Iterator[Wire]:
    with contextlib.closing(Wire(server_url)) as wire:
        yield wire


@pytest.fixture
def collection(wire: Wire) -> WireCollection:
    """A fresh collection, reached by raw HTTP."""
    return wire.create()


@pytest.fixture(scope="session")
def settings() -> chromadb.Settings:
    return chromadb.Settings(anonymized_telemetry=False)


@pytest.fixture(scope="session")
def address(server_url: str) -> tuple[str, int]:
    """Host and port, as Chroma's constructors want them."""
    url = httpx.URL(server_url)
    assert url.port is not None
    return url.host, url.port


@pytest.fixture(scope="session")
def client(address: tuple[str, int], settings: chromadb.Settings) -> Iterator[ClientAPI]:
    """The real synchronous Chroma client."""
    client = chromadb.HttpClient(host=address[0], port=address[1], settings=settings)
    yield client
    client.close()


@pytest.fixture
def docs(client: ClientAPI, collection: WireCollection) -> chromadb.Collection:
    """The fresh collection of this test, as the real client sees it."""
    return client.get_collection(collection.name, embedding_function=None)
