"""What a client refuses before it sends anything, and what it makes of arguments."""

from __future__ import annotations

import math
import re
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
    checked_name,
    checked_read_ids,
    checked_texts,
)
from chroma_async.client.filters import checked_where, checked_where_document
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


def test_the_odd_id_is_named() -> None:
    with pytest.raises(ValueError, match=r"ids\[1\] must be a text; str\(\.\.\.\) makes one\. got=7"):
        checked_ids(["a", 7])
    with pytest.raises(ValueError, match=r"at least one character\. place=ids\[2\]"):
        checked_ids(["a", "b", ""])


def test_a_read_may_be_narrowed_to_nothing_and_to_the_same_id_twice() -> None:
    assert checked_read_ids(None) is None
    assert checked_read_ids([]) == []
    assert checked_read_ids("a") == ["a"]
    assert checked_read_ids(("a", "", "a")) == ["a", "", "a"]
    with pytest.raises(ValueError, match=r"ids\[1\] must be a text"):
        checked_read_ids(["a", None])
    with pytest.raises(ValueError, match="ids must be a list"):
        checked_read_ids(5)


@pytest.mark.parametrize("name", [None, 5, b"x", ["x"]])
def test_names_are_texts(name: Any) -> None:
    with pytest.raises(ValueError, match="tenant must be a text"):
        checked_name(name, "tenant")
    assert checked_name("x") == "x"


def test_repeated_ids_are_named_but_not_all_of_them() -> None:
    with pytest.raises(errors.DuplicateIDError, match=r"repeated: a, b$"):
        checked_ids(["a", "b", "a", "c", "b", "a"])
    with pytest.raises(errors.DuplicateIDError, match=r"id-4, \.\.\. \(50\)$"):
        checked_ids([f"id-{number}" for number in range(50)] * 2)


def test_metadata_values_become_plain() -> None:
    given = {
        "i": np.int64(3),
        "f": np.float32(0.5),
        "b": np.bool_(True),
        "e": Colour.RED,
        "n": None,
        "l": (1, 2),
        "z": np.array(7),
    }
    metadata = checked_metadata({**given, "a": np.asarray([1.5, 2.5]), "t": ["x"]})
    assert metadata == {"i": 3, "f": 0.5, "b": True, "e": "red", "n": None, "l": [1, 2], "a": [1.5, 2.5], "t": ["x"], "z": 7}
    assert {key: type(value) for key, value in metadata.items()} == {
        "i": int, "f": float, "b": bool, "e": str, "n": type(None), "l": list, "a": list, "t": list, "z": int,
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


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("text", "metadatas[1] must be a dict or None. got=str"),
        ({}, "metadatas[1] must not be an empty dict"),
        ({1: 2}, "the fields of metadatas[1] must be texts. got=1"),
        (
            {"a": object()},
            "metadatas[1]['a']: Expected metadata value to be a str, int, float, bool or a list of",
        ),
        ({"a": [1, {}]}, "metadatas[1]['a'][1]: Expected metadata value to be a str, int, float, bool"),
        ({"a": [1, "x"]}, "metadatas[1]['a']: a list in metadata must have items, all of one type. got=[1, 'x']"),
        ({"a": []}, "metadatas[1]['a']: a list in metadata must have items"),
        ({"a": math.nan}, "metadatas[1]['a'] must be a finite number; what is not known is left out. got=nan"),
        ({"a": np.float32("inf")}, "metadatas[1]['a'] must be a finite number"),
        ({"a": [1.5, -math.inf]}, "metadatas[1]['a'][1] must be a finite number"),
        ({"a": "half \ud83d"}, "metadatas[1]['a'] is not a valid text: surrogates not allowed at character 5"),
        ({"\ud83d": 1}, "a field's name in metadatas[1] is not a valid text"),
    ],
    ids=str,
)
def test_the_odd_metadata_of_a_batch_is_named(second: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        checked_metadatas([{"fine": 1}, second])


def test_none_deletes_a_field_only_where_there_may_be_one() -> None:
    assert checked_metadatas([{"a": None, "b": 1}]) == [{"a": None, "b": 1}]
    with pytest.raises(ValueError, match=re.escape("metadatas[0]['a'] must not be None here: leave the field out")):
        checked_metadatas([{"b": 1, "a": None}], nones_allowed=False)


@pytest.mark.parametrize(
    "check", [checked_ids, checked_read_ids, lambda texts: checked_texts(texts, "documents", nones_allowed=True)]
)
def test_half_a_surrogate_pair_is_no_text(check: Callable[[list[str]], Any]) -> None:
    assert check(["ä", "\U0001f600"])
    with pytest.raises(ValueError, match=r"\[1\] is not a valid text: surrogates not allowed at character 1"):
        check(["a", "b\udc80"])


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
        ({"a": 1, "b": 2}, "where must have exactly one key; combine several with"),
        ({"a": {"$gt": 1, "$lt": 3}}, "where.a must have exactly one key; combine several with"),
        ([], "where must be a dict"),
        ({1: 2}, "text as its key"),
        ({"$contains": "x"}, "where.$contains: operators stand below a field, such as {'year': {'$contains': ...}}"),
        ({"$andd": []}, "where.$andd: unknown operator $andd; did you mean $and? allowed: $and, $or, or a field's name"),
        ({"a": {"$foo": "x"}}, "where.a.$foo: unknown operator $foo; allowed: $eq, $ne, $gt, "),
        ({"a": {"$GTE": 1}}, "where.a.$GTE: unknown operator $GTE; did you mean $gte?"),
        (
            {"$or": [{"a": 1}, {"b": {"$contain": 1}}]},
            "where.$or[1].b.$contain: unknown operator $contain; did you mean $con",
        ),
        ({"a": {"$regex": "x"}}, "where.a.$regex: $regex works on documents only; use where_document, or '#document'"),
        ({"a": {"$gt": "x"}}, "where.a.$gt: $gt compares with a number. got='x'"),
        ({"a": {"$in": []}}, "where.a.$in takes a list with items"),
        ({"a": {"$in": [1, "x"]}}, "all of one type"),
        ({"a": {"$in": [1, {}]}}, "where.a.$in[1] must be a str, int, float"),
        ({"a": {"$in": 5}}, "where.a.$in takes a list"),
        ({"a": {"$in": np.array(5)}}, "where.a.$in takes a list"),
        ({"a": [1]}, "where.a must be a str, int, float"),
        ({"a": None}, "where.a must be a str, int, float"),
        ({"$and": []}, "where.$and takes a list of filters that is not empty"),
        ({"$or": {"a": 1}}, "where.$or takes a list of filters"),
        ({"$and": [{"a": 1}, {}]}, "where.$and[1] must not be an empty dict; None matches everything"),
    ],
)
def test_a_filter_that_is_none_is_refused_with_place_and_advice(where: Any, advice: str) -> None:
    with pytest.raises(ValueError, match=re.escape(advice)):
        checked_where(where)


