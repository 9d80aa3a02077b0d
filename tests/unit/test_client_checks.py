"""What a client refuses before it sends anything, and what it makes of arguments."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import pytest

from chroma_async import errors
from chroma_async.client.checks import (
    GET_INCLUDE,
    QUERY_INCLUDE,
    checked_count,
    checked_ids,
    checked_include,
    checked_metadata,
    checked_metadatas,
    checked_texts,
    checked_where,
    checked_where_document,
)
from chroma_async.client.records import checked_records
from chroma_async.client.vectors import to_matrix


class Colour(str, Enum):  # noqa: UP042 - its str() is not its value
    RED = "red"


def test_one_id_or_many_become_a_list() -> None:
    assert checked_ids("a") == ["a"]
    assert checked_ids(("a", "b")) == ["a", "b"]


@pytest.mark.parametrize("ids", [None, [], [1], [""], 5, {"a"}])
def test_ids_that_are_no_texts_are_refused(ids: Any) -> None:
    with pytest.raises(ValueError, match=r"\bids?\b"):
        checked_ids(ids)


def test_repeated_ids_are_named_but_not_all_of_them() -> None:
    with pytest.raises(errors.DuplicateIDError, match=r"repeated: a, b$"):
        checked_ids(["a", "b", "a", "c", "b", "a"])
    with pytest.raises(errors.DuplicateIDError, match=r"id-4, \.\.\. \(50\)$"):
        checked_ids([f"id-{number}" for number in range(50)] * 2)


def test_metadata_values_become_plain() -> None:
    given = {"i": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True), "e": Colour.RED, "n": None, "l": (1, 2)}
    metadata = checked_metadata({**given, "a": np.asarray([1.5, 2.5]), "t": ["x"]})
    assert metadata == {"i": 3, "f": 0.5, "b": True, "e": "red", "n": None, "l": [1, 2], "a": [1.5, 2.5], "t": ["x"]}
    assert {key: type(value) for key, value in metadata.items()} == {
        "i": int, "f": float, "b": bool, "e": str, "n": type(None), "l": list, "a": list, "t": list,
    }  # fmt: skip


@pytest.mark.parametrize(
    "metadata", [{}, [], "text", {"a": {}}, {"a": []}, {"a": [1, "x"]}, {"a": [1, True]}, {1: 2}, {"a": object()}]
)
def test_metadata_that_cannot_be_stored_is_refused(metadata: Any) -> None:
    with pytest.raises(ValueError, match="metadata"):
        checked_metadata(metadata)


def test_a_reserved_field_is_refused() -> None:
    with pytest.raises(ValueError, match="chroma:document is reserved"):
        checked_metadata({"chroma:document": "x"})


def test_a_batch_may_have_records_without_metadata() -> None:
    assert checked_metadatas([{"a": 1}, None]) == [{"a": 1}, None]
    assert checked_metadatas({"a": 1}) == [{"a": 1}]


def test_filters_become_plain() -> None:
    where = {"$and": [{"n": {"$gte": np.int32(1)}}, {"$or": ({"c": Colour.RED}, {"x": {"$in": (1, 2)}})}]}
    assert checked_where(where) == {"$and": [{"n": {"$gte": 1}}, {"$or": [{"c": "red"}, {"x": {"$in": [1, 2]}}]}]}
    assert checked_where({"#document": {"$regex": "x"}}) == {"#document": {"$regex": "x"}}
    assert checked_where(None) is None


@pytest.mark.parametrize(
    ("where", "advice"),
    [
        ({}, "None matches everything"),
        ({"a": 1, "b": 2}, "combine several with"),
        ({"a": {"$gt": 1, "$lt": 3}}, "combine several with"),
        ([], "must be a dict"),
        ({1: 2}, "text as its key"),
        ({"$contains": "x"}, "below a field"),
        ({"a": {"$like": "x"}}, "unknown operator"),
        ({"a": {"$gt": "x"}}, "compares with a number"),
        ({"a": {"$in": []}}, "list with items"),
        ({"a": {"$in": [1, "x"]}}, "all of one type"),
        ({"a": {"$in": 5}}, "takes a list"),
        ({"a": [1]}, "must be a str, int, float"),
        ({"a": None}, "must be a str, int, float"),
        ({"$and": []}, "not empty"),
        ({"$or": {"a": 1}}, "list of filters"),
        ({"$and": [{"a": 1}, {}]}, "None matches everything"),
    ],
)
def test_a_filter_that_is_none_is_refused_with_advice(where: Any, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        checked_where(where)


@pytest.mark.parametrize("where", [{}, {"$contains": ""}, {"$contains": 5}, {"a": "b"}, {"$and": []}, {"$or": [{}]}, "x"])
def test_a_document_filter_that_is_none_is_refused(where: Any) -> None:
    with pytest.raises(ValueError, match=r"where_document|text|list of filters|dict"):
        checked_where_document(where)


def test_document_filters_may_be_nested() -> None:
    where = {"$or": [{"$contains": "x"}, {"$and": [{"$not_regex": "y"}]}]}
    assert checked_where_document(where) == where


def test_what_can_be_included_differs_between_get_and_query() -> None:
    assert checked_include(("distances", "documents"), QUERY_INCLUDE) == ["distances", "documents"]
    with pytest.raises(ValueError, match="include takes"):
        checked_include(["distances"], GET_INCLUDE)
    with pytest.raises(ValueError, match="include must be a list"):
        checked_include("documents", GET_INCLUDE)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "3", None])
def test_numbers_of_results_are_whole_and_positive(count: Any) -> None:
    with pytest.raises(ValueError, match="n_results"):
        checked_count(count, "n_results", 1)
    assert checked_count(np.int64(3), "n_results", 1) == 3


def test_documents_are_texts() -> None:
    assert checked_texts("x", "documents", nones_allowed=False) == ["x"]
    assert checked_texts(["x", None], "documents", nones_allowed=True) == ["x", None]
    with pytest.raises(ValueError, match="documents must be texts"):
        checked_texts(["x", None], "documents", nones_allowed=False)


@pytest.mark.parametrize(
    "make",
    [
        lambda: [1, 2],
        lambda: (1.0, 2.0),
        lambda: [[1, 2]],
        lambda: np.asarray([1, 2]),
        lambda: np.asarray([[1, 2]], dtype=np.float16),
        lambda: [np.asarray([1.0, 2.0])],
    ],
)
def test_vectors_become_one_float32_matrix(make: Callable[[], Any]) -> None:
    matrix = to_matrix(make(), "embeddings")
    assert matrix.dtype == np.float32
    assert matrix.flags.c_contiguous
    assert matrix.tolist() == [[1, 2]]


def test_a_transposed_or_sliced_array_is_read_as_it_looks() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert to_matrix(array.T, "embeddings").tolist() == [[0, 3], [1, 4], [2, 5]]
    assert to_matrix(array[:, ::2], "embeddings").tolist() == [[0, 2], [3, 5]]


@pytest.mark.parametrize(
    "value",
    [
        [], [[]], "text", 5, {"a": 1}, [["1", "2"]], [[True, False]], [[1, 2], [3]], [[1, 2], 3], [[[1]]],
        np.zeros((1, 1, 1)), np.zeros((0, 3)), np.asarray([True]), [[1, None]],
    ],
)  # fmt: skip
def test_what_is_no_vector_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="embeddings must"):
        to_matrix(value, "embeddings")


def test_vectors_of_different_length_are_named() -> None:
    with pytest.raises(ValueError, match="item 0 has 2 numbers, item 2 has 3"):
        to_matrix([[1, 2], [3, 4], [5, 6, 7]], "embeddings")


def test_lists_of_a_write_have_one_item_per_id() -> None:
    with pytest.raises(ValueError, match=r"ids=2 embeddings=1 documents=2"):
        checked_records(["a", "b"], [[1, 2]], None, ["x", "y"], None, None)
    records = checked_records("a", [1, 2], {"m": 1}, "x", None, "file:x")
    assert (records.ids, records.metadatas, records.documents, records.uris) == (["a"], [{"m": 1}], ["x"], ["file:x"])
