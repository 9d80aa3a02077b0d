"""`Schema` says what Chroma's says, and the engine understands it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import chromadb
import pytest

import chroma_async
from chroma_async import errors

Recipe = Callable[[Any], Any]

RECIPES: dict[str, Recipe] = {
    "space": lambda m: m.Schema().create_index(m.VectorIndexConfig(space="cosine")),
    "no function": lambda m: m.Schema().create_index(config=m.VectorIndexConfig(space="ip", embedding_function=None)),
    "hnsw": lambda m: m.Schema().create_index(m.VectorIndexConfig(hnsw=m.HnswIndexConfig(ef_search=7, max_neighbors=8))),
    "strings off": lambda m: m.Schema().delete_index(m.StringInvertedIndexConfig()),
    "ints off for a key": lambda m: m.Schema().delete_index(config=m.IntInvertedIndexConfig(), key="n"),
    "floats and booleans off for a key": lambda m: (
        m.Schema().delete_index(m.FloatInvertedIndexConfig(), "n").delete_index(m.BoolInvertedIndexConfig(), "n")
    ),
    "off for all, on for a key": lambda m: (
        m.Schema().delete_index(m.StringInvertedIndexConfig()).create_index(m.StringInvertedIndexConfig(), key="title")
    ),
    "no full text": lambda m: m.Schema().delete_index(m.FtsIndexConfig(), key="#document"),
    "full text": lambda m: m.Schema().create_index(m.FtsIndexConfig(), key="#document"),
}
REFUSED: dict[str, Recipe] = {
    "create nothing": lambda m: m.Schema().create_index(),
    "create all of a key": lambda m: m.Schema().create_index(key="n"),
    "delete nothing": lambda m: m.Schema().delete_index(),
    "delete all of a key": lambda m: m.Schema().delete_index(key="n"),
    "vector index of a key": lambda m: m.Schema().create_index(m.VectorIndexConfig(), key="n"),
    "delete the vector index": lambda m: m.Schema().delete_index(m.VectorIndexConfig()),
    "delete a sparse index": lambda m: m.Schema().delete_index(m.SparseVectorIndexConfig(), key="n"),
    "full text everywhere": lambda m: m.Schema().create_index(m.FtsIndexConfig()),
    "full text of a key": lambda m: m.Schema().delete_index(m.FtsIndexConfig(), key="n"),
    "strings of documents": lambda m: m.Schema().create_index(m.StringInvertedIndexConfig(), key="#document"),
    "a key of the system": lambda m: m.Schema().create_index(m.StringInvertedIndexConfig(), key="#other"),
    "sparse without a key": lambda m: m.Schema().create_index(m.SparseVectorIndexConfig()),
    "sparse twice": lambda m: (
        m.Schema().create_index(m.SparseVectorIndexConfig(), "a").create_index(m.SparseVectorIndexConfig(), "b")
    ),
    "sparse of a source without a function": lambda m: m.Schema().create_index(
        m.SparseVectorIndexConfig(source_key="#document"), "a"
    ),
}


def shown(schema: Any, name: str) -> dict[str, Any]:
    with chroma_async.EphemeralClient() as client:
        described: dict[str, Any] = client.create_collection(name, schema=schema, embedding_function=None).schema
    return described


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_a_schema_means_to_the_engine_what_chromas_means(recipe: Recipe) -> None:
    mine, original = recipe(chroma_async), recipe(chromadb)
    assert shown(mine, "mine") == shown(original, "original")


@pytest.mark.parametrize("module", [chroma_async, chromadb])
@pytest.mark.parametrize("recipe", REFUSED.values(), ids=list(REFUSED))
def test_an_index_where_there_can_be_none_is_refused(recipe: Recipe, module: ModuleType) -> None:
    with pytest.raises(ValueError):
        recipe(module)


def test_what_a_schema_leaves_out_of_the_index_can_not_be_filtered() -> None:
    schema = chroma_async.Schema().delete_index(chroma_async.StringInvertedIndexConfig(), key="title")
    with chroma_async.EphemeralClient() as client:
        collection = client.create_collection("films", schema=schema, embedding_function=None)
        collection.add(["1"], [[1.0]], metadatas=[{"title": "Alien", "genre": "horror"}])
        assert collection.get(where={"genre": "horror"})["ids"] == ["1"]
        with pytest.raises(errors.InvalidArgumentError, match="title"):
            collection.get(where={"title": "Alien"})


def test_a_schema_survives_its_json_form() -> None:
    schema = chroma_async.Schema().create_index(chroma_async.VectorIndexConfig(space="ip"))
    again = chroma_async.Schema.deserialize_from_json(schema.serialize_to_json())
    assert again == schema
    assert again.delete_index(chroma_async.IntInvertedIndexConfig()) != schema
