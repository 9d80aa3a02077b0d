"""Metadata filters: one table of filters and the records they match."""

from __future__ import annotations

from typing import Any

import chromadb
import pytest
from chromadb.errors import InvalidArgumentError
from tests.compat.wire import Wire, WireCollection

RECORDS: dict[str, dict[str, Any] | None] = {
    "a": {"s": "x", "i": 1, "f": 1.5, "b": True, "m": 1},
    "b": {"s": "y", "i": 2, "f": 2.0, "b": False, "m": 1.0},
    "c": {"s": "X", "i": -3, "f": -0.5, "m": True},
    "d": {"s": "", "i": 0, "f": 0.0, "b": False, "m": "1"},
    "e": None,
    "g": {"words": ["x", "y"], "ints": [1, 2], "floats": [1.0, 2.5], "flags": [True]},
    "h": {"s": "xy", "big": 2**53 + 1, "日本": "値", "key with 'quotes'": 1},
}
ALL = "abcdegh"

TABLE: list[tuple[dict[str, Any], str]] = [
    # strings: exact, case-sensitive, no order
    ({"s": "x"}, "a"),
    ({"s": {"$eq": "x"}}, "a"),
    ({"s": "X"}, "c"),
    ({"s": ""}, "d"),
    ({"s": {"$ne": "x"}}, "bcdegh"),
    ({"s": {"$in": ["x", "y", "nope"]}}, "ab"),
    ({"s": {"$nin": ["x", "y"]}}, "cdegh"),
    ({"s": 1}, ""),
    ({"s": {"$ne": 1}}, ALL),
    ({"s": {"$gt": 0}}, ""),
    ({"s": {"$lte": 0}}, ""),
    ({"日本": "値"}, "h"),
    ({"key with 'quotes'": 1}, "h"),
    # integers
    ({"i": 1}, "a"),
    ({"i": {"$eq": 1}}, "a"),
    ({"i": 1.0}, "a"),
    ({"i": "1"}, ""),
    ({"i": True}, ""),
    ({"i": {"$ne": 1}}, "bcdegh"),
    ({"i": {"$ne": 1.0}}, "bcdegh"),
    ({"i": {"$ne": True}}, ALL),
    ({"i": {"$gt": 0}}, "ab"),
    ({"i": {"$gte": 0}}, "abd"),
    ({"i": {"$lt": 0}}, "c"),
    ({"i": {"$lte": 0}}, "cd"),
    ({"i": {"$gt": -3}}, "abd"),
    ({"i": {"$gte": 2.0}}, "b"),
    ({"i": {"$in": [1, 2, 77]}}, "ab"),
    ({"i": {"$in": [1.0, 2.0]}}, "ab"),
    ({"i": {"$nin": [1, 2]}}, "cdegh"),
    ({"i": {"$in": ["1"]}}, ""),
    # floats
    ({"f": 1.5}, "a"),
    ({"f": 2}, "b"),
    ({"f": 2.0}, "b"),
    ({"f": -0.0}, "d"),
    ({"f": 0}, "d"),
    ({"f": {"$ne": 2}}, "acdegh"),
    ({"f": {"$gt": 1}}, "ab"),
    ({"f": {"$gte": 1.5}}, "ab"),
    ({"f": {"$gt": 1.5}}, "b"),
    ({"f": {"$lt": 0}}, "c"),
    ({"f": {"$lte": 0}}, "cd"),
    ({"f": {"$in": [1.5, 2]}}, "ab"),
    ({"f": {"$in": [2]}}, "b"),
    ({"f": {"$nin": [1.5]}}, "bcdegh"),
    # booleans are no numbers
    ({"b": True}, "a"),
    ({"b": False}, "bd"),
    ({"b": {"$ne": True}}, "bcdegh"),
    ({"b": 1}, ""),
    ({"b": 0}, ""),
    ({"b": 1.0}, ""),
    ({"b": "true"}, ""),
    ({"b": {"$gte": 0}}, ""),
    ({"b": {"$in": [True]}}, "a"),
    ({"b": {"$in": [1]}}, ""),
    ({"b": {"$nin": [True]}}, "bcdegh"),
    ({"b": {"$nin": [1]}}, ALL),
    # one key, four types
    ({"m": 1}, "ab"),
    ({"m": 1.0}, "ab"),
    ({"m": True}, "c"),
    ({"m": "1"}, "d"),
    ({"m": {"$gte": 0}}, "ab"),
    ({"m": {"$ne": 1}}, "cdegh"),
    ({"m": {"$ne": True}}, "abdegh"),
    ({"m": {"$in": [1]}}, "ab"),
    ({"m": {"$in": ["1"]}}, "d"),
    ({"m": {"$nin": ["1"]}}, "abcegh"),
    # large integers are not rounded
    ({"big": 2**53 + 1}, "h"),
    ({"big": 2**53}, ""),
    ({"big": {"$gt": 2**53}}, "h"),
    ({"big": {"$lt": 2**63 - 1}}, "h"),
    ({"i": {"$gt": -(2**63)}}, "abcd"),
    ({"big": {"$lt": 2**64}}, "h"),
    # a key that no record has
    ({"ghost": 1}, ""),
    ({"ghost": {"$gt": 0}}, ""),
    ({"ghost": {"$lt": 0}}, ""),
    ({"ghost": {"$in": ["x"]}}, ""),
    ({"ghost": {"$contains": "x"}}, ""),
    ({"ghost": {"$ne": 1}}, ALL),
    ({"ghost": {"$nin": ["x"]}}, ALL),
    ({"ghost": {"$not_contains": "x"}}, ALL),
    ({"": 1}, ""),
    ({"#ghost": 1}, ""),
    # arrays: only $contains looks inside, and only at equal types
    ({"words": {"$contains": "x"}}, "g"),
    ({"words": {"$contains": "z"}}, ""),
    ({"words": {"$not_contains": "x"}}, "abcdeh"),
    ({"words": {"$not_contains": "z"}}, ALL),
    ({"words": "x"}, ""),
    ({"words": {"$ne": "x"}}, ALL),
    ({"words": {"$in": ["x"]}}, ""),
    ({"words": {"$nin": ["x"]}}, ALL),
    ({"ints": {"$contains": 1}}, "g"),
    ({"ints": {"$contains": 1.0}}, ""),
    ({"ints": {"$contains": True}}, ""),
    ({"ints": {"$gt": 0}}, ""),
    ({"floats": {"$contains": 1.0}}, "g"),
    ({"floats": {"$contains": 1}}, ""),
    ({"flags": {"$contains": True}}, "g"),
    ({"flags": {"$contains": False}}, ""),
    ({"flags": {"$contains": 1}}, ""),
    ({"s": {"$contains": "x"}}, ""),
    ({"s": {"$not_contains": "x"}}, ALL),
    # and, or
    ({"$and": []}, ALL),
    ({"$or": []}, ""),
    ({"$and": [{"i": {"$gt": 0}}]}, "ab"),
    ({"$or": [{"s": "x"}]}, "a"),
    ({"$and": [{"i": {"$gt": 0}}, {"b": True}]}, "a"),
    ({"$and": [{"i": {"$gt": 0}}, {"i": {"$lt": 2}}]}, "a"),
    ({"$or": [{"s": "x"}, {"i": {"$lt": 0}}, {"ghost": 1}]}, "ac"),
    ({"$or": [{"s": "x"}, {"ghost": {"$ne": 1}}]}, ALL),
    ({"$and": [{"$or": [{"s": "x"}, {"s": "y"}]}, {"$or": [{"b": False}, {"f": 9.5}]}]}, "b"),
    ({"$or": [{"$and": [{"s": "x"}, {"b": False}]}, {"$and": [{"s": ""}, {"b": False}]}]}, "d"),
    ({"$and": [{"s": {"$ne": "x"}}, {"words": {"$not_contains": "y"}}]}, "bcdeh"),
    ({"$and": [{"$and": []}, {"s": "x"}]}, "a"),
    ({"$or": [{"$or": []}, {"s": "x"}]}, "a"),
]

