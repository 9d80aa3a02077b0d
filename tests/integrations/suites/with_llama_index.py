"""`llama-index-vector-stores-chroma` against the server at CHROMA_ASYNC_TEST_URL."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.schema import Document, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.vector_stores.chroma import ChromaVectorStore
from llama_index.vector_stores.chroma.base import MAX_CHUNK_SIZE

import chroma_async

SERVER = urlsplit(os.environ["CHROMA_ASYNC_TEST_URL"])


class WordEmbedding(BaseEmbedding):
    """Counts a few words, so that the nearest text is known beforehand."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(text.count(word)) for word in ("space", "love", "computer")] + [1.0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def node(name: str, text: str, embedding: list[float], *, of: str, **metadata: str | int | float) -> TextNode:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=of)}
    return TextNode(id_=name, text=text, embedding=embedding, metadata=metadata, relationships=source)


NODES = [
    node("n1", "a crew in space", [1.0, 0.0, 0.0], of="d1", title="Alien", year=1979),
    node("n2", "meets a stranger", [0.9, 0.1, 0.0], of="d1", title="Alien", year=1979),
    node("n3", "love in Paris", [0.0, 1.0, 0.0], of="d2", title="Amelie", year=2001),
    node("n4", "and garden gnomes", [0.0, 0.0, 1.0], of="d2", title="Amelie", year=2001),
]


@pytest.fixture(params=["own client", "collection of chroma_async"])
def empty(request: pytest.FixtureRequest) -> Iterator[ChromaVectorStore]:
    """A store that connects by itself, and one that is given a collection of ours."""
    name = f"llama-{uuid.uuid4()}"
    with chroma_async.HttpClient(SERVER.hostname, SERVER.port) as client:
        if request.param == "own client":
            yield ChromaVectorStore.from_params(name, host=SERVER.hostname, port=SERVER.port)
        else:
            yield ChromaVectorStore(chroma_collection=client.create_collection(name))
        client.delete_collection(name)


@pytest.fixture
def store(empty: ChromaVectorStore) -> ChromaVectorStore:
    assert empty.add(NODES) == ["n1", "n2", "n3", "n4"]
    return empty


def where(*filters: tuple[str, object, FilterOperator], condition: str = "and") -> MetadataFilters:
    return MetadataFilters(
        filters=[MetadataFilter(key=key, value=value, operator=operator) for key, value, operator in filters],
        condition=FilterCondition(condition),
    )


def found(
    store: ChromaVectorStore, embedding: Sequence[float], k: int = 4, filters: MetadataFilters | None = None
) -> list[str]:
    query = VectorStoreQuery(query_embedding=list(embedding), similarity_top_k=k, filters=filters)
    return list(store.query(query).ids or [])


def test_query_returns_whole_nodes_nearest_first(store: ChromaVectorStore) -> None:
    result = store.query(VectorStoreQuery(query_embedding=[1.0, 0.0, 0.0], similarity_top_k=2))
    assert result.ids == ["n1", "n2"]
    assert result.similarities == pytest.approx([1.0, math.exp(-0.02)], abs=1e-6)
    assert [found.text for found in result.nodes] == ["a crew in space", "meets a stranger"]
    assert result.nodes[0].metadata == {"title": "Alien", "year": 1979}
    assert result.nodes[0].ref_doc_id == "d1"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (where(("title", "Amelie", FilterOperator.EQ)), ["n3", "n4"]),
        (where(("title", "Amelie", FilterOperator.NE)), ["n1", "n2"]),
        (where(("year", 1979, FilterOperator.GT)), ["n3", "n4"]),
        (where(("year", 1979, FilterOperator.GTE)), ["n1", "n2", "n3", "n4"]),
        (where(("year", 2001, FilterOperator.LT)), ["n1", "n2"]),
        (where(("year", 2001, FilterOperator.LTE)), ["n1", "n2", "n3", "n4"]),
        (where(("title", ["Alien"], FilterOperator.IN)), ["n1", "n2"]),
        (where(("title", ["Alien"], FilterOperator.NIN)), ["n3", "n4"]),
        (where(("year", 1970, FilterOperator.GT), ("title", "Alien", FilterOperator.EQ)), ["n1", "n2"]),
        (where(("year", 2000, FilterOperator.GT), ("title", "Alien", FilterOperator.EQ)), []),
        (
            where(("year", 2000, FilterOperator.GT), ("year", 1980, FilterOperator.LT), condition="or"),
            ["n1", "n2", "n3", "n4"],
        ),
    ],
)
def test_query_filters_by_metadata(store: ChromaVectorStore, filters: MetadataFilters, expected: list[str]) -> None:
    assert sorted(found(store, [1.0, 0.0, 0.0], filters=filters)) == expected


