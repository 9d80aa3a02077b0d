"""Get, peek and count: order, pages, columns."""

from __future__ import annotations

from typing import Any

import chromadb
import numpy as np
import pytest
from tests.compat.wire import Wire, WireCollection


@pytest.fixture(scope="module")
def six(wire: Wire) -> WireCollection:
    """Six records in an order that no sorting by id would give; for tests that only read."""
    return fill_with_six(wire.create())


@pytest.fixture
def own_six(collection: WireCollection) -> WireCollection:
    """The same records for one test to change."""
    return fill_with_six(collection)


def fill_with_six(collection: WireCollection) -> WireCollection:
    collection.add(ids=["f", "b"], embeddings=[[0], [1]], metadatas=[{"n": 0}, {"n": 1}], documents=["red fox", "blue"])
    collection.add(ids=["e", "a"], embeddings=[[2], [3]], metadatas=[{"n": 2}, {"n": 3}], documents=["red", None])
    collection.upsert(ids=["d", "c"], embeddings=[[4], [5]], metadatas=[{"n": 4}, None], documents=["infrared", ""])
    return collection


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "fbeadc"),
        ({"ids": None, "where": None, "where_document": None, "limit": None, "offset": None}, "fbeadc"),
        ({"ids": ["a", "f", "ghost", "a"]}, "fa"),
        ({"ids": []}, ""),
        ({"ids": ["ghost"]}, ""),
        ({"limit": 2}, "fb"),
        ({"limit": 2, "offset": 3}, "ad"),
        ({"offset": 4}, "dc"),
        ({"offset": 99}, ""),
        ({"limit": 0}, ""),
        ({"limit": 99}, "fbeadc"),
        ({"ids": ["a", "b", "c"], "limit": 1, "offset": 1}, "a"),
        ({"where": {"n": {"$gte": 1}}}, "bead"),
        ({"where": {"n": {"$gte": 1}}, "limit": 2, "offset": 1}, "ea"),
        ({"where_document": {"$contains": "red"}}, "fed"),
        ({"where_document": {"$contains": "red"}, "where": {"n": {"$gt": 0}}}, "ed"),
        ({"where_document": {"$contains": "red"}, "where": {"n": {"$gt": 0}}, "ids": ["a", "d", "f"]}, "d"),
    ],
    ids=str,
)
def test_get_selects_in_insertion_order(six: WireCollection, body: dict[str, Any], expected: str) -> None:
    assert six.ids(**body) == list(expected)


def test_upsert_and_update_keep_the_place_of_a_record(own_six: WireCollection) -> None:
    own_six.upsert(ids=["e", "new", "b"], embeddings=[[9], [9], [9]], metadatas=[{"m": 1}, None, None])
    own_six.update(ids=["f"], documents=["changed"])
    assert own_six.ids() == ["f", "b", "e", "a", "d", "c", "new"]


def test_deleted_and_added_again_moves_to_the_end(own_six: WireCollection) -> None:
    own_six.delete(ids=["b"])
    own_six.add(ids=["b"], embeddings=[[7]])
    assert own_six.ids() == ["f", "e", "a", "d", "c", "b"]
    assert own_six.get(ids=["b"])["metadatas"] == [None]
    assert own_six.get(ids=["b"])["documents"] == [None]


def test_pages_cover_everything_once(six: WireCollection) -> None:
    pages = [six.ids(limit=4, offset=offset) for offset in (0, 4, 8)]
    assert pages == [["f", "b", "e", "a"], ["d", "c"], []]


def test_get_answers_all_keys_with_null_for_what_was_not_asked(six: WireCollection) -> None:
    assert six.get(ids=["f"]) == {
        **{"ids": ["f"], "embeddings": None, "documents": ["red fox"], "uris": None},
        **{"metadatas": [{"n": 0}], "include": ["documents", "metadatas"]},
    }
    assert six.get(ids=["f"], include=["uris", "embeddings"]) == {
        **{"ids": ["f"], "embeddings": [[0.0]], "documents": None, "uris": [None]},
        **{"metadatas": None, "include": ["uris", "embeddings"]},
    }


def test_include_is_echoed_verbatim_and_may_name_distances(six: WireCollection) -> None:
    include = ["metadatas", "distances", "metadatas"]
    body = six.get(ids=["f"], include=include)
    assert body["include"] == include
    assert "distances" not in body


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"limit": -1}, "limit"),
        ({"limit": 1.5}, "limit"),
        ({"offset": "1"}, "offset"),
        ({"include": None}, "include"),
        ({"include": ["data"]}, "include[0]"),
        ({"include": ["ids"]}, "include[0]"),
        ({"ids": "a"}, "ids"),
        ({"ids": [1]}, "ids[0]"),
    ],
    ids=str,
)
def test_get_with_a_wrong_type_is_unprocessable(six: WireCollection, body: dict[str, Any], path: str) -> None:
    status, error, message = six.post("get", body).refusal
    assert (status, error) == (422, "ChromaError")
    assert message.startswith(f"Failed to deserialize the JSON body into the target type: {path}: ")


def test_empty_collection_gives_empty_columns(collection: WireCollection) -> None:
    body = collection.get(include=["documents", "embeddings"])
    assert (body["ids"], body["documents"], body["embeddings"], body["metadatas"]) == ([], [], [], None)
    assert collection.count() == 0


def test_peek_shows_the_first_records(docs: chromadb.Collection) -> None:
    ids = [f"id-{number}" for number in range(15)]
    docs.add(ids=ids, embeddings=[[float(number)] for number in range(15)], documents=ids)
    peek = docs.peek()
    assert peek["ids"] == ids[:10]
    assert peek["documents"] == ids[:10]
    assert np.asarray(peek["embeddings"]).shape == (10, 1)
    assert docs.peek(3)["ids"] == ids[:3]


def test_count_follows_every_write(docs: chromadb.Collection) -> None:
    assert docs.count() == 0
    docs.add(ids=["a", "b"], embeddings=[[1.0], [2.0]])
    assert docs.count() == 2
    docs.upsert(ids=["b", "c"], embeddings=[[1.0], [2.0]])
    assert docs.count() == 3
    docs.delete(ids=["a", "ghost"])
    assert docs.count() == 2


@pytest.mark.parametrize("level", ["index_and_wal", "index_and_bounded_wal"])
def test_count_takes_a_read_level(six: WireCollection, level: str) -> None:
    assert six.wire.call("GET", six.path + "/count", params={"read_level": level}).body == 6


def test_count_with_an_unknown_read_level_is_refused(six: WireCollection) -> None:
    status, error, message = six.wire.call("GET", six.path + "/count", params={"read_level": "bad"}).refusal
    assert (status, error) == (400, "InvalidArgumentError")
    assert message.startswith("Failed to deserialize query string: read_level: unknown variant `bad`")


@pytest.mark.reference_differs
def test_get_takes_more_ids_than_sqlite_has_variables(six: WireCollection) -> None:
    ids = [f"ghost-{number}" for number in range(40_000)]
    assert six.ids(ids=[*ids, "a"]) == ["a"]
    assert six.ids(where={"n": {"$in": list(range(1, 40_000))}}) == ["b", "e", "a", "d"]


@pytest.mark.reference_differs
def test_record_with_a_uri_and_no_metadata_shows_null(collection: WireCollection) -> None:
    collection.add(ids=["a"], embeddings=[[1]], uris=["file:///a"])
    assert collection.get()["metadatas"] == [None]
