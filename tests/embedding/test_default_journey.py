"""Texts in, texts asked for: the default embedding function in clients of every kind, and beside Chroma's own client."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import anyio
import chromadb
import httpx
import numpy as np
import pytest
from chromadb.api import ClientAPI as ChromaClient
from chromadb.api.fastapi import FastAPI
from chromadb.config import System
from chromadb.utils.embedding_functions import ONNXMiniLM_L6_V2

from chroma_async import AsyncClientAPI, AsyncEphemeralClient, AsyncHttpClient, ClientAPI, EphemeralClient, HttpClient, wrap
from chroma_async.client.embeddings import DefaultEmbeddingFunction

pytestmark = pytest.mark.usefixtures("installed_model")

DESCRIBED = {"type": "known", "name": "default", "config": {}}
FILMS = {
    "dog": "A dog walks across the country to find its family.",
    "heist": "Thieves plan to rob the vault of a casino in one night.",
    "space": "An astronaut is left behind on a distant planet.",
}
QUESTIONS = ["someone stranded far from Earth", "a loyal pet on a long journey"]
ANSWERS = [["space"], ["dog"]]


@pytest.fixture(params=["embedded", "http"])
def async_client(request: pytest.FixtureRequest) -> AsyncClientAPI:
    if request.param == "http":
        return AsyncHttpClient(request.getfixturevalue("server_url"))
    return AsyncEphemeralClient()


@pytest.fixture(params=["embedded", "http"])
def client(request: pytest.FixtureRequest) -> Iterator[ClientAPI]:
    if request.param == "http":
        opened: ClientAPI = HttpClient(request.getfixturevalue("server_url"))
    else:
        opened = EphemeralClient()
    with opened:
        yield opened


@pytest.mark.anyio
async def test_async_client_finds_documents_by_questions_without_being_given_vectors(async_client: AsyncClientAPI) -> None:
    async with async_client as client:
        films = await client.create_collection(f"films-{uuid4()}")
        assert films.configuration_json["embedding_function"] == DESCRIBED
        await films.add(ids=list(FILMS), documents=list(FILMS.values()))
        assert (await films.query(query_texts=QUESTIONS, n_results=1))["ids"] == ANSWERS
        again = await client.get_collection(films.name)
        await again.upsert(ids="dog", documents="A recipe for onion soup.")
        assert (await again.query(query_texts="cooking", n_results=1))["ids"] == [["dog"]]


def test_sync_client_finds_documents_by_questions_without_being_given_vectors(client: ClientAPI) -> None:
    films = client.create_collection(f"films-{uuid4()}")
    assert isinstance(films.configuration["embedding_function"], DefaultEmbeddingFunction)
    films.add(ids=list(FILMS), documents=list(FILMS.values()))
    assert films.query(query_texts=QUESTIONS, n_results=1)["ids"] == ANSWERS
    again = client.get_or_create_collection(films.name)
    assert again.query(query_texts=QUESTIONS, n_results=1)["ids"] == ANSWERS


JOURNEY = f"""
import chroma_async

with chroma_async.EphemeralClient() as client:
    films = client.create_collection("films")
    films.add(ids={list(FILMS)!r}, documents={list(FILMS.values())!r})
    assert films.query(query_texts={QUESTIONS!r}, n_results=1)["ids"] == {ANSWERS!r}