def test_query_filters_by_nested_conditions(store: ChromaVectorStore) -> None:
    inner = where(("year", 2001, FilterOperator.EQ), ("year", 1900, FilterOperator.EQ), condition="or")
    outer = MetadataFilters(filters=[inner, *where(("title", "Amelie", FilterOperator.EQ)).filters])
    assert found(store, [0.0, 1.0, 0.0], filters=outer) == ["n3", "n4"]


def test_query_filters_by_document(store: ChromaVectorStore) -> None:
    query = VectorStoreQuery(query_embedding=[1.0, 0.0, 0.0], similarity_top_k=4)
    assert store.query(query, where_document={"$contains": "gnomes"}).ids == ["n4"]


def test_query_without_a_vector_gets_by_filter(store: ChromaVectorStore) -> None:
    result = store.query(VectorStoreQuery(similarity_top_k=1, filters=where(("title", "Amelie", FilterOperator.EQ))))
    assert result.ids == ["n3"]


def test_marginal_relevance_prefers_variety(store: ChromaVectorStore) -> None:
    query = VectorStoreQuery(query_embedding=[1.0, 0.05, 0.0], similarity_top_k=2, mode=VectorStoreQueryMode.MMR)
    result = store.query(query, mmr_threshold=0.1, mmr_prefetch_k=4)
    assert result.ids == ["n1", "n3"]


def test_get_nodes_takes_ids_or_filters(store: ChromaVectorStore) -> None:
    assert [found.node_id for found in store.get_nodes(["n3", "n1"])] == ["n1", "n3"]
    filtered = store.get_nodes(None, filters=where(("title", "Alien", FilterOperator.EQ)))
    assert [found.node_id for found in filtered] == ["n1", "n2"]


def test_delete_removes_the_nodes_of_a_document(store: ChromaVectorStore) -> None:
    store.delete("d1")
    assert sorted(found(store, [1.0, 0.0, 0.0])) == ["n3", "n4"]


def test_delete_nodes_takes_ids_and_filters(store: ChromaVectorStore) -> None:
    store.delete_nodes(["n1"])
    assert sorted(found(store, [1.0, 0.0, 0.0])) == ["n2", "n3", "n4"]
    store.delete_nodes(["n2", "n3", "n4"], filters=where(("title", "Amelie", FilterOperator.EQ)))
    assert found(store, [1.0, 0.0, 0.0]) == ["n2"]


def test_clear_leaves_an_empty_collection_in_use(store: ChromaVectorStore) -> None:
    store.clear()
    assert found(store, [1.0, 0.0, 0.0]) == []
    store.add(NODES[:1])
    assert found(store, [1.0, 0.0, 0.0]) == ["n1"]


def test_more_nodes_than_a_chunk_arrive_whole(empty: ChromaVectorStore) -> None:
    """LlamaIndex cuts what it adds into chunks of 41,665, more than Chroma's own server lets its client send."""
    many = [TextNode(id_=str(n), text="", embedding=[float(n), 1.0]) for n in range(MAX_CHUNK_SIZE + 35)]
    assert len(empty.add(many)) == len(many)
    assert empty.client.count() == len(many)
    assert found(empty, [float(len(many) - 1), 1.0], k=1) == [str(len(many) - 1)]


async def test_async_calls_do_the_same(empty: ChromaVectorStore) -> None:
    await empty.async_add(NODES)
    query = VectorStoreQuery(query_embedding=[0.0, 1.0, 0.0], similarity_top_k=1)
    assert (await empty.aquery(query)).ids == ["n3"]
    await empty.adelete("d2")
    assert (await empty.aquery(query)).ids == ["n2"]
    await empty.aclear()
    assert empty.client.count() == 0


def test_index_is_built_searched_and_shrunk(empty: ChromaVectorStore) -> None:
    documents = [
        Document(doc_id="alien", text="a crew in space", metadata={"year": 1979}),
        Document(doc_id="2001", text="a computer in space", metadata={"year": 1968}),
        Document(doc_id="amelie", text="love in Paris", metadata={"year": 2001}),
    ]
    context = StorageContext.from_defaults(vector_store=empty)
    index = VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=WordEmbedding())
    assert [hit.node.ref_doc_id for hit in index.as_retriever(similarity_top_k=1).retrieve("love")] == ["amelie"]

    recent = where(("year", 1970, FilterOperator.GT))
    (hit,) = index.as_retriever(similarity_top_k=1, filters=recent).retrieve("computer in space")
    assert hit.node.ref_doc_id == "alien"

    index.delete_ref_doc("alien")
    again = VectorStoreIndex.from_vector_store(empty, embed_model=WordEmbedding())
    left = {hit.node.ref_doc_id for hit in again.as_retriever(similarity_top_k=9).retrieve("space")}
    assert left == {"2001", "amelie"}
