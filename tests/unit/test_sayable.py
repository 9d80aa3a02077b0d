"""What can't be sent is refused before that, with its place, whichever way the client asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chroma_async import HnswIndexConfig, PersistentClient, Schema, VectorIndexConfig
from chroma_async.client._sync.collection import Collection
from chroma_async.client.filters import checked_where, checked_where_document
from chroma_async.core.where import DEPTH_MAX
from chroma_async.errors import InvalidArgumentError
from chroma_async.protocol import CreateCollection


@pytest.fixture
def films(tmp_path: Path) -> Iterator[Collection]:
    with PersistentClient(tmp_path) as client:
        films = client.create_collection("films", embedding_function=None)
        films.add(["a"], [[1.0, 2.0]], [{"year": 1999}])
        yield films


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64, 2**70])
@pytest.mark.parametrize(
    "work",
    [
        lambda films, number: films.upsert(["a"], [[1.0, 2.0]], [{"year": number}]),
        lambda films, number: films.upsert(["a"], [[1.0, 2.0]], [{"years": [1, number]}]),
        lambda films, number: films.modify(metadata={"year": number}),
        lambda films, number: films.get(where={"year": number}),
        lambda films, number: films.get(where={"year": {"$in": [number]}}),
        lambda films, number: films.query([[1.0, 2.0]], where={"year": {"$lt": number}}),
    ],
)
def test_whole_numbers_must_fit_into_64_bits(films: Collection, work: Callable[[Collection, int], Any], number: int) -> None:
    with pytest.raises(ValueError, match=r"year.*64 bits.*got=-?\d+"):
        work(films, number)
    assert films.get()["metadatas"] == [{"year": 1999}]


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), True])
def test_all_others_are_stored(films: Collection, number: int) -> None:
    films.upsert(["a"], [[1.0, 2.0]], [{"year": number}])
    assert films.get(where={"year": number})["metadatas"] == [{"year": number}]


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan, 1e39, 3.5e38])
def test_queries_are_finite(films: Collection, number: float) -> None:
    with pytest.raises(ValueError, match=r"query_embeddings\[1\]\[0\] must be a finite number of float32"):
        films.query([[1.0, 2.0], [number, 2.0]])


def nested(levels: int, leaf: dict[str, Any]) -> dict[str, Any]:
    return leaf if not levels else {"$and": [nested(levels - 1, leaf)]}


@pytest.mark.parametrize(
    ("check", "leaf"), [(checked_where, {"year": 1999}), (checked_where_document, {"$contains": "sea"})]
)
def test_filters_are_no_deeper_than_the_engine_takes_them(check: Callable[[Any], Any], leaf: dict[str, Any]) -> None:
    deepest = nested(DEPTH_MAX, leaf)
    assert check(deepest) == deepest
    cyclic: dict[str, Any] = {"$or": []}
    cyclic["$or"].append(cyclic)
    for filter_ in (nested(DEPTH_MAX + 1, leaf), nested(500, leaf), cyclic):
        with pytest.raises(ValueError, match=f"nested deeper than {DEPTH_MAX} levels"):
            check(filter_)


def test_the_deepest_filter_is_answered(films: Collection) -> None:
    assert films.get(where=nested(DEPTH_MAX, {"year": 1999}))["ids"] == ["a"]


def test_a_field_is_a_valid_text() -> None:
    with pytest.raises(ValueError, match="the key of where is not a valid text: surrogates not allowed at character 1"):
        checked_where({"k\ud800": 1})


@pytest.mark.parametrize("value", [2**70, "l2\ud800", object()])
def test_what_json_can_not_say_is_no_request(value: object) -> None:
    call = CreateCollection(tenant="t", database="d", name="films", schema={"keys": value})
    with pytest.raises(InvalidArgumentError, match=r"an argument can't be said in JSON: .* arguments=.*schema"):
        call.encode()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"configuration": {"hnsw": {"ef_search": 2**70}}}, "can't be said in JSON.*arguments=.*configuration"),
        ({"configuration": {"hnsw": {"space": "l2\ud800"}}}, "the configuration has a text that is none"),
        ({"schema": {"defaults": {}, "keys": {"a\ud800": {}}}}, "can't be said in JSON.*arguments=.*schema"),
    ],
)
def test_what_json_can_not_say_is_no_collection(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with PersistentClient(tmp_path) as client:
        with pytest.raises((InvalidArgumentError, ValueError), match=message):
            client.create_collection("films", embedding_function=None, **arguments)
        assert client.list_collections() == []


def test_a_configuration_that_json_can_not_say_changes_nothing(films: Collection) -> None:
    with pytest.raises(InvalidArgumentError, match="can't be said in JSON"):
        films.modify(configuration={"hnsw": {"ef_search": 2**70}})


@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_a_configuration_is_finite(tmp_path: Path, number: float) -> None:
    """JSON would have null for it, which nobody could read any more."""
    given = {"hnsw": {"resize_factor": float(number)}}
    with PersistentClient(tmp_path) as client:
        kept = client.create_collection("kept", embedding_function=None)
        with pytest.raises(InvalidArgumentError, match=r"configuration.hnsw.resize_factor must be a finite number"):
            client.create_collection("films", embedding_function=None, configuration=given)
        schema = Schema().create_index(VectorIndexConfig(hnsw=HnswIndexConfig(resize_factor=float(number))))
        with pytest.raises(InvalidArgumentError, match=r"schema\..*resize_factor must be a finite number"):
            client.create_collection("films", embedding_function=None, schema=schema)
        with pytest.raises(InvalidArgumentError, match=r"new_configuration.hnsw.resize_factor must be a finite number"):
            kept.modify(configuration=given)
    with PersistentClient(tmp_path) as client:
        assert [collection.name for collection in client.list_collections()] == ["kept"]
    call = CreateCollection(tenant="t", database="d", name="films", schema={"keys": [{"factor": number}]})
    with pytest.raises(InvalidArgumentError, match=r"schema.keys\[0\].factor must be a finite number"):
        call.encode()