INVALID: list[Any] = [
    *({}, [], "s", 1, True),
    *({"s": "x", "i": 1}, {"i": {"$gt": 0, "$lt": 2}}, {"i": {"$foo": 1}}, {"$foo": []}, {"i": {}}, {"i": None}),
    *({"i": {"$eq": None}}, {"i": [1]}, {"i": {"$eq": [1]}}, {"i": {"$eq": {"$gt": 1}}}),
    *({"s": {"$gt": "x"}}, {"b": {"$gte": True}}, {"i": {"$lt": None}}, {"i": {"$lte": [1]}}),
    *({"i": {"$in": []}}, {"i": {"$in": 1}}, {"i": {"$in": [1, "x"]}}, {"i": {"$in": [1, 2.5]}}, {"i": {"$in": [None]}}),
    *({"i": {"$in": [1, True]}}, {"i": {"$nin": []}}, {"i": {"$nin": ["x", 1]}}, {"s": {"$regex": "x"}}),
    *({"$and": {}}, {"$and": {"s": "x"}}, {"$or": "x"}, {"$and": [{}]}, {"$and": ["x"]}, {"$or": [{"i": 1}, {"i": {}}]}),
    # An integer beyond 64 bits is refused only while it fits 64 unsigned bits; a larger one is read as a float.
    *({"i": 2**63}, {"i": {"$gt": 2**63}}, {"words": {"$contains": ["x"]}}, {"words": {"$contains": None}}),
]