"""


def test_the_engine_may_be_loaded_before_the_model_as_in_any_program(installed_model: Path) -> None:
    """In a process of its own: this one has loaded the model's libraries already.

    usearch brings the C++ runtime with it. When it was the first to set that up, the model's library crashed the process.
    """
    done = subprocess.run([sys.executable, "-c", JOURNEY], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_collection_made_without_a_function_stores_none_and_is_given_the_default_when_asked_for(client: ClientAPI) -> None:
    made = client.create_collection(f"films-{uuid4()}", embedding_function=None)
    assert made.configuration_json["embedding_function"] is None
    with pytest.raises(ValueError, match="no embedding function"):
        made.add(ids="dog", documents=FILMS["dog"])
    films = client.get_collection(made.name)
    films.add(ids=list(FILMS), documents=list(FILMS.values()))
    assert films.query(query_texts=QUESTIONS, n_results=1)["ids"] == ANSWERS


def test_the_default_gives_way_to_the_function_that_a_collection_was_made_with(client: ClientAPI) -> None:
    constant = wrap(lambda texts: [[1.0, 2.0] for _ in texts], name=f"constant-{uuid4()}")
    made = client.create_collection(f"films-{uuid4()}", embedding_function=constant)
    found = client.get_collection(made.name, embedding_function=DefaultEmbeddingFunction())
    found.add(ids="dog", documents=FILMS["dog"])
    stored = found.get(include=["embeddings"])["embeddings"]
    assert stored is not None
    assert stored.tolist() == [[1.0, 2.0]]


@pytest.mark.anyio
async def test_the_event_loop_goes_on_while_the_model_loads_and_embeds(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").symlink_to(model_dir)  # a name that nothing was loaded from yet
    monkeypatch.setenv("CHROMA_ASYNC_MODEL_DIR", str(tmp_path / "model"))
    documents = [f"{text} {'again ' * 100} {number}" for number in range(16) for text in FILMS.values()]
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(time.perf_counter())
            await anyio.sleep(0.005)

    async with AsyncEphemeralClient() as client:
        films = await client.create_collection("films")
        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            begin = time.perf_counter()
            await films.add(ids=[str(number) for number in range(len(documents))], documents=documents)
            seconds = time.perf_counter() - begin
            group.cancel_scope.cancel()
    longest = float(np.diff(ticks).max())
    assert seconds > 0.3, "too little work to tell"
    assert len(ticks) > 20
    assert longest < seconds / 3


@pytest.fixture
def chroma_client(server_url: str, model_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChromaClient]:
    """Chroma's own client, with its own default function, on our server. What it leaves open is closed."""
    monkeypatch.setattr(ONNXMiniLM_L6_V2, "DOWNLOAD_PATH", model_root)
    sessions: list[httpx.Client] = []
    construct = FastAPI.__init__

    def construct_and_remember(self: FastAPI, system: System) -> None:
        construct(self, system)
        sessions.append(self._session)

    monkeypatch.setattr(FastAPI, "__init__", construct_and_remember)
    port = int(server_url.rpartition(":")[2])
    client = chromadb.HttpClient("127.0.0.1", port, settings=chromadb.Settings(anonymized_telemetry=False))
    yield client
    client.close()
    for session in sessions:
        session.close()


def test_a_collection_of_chromas_client_is_opened_by_ours(chroma_client: ChromaClient, server_url: str) -> None:
    theirs = chroma_client.create_collection(f"films-{uuid4()}")
    theirs.add(ids=["dog", "heist"], documents=[FILMS["dog"], FILMS["heist"]])
    with HttpClient(server_url) as client:
        ours = client.get_collection(theirs.name)
        assert ours.configuration_json["embedding_function"] == DESCRIBED
        ours.add(ids="space", documents=FILMS["space"])
        assert ours.query(query_texts=QUESTIONS, n_results=1)["ids"] == ANSWERS
        exact = ours.query(query_texts=FILMS["dog"], n_results=1, include=["distances"])["distances"]
        assert exact is not None
        assert exact[0][0] == pytest.approx(0.0, abs=1e-6)


def test_a_collection_of_ours_is_opened_by_chromas_client(chroma_client: ChromaClient, server_url: str) -> None:
    with HttpClient(server_url) as client:
        ours = client.create_collection(f"films-{uuid4()}")
        ours.add(ids=["dog", "heist"], documents=[FILMS["dog"], FILMS["heist"]])
    theirs = chroma_client.get_collection(ours.name)
    theirs.add(ids=["space"], documents=[FILMS["space"]])
    assert theirs.query(query_texts=QUESTIONS, n_results=1)["ids"] == ANSWERS
    exact = theirs.query(query_texts=[FILMS["dog"]], n_results=1, include=["distances"])["distances"]
    assert exact is not None
    assert exact[0][0] == pytest.approx(0.0, abs=1e-6)
