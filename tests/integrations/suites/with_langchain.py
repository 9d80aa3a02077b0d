"""`langchain-chroma` against the server at CHROMA_ASYNC_TEST_URL: LangChain's standard suite, and typical use."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any
from urllib.parse import urlsplit

import pytest
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_tests.integration_tests import VectorStoreIntegrationTests

import chroma_async

SERVER = urlsplit(os.environ["CHROMA_ASYNC_TEST_URL"])

FILMS = [
    Document("a crew in space meets a stranger", metadata={"title": "Alien", "year": 1979}, id="alien"),
    Document("a computer in space loses its mind", metadata={"title": "2001", "year": 1968}, id="2001"),
    Document("love in Paris, and garden gnomes", metadata={"title": "Amelie", "year": 2001}, id="amelie"),
]


class WordEmbeddings(Embeddings):
    """Counts a few words, so that the nearest text is known beforehand."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [float(text.count(word)) for word in ("space", "love", "computer")] + [1.0]


def connect(embeddings: Embeddings, **options: Any) -> Chroma:
    name = options.pop("collection_name", f"langchain-{uuid.uuid4()}")
    if "client" not in options:
        options |= {"host": SERVER.hostname, "port": SERVER.port}
    return Chroma(name, embeddings, **options)


class TestStandardSuite(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> Iterator[Chroma]:
        store = connect(self.get_embeddings())
        yield store
        store.delete_collection()


@pytest.fixture(params=["own client", "client of chroma_async"])
def films(request: pytest.FixtureRequest) -> Iterator[Chroma]:
    """A store that connects by itself, and one that is given a client of ours."""
    ours = request.param == "client of chroma_async"
    with chroma_async.HttpClient(SERVER.hostname, SERVER.port) if ours else nullcontext() as client:
        options = {} if client is None else {"client": client}
        store = connect(WordEmbeddings(), collection_configuration={"hnsw": {"space": "cosine"}}, **options)
        assert store.add_documents(FILMS) == ["alien", "2001", "amelie"]
        yield store
        store.delete_collection()


def titles(documents: list[Document]) -> list[str]:
    return [document.metadata["title"] for document in documents]


def test_similarity_search_finds_the_nearest_first(films: Chroma) -> None:
    assert titles(films.similarity_search("a computer in space", k=2)) == ["2001", "Alien"]
    (nearest, distance), *_ = films.similarity_search_with_score("love", k=3)
    assert nearest.id == "amelie"
    assert distance == pytest.approx(0.0, abs=1e-6)


def test_relevance_scores_follow_the_space_of_the_collection(films: Chroma) -> None:
    (nearest, relevance), *others = films.similarity_search_with_relevance_scores("love", k=3)
    assert nearest.id == "amelie"
    assert relevance == pytest.approx(1.0, abs=1e-6)
    assert all(score < relevance for _, score in others)


def test_search_filters_by_metadata_and_by_document(films: Chroma) -> None:
    assert titles(films.similarity_search("space", k=3, filter={"year": {"$lt": 1970}})) == ["2001"]
    both = {"$and": [{"year": {"$gte": 1970}}, {"title": {"$ne": "Amelie"}}]}
    assert titles(films.similarity_search("space", k=3, filter=both)) == ["Alien"]
    assert titles(films.similarity_search("space", k=3, where_document={"$contains": "gnomes"})) == ["Amelie"]


def test_marginal_relevance_prefers_variety(films: Chroma) -> None:
    assert titles(films.max_marginal_relevance_search("space", k=2, fetch_k=3, lambda_mult=0.0)) == ["Alien", "Amelie"]


def test_search_returns_the_vectors_on_request(films: Chroma) -> None:
    ((document, vector),) = films.similarity_search_with_vectors("love", k=1)
    assert document.id == "amelie"
    assert vector.tolist() == pytest.approx([0.0, 1.0, 0.0, 1.0], abs=1e-6)


def test_retriever_takes_filters(films: Chroma) -> None:
    retriever = films.as_retriever(search_kwargs={"k": 1, "filter": {"year": 2001}})
    assert titles(retriever.invoke("space")) == ["Amelie"]


def test_update_changes_document_metadata_and_vector(films: Chroma) -> None:
    films.update_document("amelie", Document("a computer and a computer", metadata={"title": "Remake", "year": 2030}))
    assert titles(films.similarity_search("computer computer", k=1)) == ["Remake"]
    assert films.get("amelie")["documents"] == ["a computer and a computer"]


def test_get_pages_and_filters(films: Chroma) -> None:
    assert films.get(limit=1, offset=1)["ids"] == ["2001"]
    assert films.get(where={"title": {"$in": ["Alien", "Amelie"]}}, include=["metadatas"])["ids"] == ["alien", "amelie"]
    assert [document.id for document in films.get_by_ids(["2001"])] == ["2001"]


def test_delete_takes_ids(films: Chroma) -> None:
    films.delete(["alien", "amelie"])
    assert films.get()["ids"] == ["2001"]


def test_reset_leaves_an_empty_collection_in_use(films: Chroma) -> None:
    films.reset_collection()
    assert films.get()["ids"] == []
    films.add_texts(["love"], ids=["new"])
    assert films.get()["ids"] == ["new"]


def test_second_store_opens_the_collection_of_the_first(films: Chroma) -> None:
    again = connect(WordEmbeddings(), collection_name=films._collection_name)
    assert titles(again.similarity_search("love", k=1)) == ["Amelie"]


def test_from_documents_and_from_texts_create_and_fill() -> None:
    at_server = {"host": SERVER.hostname, "port": SERVER.port}
    name = f"langchain-{uuid.uuid4()}"
    store = Chroma.from_documents(FILMS, WordEmbeddings(), collection_name=name, **at_server)
    Chroma.from_texts(["love love"], WordEmbeddings(), [{"title": "Notes"}], collection_name=name, **at_server)
    assert sorted(titles(store.similarity_search("love", k=9))) == ["2001", "Alien", "Amelie", "Notes"]
    store.delete_collection()


async def test_async_search_agrees_with_the_sync_one(films: Chroma) -> None:
    assert await films.asimilarity_search("love", k=3) == films.similarity_search("love", k=3)