@pytest.mark.parametrize(
    ("where", "advice"),
    [
        ({}, "where_document must not be an empty dict"),
        ("x", "where_document must be a dict. got=str"),
        ({"$contains": ""}, "where_document.$contains takes a text with at least one character. got=''"),
        ({"$contains": 5}, "where_document.$contains takes a text with at least one character. got=5"),
        (
            {"$contain": "x"},
            "where_document.$contain: unknown operator $contain; did you mean $contains? allowed: $contains,",
        ),
        (
            {"a": "b"},
            "where_document.a: unknown operator a; allowed: $contains, $not_contains, $regex, $not_regex, $and, $or",
        ),
        ({"$and": []}, "where_document.$and takes a list of filters that is not empty"),
        ({"$or": [{"$contains": "x"}, {}]}, "where_document.$or[1] must not be an empty dict"),
    ],
    ids=str,
)
def test_a_document_filter_that_is_none_is_refused_with_place_and_advice(where: Any, advice: str) -> None:
    with pytest.raises(ValueError, match=re.escape(advice)):
        checked_where_document(where)


def test_document_filters_may_be_nested() -> None:
    where = {"$or": [{"$contains": "x"}, {"$and": [{"$not_regex": "y"}]}]}
    assert checked_where_document(where) == where


def test_what_can_be_included_differs_between_get_and_query() -> None:
    assert checked_include(("distances", "documents"), QUERY_INCLUDE) == ["distances", "documents"]
    with pytest.raises(ValueError, match=r"include\[1\] must be one of documents, .* got='distances'"):
        checked_include(["documents", "distances"], GET_INCLUDE)
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
    with pytest.raises(ValueError, match=r"documents\[1\] must be a text\. got=NoneType"):
        checked_texts(["x", None], "documents", nones_allowed=False)
    with pytest.raises(ValueError, match=r"uris\[0\] must be a text or None\. got=int"):
        checked_texts([1], "uris", nones_allowed=True)


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
