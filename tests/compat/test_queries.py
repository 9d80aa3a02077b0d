"""Nearest neighbours: distances by Chroma's formulas, filters, columns, and the edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.errors import InvalidArgumentError
from numpy.typing import NDArray
from tests.compat.wire import Wire, WireCollection, to_base64

Floats = NDArray[np.float64]

# Squared euclid, one minus dot, one minus cosine: query (d,), vectors (n, d), both exact images of float32 values.
FORMULAS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "l2": lambda query, vectors: np.asarray(((vectors - query) ** 2).sum(axis=1)),
    "ip": lambda query, vectors: np.asarray(1 - vectors @ query),
    "cosine": lambda query, vectors: np.asarray(
        1 - (vectors @ query) / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(query))
    ),
}


def in_space(wire: Wire, space: str) -> WireCollection:
    return wire.create(configuration={"hnsw": {"space": space}})


@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
def test_distances_follow_the_formula_and_ascend(wire: Wire, space: str) -> None:
    random = np.random.default_rng(42)
    vectors = random.standard_normal((80, 48)).astype(np.float32)
    queries = random.standard_normal((5, 48)).astype(np.float32)
    collection = in_space(wire, space)
    collection.add(ids=[str(row) for row in range(80)], embeddings=[to_base64(vector) for vector in vectors])
    body = collection.query(*queries.tolist(), n_results=20)
    for query, ids, distances in zip(queries, body["ids"], body["distances"], strict=True):
        exact = FORMULAS[space](query.astype(np.float64), vectors.astype(np.float64))
        assert ids == [str(row) for row in np.argsort(exact)[:20]]
        np.testing.assert_allclose(distances, np.sort(exact)[:20], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ("l2", {"a": 0.0, "b": 25.0, "c": 8.0}),
        ("ip", {"a": -4.0, "b": 11.0, "c": -10.0}),
    ],
)
def test_distances_of_small_whole_numbers_are_exact(wire: Wire, space: str, expected: dict[str, float]) -> None:
    collection = in_space(wire, space)
    collection.add(ids=["a", "b", "c"], embeddings=[[1, 2], [0, 0], [3, 4]])
    collection.update(ids=["b"], embeddings=[[-2, -2] if space == "l2" else [-4, -3]])
    body = collection.query([1, 2])
    assert dict(zip(body["ids"][0], body["distances"][0], strict=True)) == expected


def test_cosine_of_a_zero_vector_is_one(wire: Wire) -> None:
    collection = in_space(wire, "cosine")
    collection.add(ids=["zero", "same", "opposite"], embeddings=[[0, 0], [2, 0], [-1, 0]])
    body = collection.query([1, 0])
    assert body["ids"] == [["same", "zero", "opposite"]]
    np.testing.assert_allclose(body["distances"], [[0, 1, 2]], atol=1e-6)
    np.testing.assert_allclose(collection.query([0, 0])["distances"], [[1, 1, 1]], atol=1e-6)


def test_cosine_ignores_length_and_keeps_the_stored_vector(wire: Wire) -> None:
    collection = in_space(wire, "cosine")
    collection.add(ids=["long", "short"], embeddings=[[300, 400], [0.4, 0.3]])
    body = collection.query([3, 4], include=["embeddings", "distances"])
    assert body["ids"] == [["long", "short"]]
    np.testing.assert_allclose(body["distances"], [[0, 0.04]], atol=1e-6)
    np.testing.assert_allclose(body["embeddings"], [[[300, 400], [0.4, 0.3]]], rtol=1e-6)


@pytest.fixture(scope="module")
def line(wire: Wire) -> WireCollection:
    """Ten points on a line, the one nearest to 0 is "0"; for tests that only read."""
    return fill_with_line(wire.create())


@pytest.fixture
def own_line(collection: WireCollection) -> WireCollection:
    """The same points for one test to change."""
    return fill_with_line(collection)


def fill_with_line(collection: WireCollection) -> WireCollection:
    collection.add(
        ids=[str(number) for number in range(10)],
        embeddings=[[number] for number in range(10)],
        metadatas=[{"n": number, "odd": number % 2 == 1} for number in range(10)],
        documents=[f"number {number}" if number != 5 else None for number in range(10)],
    )
    return collection


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"n_results": 3}, "012"),
        ({"n_results": 99}, "0123456789"),
        ({"n_results": None}, "0123456789"),
        ({}, "0123456789"),
        ({"n_results": 0}, ""),
        ({"where": {"odd": True}}, "13579"),
        ({"where": {"odd": True}, "n_results": 2}, "13"),
        ({"where": {"n": {"$gte": 7}}, "n_results": 2}, "78"),
        ({"where": {"n": 99}}, ""),
        ({"where_document": {"$contains": "9"}}, "9"),
        ({"where_document": {"$not_contains": "number"}}, "5"),
        ({"where_document": {"$contains": "number"}, "where": {"odd": True}}, "1379"),
        ({"ids": ["8", "3", "3"]}, "38"),
        ({"ids": ["8", "3", "4"], "n_results": 1}, "3"),
        ({"ids": ["8", "3", "4"], "where": {"odd": False}}, "48"),
        ({"ids": []}, ""),
        ({"ids": None, "where": None, "where_document": None}, "0123456789"),
    ],
    ids=str,
)
def test_query_finds_the_nearest_that_match(line: WireCollection, body: dict[str, Any], expected: str) -> None:
    assert line.query([0], **body)["ids"] == [list(expected)]


def test_each_query_vector_has_a_list_of_its_own(line: WireCollection) -> None:
    body = line.query([0], [9], [4.4], n_results=2)
    assert body["ids"] == [["0", "1"], ["9", "8"], ["4", "5"]]
    assert body["documents"] == [["number 0", "number 1"], ["number 9", "number 8"], ["number 4", None]]
    assert [[entry["n"] for entry in column] for column in body["metadatas"]] == [[0, 1], [9, 8], [4, 5]]


def test_default_columns_of_a_query(line: WireCollection) -> None:
    assert line.query([0], n_results=1) == {
        **{"ids": [["0"]], "embeddings": None, "documents": [["number 0"]], "uris": None},
        **{"metadatas": [[{"n": 0, "odd": False}]], "distances": [[0.0]]},
        "include": ["documents", "metadatas", "distances"],
    }


def test_query_columns_that_were_not_asked_for_are_null(line: WireCollection) -> None:
    assert line.query([0], n_results=1, include=[]) == {
        **{"ids": [["0"]], "embeddings": None, "documents": None, "uris": None},
        **{"metadatas": None, "distances": None, "include": []},
    }
    body = line.query([1], n_results=1, include=["embeddings", "uris"])
    assert (body["embeddings"], body["uris"], body["distances"]) == ([[[1.0]]], [[None]], None)


def test_query_without_vectors_has_no_lists(line: WireCollection) -> None:
    body = line.query()
    assert (body["ids"], body["documents"], body["distances"]) == ([], [], [])


def test_client_query_gives_numpy_embeddings(docs: chromadb.Collection) -> None:
    docs.add(ids=["a", "b"], embeddings=[[1.0, 0.0], [0.0, 1.0]], documents=["x", "y"], metadatas=[{"k": 1}, {"k": 2}])
    found = docs.query(
        query_embeddings=[[1.0, 0.1]], n_results=5, include=["embeddings", "documents", "metadatas", "distances"]
    )
    assert found["ids"] == [["a", "b"]]
    assert found["documents"] == [["x", "y"]]
    assert found["metadatas"] == [[{"k": 1}, {"k": 2}]]
    assert found["embeddings"] is not None
    assert np.asarray(found["embeddings"][0]).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    np.testing.assert_allclose(found["distances"], [[0.01, 1.81]], rtol=1e-5)


def test_client_query_with_filters(docs: chromadb.Collection) -> None:
    docs.add(
        ids=["a", "b", "c"],
        embeddings=[[1.0], [2.0], [3.0]],
        documents=["one", "two", "three"],
        metadatas=[{"k": 1}, {"k": 2}, {"k": 3}],
    )
    found = docs.query(
        query_embeddings=[[3.1]],
        where={"$or": [{"k": 1}, {"k": {"$gte": 3}}]},
        where_document={"$contains": "e"},
        n_results=2,
    )
    assert found["ids"] == [["c", "a"]]
    assert docs.query(query_embeddings=[[3.1]], ids=["a", "b"], n_results=1)["ids"] == [["b"]]


def test_new_collection_without_dimension_takes_any_query_and_finds_nothing(collection: WireCollection) -> None:
    assert collection.query([1])["ids"] == [[]]
    body = collection.query([1, 2, 3], [4, 5, 6])
    assert (body["ids"], body["distances"], body["documents"]) == ([[], []], [[], []], [[], []])


def test_wrong_dimension_is_refused_even_when_nothing_is_left(own_line: WireCollection) -> None:
    message = "Collection expecting embedding with dimension of 1, got "
    assert own_line.post("query", {"query_embeddings": [[1, 2]]}).refusal == (400, "InvalidArgumentError", message + "2")
    assert own_line.post("query", {"query_embeddings": [[]]}).refusal == (400, "InvalidArgumentError", message + "0")
    own_line.delete(where={"n": {"$gte": 0}})
    assert own_line.query([1])["ids"] == [[]]
    assert own_line.post("query", {"query_embeddings": [[1, 2]]}).refusal == (400, "InvalidArgumentError", message + "2")


def test_query_vectors_of_different_dimensions_are_refused(collection: WireCollection) -> None:
    for _ in ("without a dimension", "with one"):
        status, error, message = collection.post("query", {"query_embeddings": [[1, 2], [1]]}).refusal
        assert (status, error) == (400, "InvalidArgumentError")
        assert message.startswith("Inconsistent dimensions in provided embeddings")
        collection.add(ids=["a"], embeddings=[[1]])


def test_distance_beyond_float32_is_null(line: WireCollection) -> None:
    assert line.query([1e39], n_results=2)["distances"] == [[None, None]]


def test_wrong_dimension_is_an_invalid_argument_error_in_the_client(docs: chromadb.Collection) -> None:
    docs.add(ids=["a"], embeddings=[[1.0, 2.0]])
    with pytest.raises(InvalidArgumentError, match="dimension of 2, got 3"):
        docs.query(query_embeddings=[[1.0, 2.0, 3.0]])


@pytest.mark.parametrize(
    ("body", "fragment"),
    [
        ({"query_embeddings": [to_base64([1])]}, "query_embeddings[0]: invalid type: string"),
        ({"query_embeddings": None}, "query_embeddings: invalid type: null"),
        ({"query_embeddings": [1]}, "query_embeddings[0]: invalid type"),
        ({}, "missing field `query_embeddings`"),
        ({"query_embeddings": [[1]], "n_results": -1}, "n_results: invalid value: integer `-1`, expected u32"),
        (
            {"query_embeddings": [[1]], "include": ["uris", "data"]},
            "include[1]: unknown variant `data`, expected one of `distances`, `documents`, `embeddings`, `metadatas`, ",
        ),
        ({"query_embeddings": [[1]], "ids": "a"}, "ids: invalid type"),
    ],
    ids=str,
)
def test_query_with_a_wrong_type_is_unprocessable(line: WireCollection, body: dict[str, Any], fragment: str) -> None:
    status, error, message = line.post("query", body).refusal
    assert (status, error) == (422, "ChromaError")
    assert fragment in message


def test_query_sees_replaced_moved_and_deleted_vectors_at_once(own_line: WireCollection) -> None:
    own_line.upsert(ids=["9"], embeddings=[[-1]])
    own_line.update(ids=["0"], embeddings=[[100]])
    own_line.delete(ids=["1"])
    own_line.add(ids=["new"], embeddings=[[0.25]])
    assert own_line.query([0], n_results=4)["ids"] == [["new", "9", "2", "3"]]
    assert own_line.query([100], n_results=1)["ids"] == [["0"]]


def test_limit_in_the_url_of_a_query_is_ignored(line: WireCollection) -> None:
    answer = line.wire.call("POST", line.path + "/query?limit=1&offset=1", {"query_embeddings": [[0]], "n_results": 3})
    assert answer.body["ids"] == [["0", "1", "2"]]


@pytest.mark.reference_differs
def test_unknown_ids_in_the_id_filter_are_ignored(line: WireCollection) -> None:
    assert line.query([0], ids=["ghost", "4"])["ids"] == [["4"]]
    assert line.query([0], ids=["ghost"])["ids"] == [[]]


def test_search_answers_or_says_that_it_is_not_implemented(line: WireCollection) -> None:
    assert line.post("search", {}).status == 422
    answer = line.post("search", {"searches": [{"filter": {"n": {"$gte": 8}}, "select": {"keys": ["#document"]}}]})
    if answer.status == 200:
        assert answer.body["ids"] == [["8", "9"]]
        assert answer.body["documents"] == [["number 8", "number 9"]]
    else:
        assert answer.refusal[:2] == (501, "ChromaError")
