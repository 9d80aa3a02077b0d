"""Records that are not applied yet are compared where they are: the outcome is that of an exact scan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chroma_async import Collection, PersistentClient
from chroma_async.engine.search import TAIL_QUERIES

ROWS, NDIM = 2_000, 8
RANDOM = np.random.default_rng(5)
VECTORS = RANDOM.standard_normal((ROWS, NDIM)).astype(np.float32)
QUERIES = RANDOM.standard_normal((TAIL_QUERIES + 7, NDIM)).astype(np.float32)
DELETED = range(0, ROWS, 3)


@pytest.fixture(params=["cosine", "l2", "ip"])
def collection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Collection]:
    with PersistentClient(tmp_path, compact=False) as client:
        made = client.create_collection("tail", configuration={"hnsw": {"space": request.param}}, embedding_function=None)
        made.add([str(row) for row in range(ROWS)], VECTORS, metadatas=[{"n": row} for row in range(ROWS)])
        made.delete([str(row) for row in DELETED])
        yield made


def exact(space: str, query: np.ndarray, rows: np.ndarray) -> list[str]:
    """Ids of the ten nearest of these rows, nearest first."""
    vectors, query = VECTORS[rows].astype(np.float64), query.astype(np.float64)
    match space:
        case "l2":
            distances = ((vectors - query) ** 2).sum(axis=1)
        case "ip":
            distances = 1 - vectors @ query
        case _:
            distances = 1 - vectors @ query / np.linalg.norm(vectors, axis=1)
    return [str(row) for row in rows[np.argsort(distances)[:10]]]


@pytest.mark.parametrize("least", [0, ROWS // 2, ROWS - 60, ROWS - 5], ids=lambda least: f"from-{least}")
def test_a_batch_of_queries_finds_the_nearest_of_a_large_tail(collection: Collection, least: int) -> None:
    found: Any = collection.query(query_embeddings=QUERIES, n_results=10, where={"n": {"$gte": least}})
    rows = np.asarray([row for row in range(least, ROWS) if row not in DELETED])
    space = collection.configuration_json["hnsw"]["space"]
    assert found["ids"] == [exact(space, query, rows) for query in QUERIES]


def test_distances_that_overflow_hide_no_record_of_the_tail(collection: Collection) -> None:
    collection.upsert(["huge"], np.full((1, NDIM), 3e38, dtype=np.float32))
    live = ROWS - len(DELETED) + 1
    found = collection.query(query_embeddings=QUERIES[:1], n_results=live)
    assert sorted(found["ids"][0]) == sorted(collection.get(include=[])["ids"])
