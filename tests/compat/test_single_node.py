"""What Chroma's single node refuses: said in the same words, after the request itself was checked."""

from __future__ import annotations

from typing import Any

import pytest
from tests.compat.wire import WireCollection

KNN = {"$knn": {"query": [1.0], "key": "#embedding", "limit": 10}}


@pytest.mark.parametrize(
    "searches",
    [
        [],
        [{}],
        [{"filter": {"a": 1}, "rank": KNN, "limit": {"offset": 0, "limit": 3}, "select": {"keys": ["#score"]}}],
        [
            {
                "filter": {"#id": {"$in": ["x"]}},
                "rank": {"$div": {"left": {"$val": 1}, "right": {"$sum": [{"$val": 2}, KNN]}}},
            }
        ],
        [{"rank": KNN, "group_by": {"keys": ["a"], "aggregate": {"$min_k": {"keys": ["#score"], "k": 1}}}}],
    ],
    ids=str,
)
def test_search_is_refused_as_not_implemented(collection: WireCollection, searches: Any) -> None:
    message = "Error executing plan: Not implemented: Search operation is not implemented for local executor"
    assert collection.post("search", {"searches": searches}).refusal == (501, "ChromaError", message)


@pytest.mark.parametrize(
    ("body", "fragment"),
    [
        ({}, "missing field `searches`"),
        ({"searches": 1}, "searches: invalid type: integer `1`, expected a sequence"),
        ({"searches": [1]}, "searches[0]: invalid type: integer `1`"),
        ({"searches": [{"filter": {"a": {"$foo": 1}}}]}, "searches[0].filter: Invalid where clause"),
        ({"searches": [{"rank": {"$foo": 1}}]}, "searches[0].rank: unknown variant `$foo`, expected one of `$abs`"),
        ({"searches": [{"rank": {"$val": "x"}}]}, 'searches[0].rank.$val: invalid type: string "x", expected f32'),
        ({"searches": [{"rank": {"$knn": {"query": "text"}}}]}, "searches[0].rank.$knn.query: "),
        ({"searches": [{"limit": {"limit": -1}}]}, "searches[0].limit.limit: invalid value: integer `-1`, expected u32"),
        ({"searches": [{"select": {"keys": "x"}}]}, "searches[0].select.keys: invalid type: string"),
        ({"searches": [{}], "read_level": "x"}, "read_level: unknown variant `x`, expected one of `index_and_wal`"),
    ],
    ids=str,
)
def test_bad_search_is_unprocessable(collection: WireCollection, body: Any, fragment: str) -> None:
    status, error, message = collection.post("search", body).refusal
    assert (status, error) == (422, "ChromaError")
    assert fragment in message


def test_groups_need_a_rank(collection: WireCollection) -> None:
    groups = {"keys": ["a"], "aggregate": {"$min_k": {"keys": ["b"], "k": 1}}}
    refusal = collection.post("search", {"searches": [{"group_by": groups}]}).refusal
    message = "Validation error: searches[0].__all__: group_by requires rank expression to be specified"
    assert refusal == (400, "InvalidArgumentError", message)


def test_forks_are_refused(collection: WireCollection) -> None:
    refusal = collection.post("fork", {"new_name": "abc"}).refusal
    assert refusal == (501, "ChromaError", "Collection forking is unsupported for local chroma")
    assert collection.post("fork", {}).refusal[0] == 422
    counted = collection.wire.call("GET", collection.path + "/fork_count").refusal
    assert counted == (501, "ChromaError", "Count forks is unsupported for local chroma")
    assert collection.wire.call("GET", collection.path.replace(collection.id, "bad") + "/fork_count").status == 400


def test_functions_are_refused(collection: WireCollection) -> None:
    missing = collection.wire.call("GET", collection.path + "/functions/f").refusal
    assert missing == (404, "NotFoundError", "Attached function not found")
    body = {"name": "a", "function_id": "b", "output_collection": "c"}
    assert collection.post("functions/attach", body).refusal[:2] == (501, "ChromaError")
    assert collection.post("functions/attach", {}).refusal[0] == 422
    assert collection.post("attached_functions/f/detach", {"delete_output": True}).refusal[:2] == (501, "ChromaError")
    assert collection.post("attached_functions/f/detach", {}).refusal[:2] == (501, "ChromaError")
