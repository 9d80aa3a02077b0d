"""A collection's index is built anew beside the old one, and takes its place at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.support.engines import PATH, TINY, Records, compactor_at, create_collection, engine_at, settle
from tests.support.manifests import manifest_of

from chroma_async.engine.engine import Engine
from chroma_async.errors import InvalidArgumentError
from chroma_async.protocol import FlushCollection, GetCollection, ReindexCollection

pytestmark = pytest.mark.anyio

SETTINGS = replace(TINY, segment_rows_max=400, graph_rows_min=100)
QUERY = np.array([[0.3, -1.0, 0.2, 0.8]], dtype=np.float32)


def expected(vectors: np.ndarray, space: str) -> list[str]:
    query = QUERY[0].astype(np.float64)
    if space == "l2":
        values = ((vectors - query) ** 2).sum(axis=1)
    else:
        values = 1 - vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    return [f"r{row}" for row in np.argsort(values, kind="stable")[:10]]


async def reached(engine: Engine, collection_id: str) -> str:
    call = FlushCollection(**PATH, collection_id=collection_id, wait="indexed", wait_seconds=0)
    return (await engine.dispatch(call)).reached


async def test_a_new_space_counts_from_the_swap_on(tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).standard_normal((1000, 4)).astype(np.float32)
    assert expected(vectors, "l2") != expected(vectors, "cosine")
    async with engine_at(tmp_path, SETTINGS) as engine, compactor_at(tmp_path, SETTINGS) as compactor:
        collection = await create_collection(engine)
        records = Records(engine, collection.id)
        await records.add([f"r{row}" for row in range(900)], vectors[:900])
        await settle(compactor)
        await records.add([f"r{row}" for row in range(900, 1000)], vectors[900:])
        call = ReindexCollection(**PATH, collection_id=collection.id, space="cosine", max_neighbors=8, precision="f32")
        await engine.dispatch(call)
        assert (await engine.dispatch(GetCollection(**PATH, name="things"))).hnsw.space == "cosine"
        assert (await records.query(QUERY)).columns[0].ids == expected(vectors, "l2")
        assert await reached(engine, collection.id) == "committed"
        while await compactor.step():
            assert (await records.query(QUERY)).columns[0].ids in (expected(vectors, "l2"), expected(vectors, "cosine"))
        await compactor.index_now()
        assert (await records.query(QUERY)).columns[0].ids == expected(vectors, "cosine")
        assert await reached(engine, collection.id) == "indexed"
        manifest = manifest_of(tmp_path, collection.id)
        graphs = [segment.graph for segment in manifest.segments]
        assert manifest.space == "cosine"
        assert [graph and (graph.rows, graph.max_neighbors, graph.precision) for graph in graphs] == [
            (400, 8, "f32"),
            (400, 8, "f32"),
            (200, 8, "f32"),
        ]


async def test_queries_go_on_while_graphs_are_built(tmp_path: Path) -> None:
    vectors = np.random.default_rng(2).standard_normal((1600, 4)).astype(np.float32)
    async with engine_at(tmp_path, SETTINGS) as engine, compactor_at(tmp_path, SETTINGS) as compactor:
        collection = await create_collection(engine)
        records = Records(engine, collection.id)
        await records.add([f"r{row}" for row in range(1600)], vectors)
        await settle(compactor)
        await engine.dispatch(ReindexCollection(**PATH, collection_id=collection.id, ef_construction=400))
        await compactor.step()
        building = asyncio.create_task(compactor.index_now())
        asked = 0
        while not building.done() or not asked:
            assert (await records.query(QUERY)).columns[0].ids == expected(vectors, "l2")
            asked += 1
        await building
        assert {
            segment.graph and segment.graph.ef_construction for segment in manifest_of(tmp_path, collection.id).segments
        } == {400}
        assert (await records.query(QUERY)).columns[0].ids == expected(vectors, "l2")


async def test_what_is_not_possible_is_refused(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        address = {**PATH, "collection_id": (await create_collection(engine)).id}
        with pytest.raises(InvalidArgumentError, match="nothing to change"):
            await engine.dispatch(ReindexCollection(**address))
        with pytest.raises(InvalidArgumentError, match="i8 is for cosine"):
            await engine.dispatch(ReindexCollection(**address, precision="i8"))
