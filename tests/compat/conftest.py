"""The servers of the compatibility tests: every test runs against ours and against Chroma's own, started here.

So each run also shows whether the expectations of this suite are true of the original. Tests that are marked as deliberate
differences run against ours alone. `CHROMA_ASYNC_COMPAT_URL` names one running server to test instead, which loses its data:

    CHROMA_ASYNC_COMPAT_URL=http://127.0.0.1:8000 pytest tests/compat

It has to allow reset; a Chroma server does with `allow_reset: true` in the YAML file given to `chroma run`.
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
from tests.compat.servers import chroma_server, our_server
from tests.compat.wire import Wire, WireCollection

URL_VARIABLE = "CHROMA_ASYNC_COMPAT_URL"
OURS, CHROMA, NAMED = "ours", "chroma", "named"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "reference_differs: a deliberate difference, not asserted of the real Chroma server")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server_url" in metafunc.fixturenames:
        metafunc.parametrize("server_url", _servers(metafunc.definition), indirect=True, scope="session")


def _servers(test: pytest.Function) -> list[str]:
    if os.environ.get(URL_VARIABLE):
        return [NAMED]
    return [OURS] if test.get_closest_marker("reference_differs") else [OURS, CHROMA]


@pytest.fixture(scope="session")
def our_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of our server."""
    with our_server(tmp_path_factory.mktemp("ours")) as url:
        yield url


@pytest.fixture(scope="session")
def chroma_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of Chroma's server."""
    with chroma_server(tmp_path_factory.mktemp("chroma")) as url:
        yield url


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest) -> str:
    """Base URL of the server under test."""
    if request.param == NAMED:
        return os.environ[URL_VARIABLE].rstrip("/")
    url: str = request.getfixturevalue("our_url" if request.param == OURS else "chroma_url")
    return url


@pytest.fixture(scope="session")
def is_reference(server_url: str) -> bool:
    """True when the server under test is the real Chroma server, which its OpenAPI document admits."""
    answer = httpx.get(server_url + "/openapi.json")
    return answer.status_code == 200 and answer.json()["info"]["title"] == "chroma-frontend"


@pytest.fixture(autouse=True)
def _keep_deliberate_differences_from_a_named_reference(request: pytest.FixtureRequest) -> None:
    if not os.environ.get(URL_VARIABLE) or not request.node.get_closest_marker("reference_differs"):
        return
    if "server_url" in request.fixturenames and request.getfixturevalue("is_reference"):
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
def settings(server_url: str) -> chromadb.Settings:
    """Settings of Chroma's clients of one server: a client writes its address into them."""
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