# By value across types: the reference truncates the operand to an integer before it compares.
FRACTIONS_AGAINST_INTEGERS: list[tuple[dict[str, Any], str]] = [
    ({"i": 1.5}, ""),
    ({"i": {"$ne": 1.5}}, ALL),
    ({"i": {"$lt": 1.5}}, "acd"),
    ({"i": {"$lte": 0.5}}, "cd"),
    ({"i": {"$gt": -3.5}}, "abcd"),
    ({"i": {"$gte": 1.5}}, "b"),
    ({"i": {"$in": [1.5, 2]}}, "b"),
    ({"i": {"$nin": [1.5]}}, ALL),
]


@pytest.fixture(scope="module")
def zoo(wire: Wire) -> WireCollection:
    collection = wire.create()
    collection.add(
        ids=list(RECORDS), embeddings=[[number] for number in range(len(RECORDS))], metadatas=list(RECORDS.values())
    )
    return collection


@pytest.mark.parametrize(("where", "expected"), TABLE, ids=str)
def test_where_matches(zoo: WireCollection, where: dict[str, Any], expected: str) -> None:
    assert "".join(zoo.ids(where=where)) == expected
    assert "".join(zoo.query([0], where=where, n_results=99, include=[])["ids"][0]) == expected


@pytest.mark.reference_differs
@pytest.mark.parametrize(("where", "expected"), FRACTIONS_AGAINST_INTEGERS, ids=str)
def test_fraction_compares_by_value_with_integers(zoo: WireCollection, where: dict[str, Any], expected: str) -> None:
    assert "".join(zoo.ids(where=where)) == expected


@pytest.mark.parametrize("where", INVALID, ids=str)
@pytest.mark.parametrize(("verb", "body"), [("get", {}), ("query", {"query_embeddings": [[0]]}), ("delete", {})])
def test_bad_where_is_refused(zoo: WireCollection, verb: str, body: dict[str, Any], where: Any) -> None:
    refusal = zoo.post(verb, {**body, "where": where}).refusal
    assert refusal[:2] == (400, "InvalidArgumentError")
    assert refusal[2].startswith("Invalid where clause")


def test_equality_on_the_document_key_is_refused(zoo: WireCollection) -> None:
    message = "Cannot filter using metadata key '#document' with type 'Str' because indexing is disabled"
    assert zoo.post("get", {"where": {"#document": "x"}}).refusal == (400, "InvalidArgumentError", message)


def test_filters_follow_updates_at_once(collection: WireCollection) -> None:
    collection.add(ids=["a", "b"], embeddings=[[1], [2]], metadatas=[{"k": "old", "n": 1}, {"k": "old"}])
    collection.update(ids=["a"], metadatas=[{"k": "new", "n": None}])
    assert collection.ids(where={"k": "old"}) == ["b"]
    assert collection.ids(where={"k": "new"}) == ["a"]
    assert collection.ids(where={"n": 1}) == []
    assert collection.ids(where={"n": {"$ne": 1}}) == ["a", "b"]
    collection.delete(where={"k": "new"})
    assert collection.ids(where={"k": {"$in": ["old", "new"]}}) == ["b"]


def test_client_filters_with_operators(docs: chromadb.Collection) -> None:
    docs.add(
        ids=["a", "b", "c"],
        embeddings=[[1.0], [2.0], [3.0]],
        metadatas=[{"year": 1990, "genre": "drama"}, {"year": 2001, "genre": "comedy"}, {"genre": "drama"}],
    )
    assert docs.get(where={"year": {"$gt": 1995}})["ids"] == ["b"]
    assert docs.get(where={"year": {"$ne": 1990}})["ids"] == ["b", "c"]
    assert docs.get(where={"$and": [{"genre": "drama"}, {"year": {"$lte": 1990}}]})["ids"] == ["a"]
    assert docs.get(where={"genre": {"$in": ["comedy", "horror"]}})["ids"] == ["b"]


def test_bad_where_is_an_invalid_argument_error_in_the_client(docs: chromadb.Collection) -> None:
    with pytest.raises(InvalidArgumentError, match="Invalid where clause"):
        docs.get(where={"year": 2**63})
