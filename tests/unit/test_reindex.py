"""A collection's index is built anew beside the old one, and takes its place at once."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.support.engines import (
    PATH,
    TINY,
    Records,
    UnsyncedFiles,
    compactor_at,
    create_collection,
    engine_at,
    settle,
)
from tests.support.manifests import manifest_of

from chroma_async.engine.engine import Engine
from chroma_async.engine.verify import rebuild
from chroma_async.errors import InvalidArgumentError
from chroma_async.model import Collection
from chroma_async.projections.graph_builds import build_graphs
from chroma_async.projections.heal import heal
from chroma_async.projections.store import CollectionStore
from chroma_async.protocol import FlushCollection, GetCollection, ReindexCollection

pytestmark = pytest.mark.anyio

SETTINGS = replace(TINY, segment_rows_max=400, graph_rows_min=100)
QUERY = np.array([[0.3, -1.0, 0.2, 0.8]], dtype=np.float32)


def expected(vectors: np.ndarray, space: str) -> list[str]:
    query = QUERY[0].astype(np.float64)
    if space == "l2":
        values = ((vectors - query) ** 2).sum(axis=1)
    elif space == "ip":
        values = 1 - vectors @ query
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


async def fill_two_segments(path: Path, vectors: np.ndarray) -> Collection:
    """Store 600 records in two segments with graphs, and delete the last 50."""
    async with engine_at(path, SETTINGS) as engine, compactor_at(path, SETTINGS) as compactor:
        collection = await create_collection(engine)
        records = Records(engine, collection.id)
        await records.add([f"r{row}" for row in range(600)], vectors)
        await settle(compactor)
        await records.delete([f"r{row}" for row in range(550, 600)])
        await settle(compactor)
    return collection


async def test_a_segment_that_is_purged_meanwhile_gets_a_graph_of_the_new_space(tmp_path: Path) -> None:
    """No graph of the new space is published under the old one, and those that were built before are there at the swap."""
    vectors = np.random.default_rng(3).standard_normal((600, 4)).astype(np.float32)
    collection = await fill_two_segments(tmp_path, vectors)
    wanted = msgspec.structs.replace(collection.hnsw, space="ip")
    with closing(CollectionStore(tmp_path / "collections" / collection.id, UnsyncedFiles())) as store:
        first, last = store.manifest.segments
        folder = store.directory / "segments" / str(first.number)
        built = set[Path]()

        def purges() -> bool:
            found = set(folder.glob("*.usearch"))
            if len(found) == 2 and not built:  # the first segment's new graph waits for that of the last one
                built.update(found)
                assert store.purge() == 50
            assert store.manifest.space == "l2"
            return True

        assert build_graphs(store, wanted, rows_min=100, threads=1, is_wanted=purges)
        assert store.manifest.is_built_as(wanted)
        kept, rewritten = store.manifest.segments
        assert kept.graph is not None
        assert folder / kept.graph.file in built
        assert rewritten.number != last.number
        assert rewritten.graph is not None
        assert rewritten.graph.rows == 150
        heal(store)
        assert [segment.graph for segment in store.manifest.segments] == [kept.graph, rewritten.graph]  # both are whole
        assert not build_graphs(store, wanted, rows_min=100, threads=1)
    async with engine_at(tmp_path, SETTINGS) as engine:
        await engine.dispatch(ReindexCollection(**PATH, collection_id=collection.id, space="ip"))
        assert (await Records(engine, collection.id).query(QUERY)).columns[0].ids == expected(vectors[:550], "ip")


async def test_a_reindex_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    vectors = np.random.default_rng(5).standard_normal((600, 4)).astype(np.float32)
    collection = await fill_two_segments(tmp_path, vectors)
    with closing(CollectionStore(tmp_path / "collections" / collection.id, UnsyncedFiles())) as store:
        before, found = store.manifest, set(store.directory.glob("segments/*/*"))

        def is_wanted() -> bool:
            return set(store.directory.glob("segments/*/*")) == found  # until the first segment is done

        assert not build_graphs(
            store, msgspec.structs.replace(collection.hnsw, space="ip"), rows_min=100, threads=1, is_wanted=is_wanted
        )
        assert set(store.directory.glob("segments/*/*")) == found
        assert store.manifest == before


async def test_a_rebuild_makes_graphs_of_the_space_that_counts(tmp_path: Path) -> None:
    """The server was stopped before it built the graphs of a new space."""
    vectors = np.random.default_rng(4).standard_normal((600, 4)).astype(np.float32)
    collection = await fill_two_segments(tmp_path, vectors)
    async with engine_at(tmp_path, SETTINGS) as engine:
        await engine.dispatch(ReindexCollection(**PATH, collection_id=collection.id, space="ip"))
    (done,) = await asyncio.to_thread(rebuild, tmp_path, settings=SETTINGS)
    assert (done.graphs, done.failure) == (2, None)
    manifest = manifest_of(tmp_path, collection.id)
    assert manifest.is_built_as(msgspec.structs.replace(collection.hnsw, space="ip"))
    assert all(segment.graph is not None for segment in manifest.segments)
    async with engine_at(tmp_path, SETTINGS) as engine:
        assert (await Records(engine, collection.id).query(QUERY)).columns[0].ids == expected(vectors[:550], "ip")


async def test_what_is_not_possible_is_refused(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        address = {**PATH, "collection_id": (await create_collection(engine)).id}
        with pytest.raises(InvalidArgumentError, match="nothing to change"):
            await engine.dispatch(ReindexCollection(**address))
        with pytest.raises(InvalidArgumentError, match="i8 is for cosine"):
            await engine.dispatch(ReindexCollection(**address, precision="i8"))
