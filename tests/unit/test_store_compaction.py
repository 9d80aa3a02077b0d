"""What the compactor does to a directory, step by step, and what must be there afterwards."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.clock import ManualClock
from tests.support.engines import (
    TINY,
    Records,
    UnsyncedFiles,
    compactor_at,
    contents,
    create_collection,
    delete_collection,
    engine_at,
    settle,
)
from tests.support.manifests import manifest_of
from tests.support.waiting import SECONDS_MAX, eventually, wait_until

from chroma_async import PersistentClient
from chroma_async.engine.compaction import stores, text_indexes
from chroma_async.engine.compaction.graphs import GRAPH_AGAIN_SECONDS_MIN
from chroma_async.engine.compactor import IDLE_SECONDS, SETTLE_SECONDS, TEXT_PAUSE_SECONDS, Compactor
from chroma_async.engine.engine import open_engine
from chroma_async.engine.lock import FileCompactorLock, MemoryCompactorLock
from chroma_async.engine.verify import verify
from chroma_async.errors import Superseded
from chroma_async.index.hnsw import GraphBuilder
from chroma_async.model import Vectors
from chroma_async.projections.graph_builds import build_graphs
from chroma_async.projections.graphs import GraphOrder, WrittenGraph, write_graph
from chroma_async.projections.store import CollectionStore
from chroma_async.seams import InlineWorkers, Seams, ThreadWorkers
from chroma_async.settings import EngineSettings
from chroma_async.wal import SqliteLog

pytestmark = pytest.mark.anyio


def random_vectors(rows: int, ndim: int = 4, seed: int = 0) -> Vectors:
    return np.random.default_rng(seed).standard_normal((rows, ndim)).astype(np.float32)


def names(rows: int, first: int = 0) -> list[str]:
    return [f"r{number}" for number in range(first, first + rows)]


async def test_collection_whose_records_are_all_deleted_goes_on(tmp_path: Path) -> None:
    """A segment without a live row has nothing to be rewritten to: it goes."""
    settings = EngineSettings(durability="off", segment_rows_max=1_200)
    async with engine_at(tmp_path, settings) as engine, compactor_at(tmp_path, settings) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(names(3_000), random_vectors(3_000))
        await settle(compactor)
        await records.delete(names(3_000))
        await settle(compactor)
        assert await records.count() == 0
        for _ in range(3):
            await settle(compactor)
        segments = tmp_path / "collections" / records.id / "segments"
        assert sum(path.stat().st_size for path in segments.rglob("*.f32")) < 3_000 * 16 / 2
        await records.add(["again"], random_vectors(1))
        await settle(compactor)
        assert list(contents(await records.get())) == ["again"]
        assert (await records.query(random_vectors(1))).columns[0].ids == ["again"]


async def test_what_is_left_of_sealed_segments_does_not_add_up(tmp_path: Path) -> None:
    """Of some segments a record stays, and of others none."""
    settings = EngineSettings(durability="off", segment_rows_max=16, graph_rows_min=100)
    vectors = random_vectors(160)
    left = range(0, 80, 16)
    async with engine_at(tmp_path, settings) as engine, compactor_at(tmp_path, settings) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(names(160), vectors)
        await settle(compactor)
        gone = [f"r{number}" for number in range(160) if number not in left]
        for part in (gone[:60], gone[60:100], gone[100:]):
            await records.delete(part)
            await settle(compactor)
    assert len(list((tmp_path / "collections" / records.id / "segments").iterdir())) == 1
    assert manifest_of(tmp_path, records.id).rows <= 16
    assert verify(tmp_path).is_whole
    async with engine_at(tmp_path, settings) as engine:
        records = Records(engine, records.id)
        assert list(contents(await records.get())) == [f"r{number}" for number in left]
        for number in left:
            assert (await records.query(vectors[number : number + 1])).columns[0].ids[0] == f"r{number}"


async def test_directory_of_a_collection_goes_with_it_even_when_nothing_of_it_waited(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        collection = await create_collection(engine)
        await Records(engine, collection.id).add(names(20), random_vectors(20))
        async with compactor_at(tmp_path) as compactor:
            await settle(compactor)
        directory = tmp_path / "collections" / collection.id
        assert directory.exists()
        async with compactor_at(tmp_path) as compactor:
            await delete_collection(engine)
            await settle(compactor)
            assert not directory.exists()


async def test_log_is_freed_of_a_collection_that_was_deleted_while_nobody_compacted(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        collection = await create_collection(engine)
        await Records(engine, collection.id).add(names(50), random_vectors(50))
        await delete_collection(engine)
        other = await create_collection(engine, "other")
        await Records(engine, other.id).add(names(5), random_vectors(5))
        async with compactor_at(tmp_path) as compactor:
            await settle(compactor)
            await settle(compactor)
        assert await engine.log.oldest() == engine.log.barrier() + 1


async def test_engine_closes_while_graphs_are_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, extend = threading.Event(), GraphBuilder.extend

    def told(*arguments: Any, **options: Any) -> None:
        began.set()
        extend(*arguments, **options)

    monkeypatch.setattr(GraphBuilder, "extend", told)
    settings = EngineSettings(durability="off", graph_rows_min=64, segment_rows_max=4_000, lock_interval_seconds=0.01)
    rows, ndim = 12_000, 256
    async with asyncio.timeout(60):
        async with open_engine(tmp_path, settings) as engine:
            records = Records(engine, (await create_collection(engine)).id)
            await records.add(names(rows), random_vectors(rows, ndim))
            assert await asyncio.to_thread(began.wait, SECONDS_MAX)
        assert any(segment.graph is None for segment in manifest_of(tmp_path, records.id).segments)
        async with engine_at(tmp_path) as engine:
            assert await Records(engine, records.id).count() == rows
        lock = FileCompactorLock(tmp_path)
        assert lock.try_acquire()
        lock.release()


async def test_compactor_that_is_stopped_leaves_no_thread_behind_that_writes(tmp_path: Path) -> None:
    """Its successor may begin at once: whatever runs in a thread must have ended when the lock is given up."""
    seams = Seams(files=UnsyncedFiles())
    async with engine_at(tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(names(2_000), random_vectors(2_000))
        log = await SqliteLog.open(tmp_path, durability="off")
        workers = ThreadWorkers(2, "compactor")
        for milliseconds in (0, 2, 5, 10, 20, 40):
            await records.upsert(names(300), random_vectors(300, seed=milliseconds))
            compactor = Compactor(tmp_path, log, FileCompactorLock(tmp_path), workers, TINY, seams)
            task = asyncio.create_task(compactor.run())
            await asyncio.sleep(milliseconds / 1_000)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            async with compactor_at(tmp_path) as successor:
                await settle(successor)
            expected = random_vectors(300, seed=milliseconds)
            found = contents(await records.get(names(300)))
            np.testing.assert_array_equal([found[name][0] for name in names(300)], expected)
        workers.close()
        await log.close()


async def test_compactor_that_was_superseded_changes_nothing(tmp_path: Path) -> None:
    """It must not find out when it publishes: by then it would have written over files that its successor has published."""
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as successor:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(names(10), random_vectors(10), metadatas=[{"f": 1}] * 10)
        await settle(successor)
        log = await SqliteLog.open(tmp_path, durability="off")
        lock = MemoryCompactorLock([])
        superseded = Compactor(tmp_path, log, lock, InlineWorkers(), TINY, Seams(files=UnsyncedFiles()))
        await superseded.take_over()
        await records.add(names(5, 10), random_vectors(5, seed=1), metadatas=[{"f": 2}] * 5)
        await settle(successor)
        await records.add(names(5, 15), random_vectors(5, seed=2), metadatas=[{"f": 3}] * 5)
        with pytest.raises(Superseded):
            await superseded.step()
        superseded.abandon()
        await log.close()
        expected = np.concatenate([random_vectors(10), random_vectors(5, seed=1), random_vectors(5, seed=2)])
        for _ in range(2):
            async with engine_at(tmp_path) as fresh:
                held = contents(await Records(fresh, records.id).get())
                np.testing.assert_array_equal([values[0] for values in held.values()], expected)
                assert len(contents(await Records(fresh, records.id).get(where={"f": 2}))) == 5
            await settle(successor)


# ---- graphs


def graph_files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.usearch"))


async def test_damaged_graph_is_left_out_and_built_again(tmp_path: Path) -> None:
    vectors = random_vectors(64)
    async with engine_at(tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(names(64), vectors)
        async with compactor_at(tmp_path) as compactor:
            await settle(compactor)
        before = graph_files(tmp_path)
        assert before
    before[0].write_bytes(before[0].read_bytes()[:-8])
    content = bytearray(before[1].read_bytes())
    content[len(content) // 2] ^= 1
    before[1].write_bytes(content)
    before[2].unlink()
    async with engine_at(tmp_path) as engine:
        records = Records(engine, records.id)
        for row in range(0, 64, 7):
            assert (await records.query(vectors[row : row + 1], 1)).columns[0].ids == [f"r{row}"]
        async with compactor_at(tmp_path) as compactor:
            await settle(compactor)
        assert len(graph_files(tmp_path)) == len(before)
        store = CollectionStore(tmp_path / "collections" / records.id, UnsyncedFiles())
        assert all(view.graph is not None for view in store.base().segments)
        store.close()


async def test_graph_that_is_damaged_while_the_compactor_runs_is_not_grown(tmp_path: Path) -> None:
    settings = EngineSettings(durability="off", graph_rows_min=8, segment_rows_max=1_000)
    async with engine_at(tmp_path, settings) as engine, compactor_at(tmp_path, settings) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(names(40), random_vectors(40))
        await settle(compactor)
        (graph,) = graph_files(tmp_path)
        graph.write_bytes(b"\0" * graph.stat().st_size)
        await records.add(names(40, 40), random_vectors(40, seed=1))
        await settle(compactor)
        store = CollectionStore(tmp_path / "collections" / records.id, UnsyncedFiles())
        (segment,) = store.base().segments
        assert segment.graph is not None
        assert segment.graph.rows == 80
        store.close()


async def test_reader_keeps_its_answers_while_what_it_reads_is_replaced(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(names(60), random_vectors(60))
        await settle(compactor)
        reader = engine.follower.sink(records.id)  # type: ignore[arg-type]
        with reader.view() as view:
            slots = view.slots(None, None, "include")
            await records.delete(names(50))
            await settle(compactor)
            await settle(compactor)
            assert [row.id for row in view.rows(slots)] == names(60)
            np.testing.assert_array_equal(view.vectors(slots), random_vectors(60))
        assert await records.count() == 10


def test_journals_are_emptied_when_nothing_is_left_to_do(tmp_path: Path) -> None:
    rows = np.random.default_rng(3).standard_normal((2_000, 64)).astype(np.float32)
    with PersistentClient(tmp_path) as client:
        made = client.create_collection("journals", embedding_function=None)
        for first in range(0, 2_000, 500):
            ids = [str(row) for row in range(first, first + 500)]
            made.add(ids, rows[first : first + 500], documents=["text " * 40] * 500)

        def journals() -> dict[str, int]:
            return {path.name: size for path in tmp_path.rglob("*-wal") if (size := path.stat().st_size)}

        wait_until(lambda: not journals(), 30, tell=journals)
        assert made.count() == 2_000
        made.add(["one more"], rows[:1])
        assert made.count() == 2_001


async def test_a_store_that_was_closed_for_others_is_not_tidied(tmp_path: Path) -> None:
    """Indexing opens stores in a thread of its own, which closes idle ones, while another thread empties journals."""
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
        await Records(engine, (await create_collection(engine)).id).add(names(3), random_vectors(3))
        await settle(compactor)
        (store,) = compactor._stores.opened()
        with ThreadPoolExecutor(1) as pool, store.lock:
            closing = pool.submit(store.close)
            time.sleep(0.05)
            assert not closing.done()  # it would end the process: somebody works with the tables
            store.tidy()
        closing.result()
        store.tidy()


async def test_a_graph_of_a_segment_that_is_rewritten_meanwhile_is_given_up(tmp_path: Path) -> None:
    """Its directory is gone when the graph is to be written: no damage, and the next graph is that of the new segment."""
    settings = EngineSettings(durability="off", graph_rows_min=10**6)
    async with engine_at(tmp_path, settings) as engine, compactor_at(tmp_path, settings) as compactor:
        collection = await create_collection(engine)
        records = Records(engine, collection.id)
        await records.add(names(200), random_vectors(200))
        await settle(compactor)
        await records.delete(names(50))
        await settle(compactor)
    store = CollectionStore(tmp_path / "collections" / collection.id, UnsyncedFiles())
    before = [segment.number for segment in store.manifest.segments]

    def rewrites() -> bool:
        if [segment.number for segment in store.manifest.segments] == before:
            assert store.purge() == 50
        return True

    assert not build_graphs(store, collection.hnsw, rows_min=10, threads=1, is_wanted=rewrites)
    assert [segment.graph for segment in store.manifest.segments] == [None]
    assert build_graphs(store, collection.hnsw, rows_min=10, threads=1)
    graphs = [segment.graph for segment in store.manifest.segments]
    assert [graph and (graph.rows, graph.is_built_as(collection.hnsw)) for graph in graphs] == [(150, True)]
    store.close()


async def test_entries_wait_for_company_only_while_they_are_less_than_a_step(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        for number in range(3):
            await records.add([f"{number}"], random_vectors(1), documents=["x" * TINY.apply_bytes_max])
        assert await compactor.step()
        assert compactor._pause_seconds(busy=True) == 0.0
        await settle(compactor)
        assert compactor._pause_seconds(busy=True) == SETTLE_SECONDS
        assert compactor._pause_seconds(busy=False) == IDLE_SECONDS


async def test_documents_do_not_wait_for_company_to_be_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_indexes, "TEXT_CHUNK_DOCUMENTS", 10)
    pauses: list[float] = []
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(names(35), random_vectors(35), documents=["red"] * 35)
        while await compactor.step():
            pauses.append(compactor._pause_seconds(busy=True))
        assert pauses[0] in (0.0, SETTLE_SECONDS)  # entries were applied
        assert pauses[-3:] == [TEXT_PAUSE_SECONDS] * 3
        await records.add(["more"], random_vectors(1), documents=["blue"])
        assert await compactor.step()
        assert compactor._pause_seconds(busy=True) == SETTLE_SECONDS


async def test_graphs_are_built_after_a_collection_was_deleted_in_the_middle_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, goes_on, extend = threading.Event(), threading.Event(), GraphBuilder.extend

    def slow(*arguments: Any, **options: Any) -> None:
        began.set()
        assert goes_on.wait(20)
        extend(*arguments, **options)

    monkeypatch.setattr(GraphBuilder, "extend", slow)
    settings = EngineSettings(durability="off", graph_rows_min=100)
    async with open_engine(tmp_path, settings) as engine:
        first = await create_collection(engine, "first")
        await Records(engine, first.id).add(names(200), random_vectors(200))
        assert await asyncio.to_thread(began.wait, 20)
        await delete_collection(engine, "first")
        await eventually(lambda: any(task.cancelling() for task in asyncio.all_tasks()))  # it waits for the graph now
        goes_on.set()
        second = await create_collection(engine, "second")
        await Records(engine, second.id).add(names(200), random_vectors(200))
        assert await engine.progress.wait(second.id, engine.position, "indexed", 20) == "indexed"


async def test_a_graph_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After half a minute, then after a whole one: nobody knows whether it ever works."""
    failures = [RuntimeError("for no known reason"), OSError("of no known number")]

    def fails_twice(order: GraphOrder, is_wanted: Callable[[], bool]) -> WrittenGraph | None:
        if failures:
            raise failures.pop()
        return write_graph(order, is_wanted)

    clock, settings = ManualClock(), EngineSettings(durability="off", graph_rows_min=100)
    monkeypatch.setattr(stores, "write_graph", fails_twice)
    async with engine_at(tmp_path, settings) as engine, compactor_at(tmp_path, settings, clock=clock) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(names(200), random_vectors(200))
        await settle(compactor)
        for left, pause in ((1, GRAPH_AGAIN_SECONDS_MIN), (0, 2 * GRAPH_AGAIN_SECONDS_MIN)):
            assert len(failures) == left
            await clock.advance(pause - 1)
            await settle(compactor)
            assert len(failures) == left
            assert manifest_of(tmp_path, records.id).segments[0].graph is None
            await clock.advance(1)
            await settle(compactor)
        assert manifest_of(tmp_path, records.id).segments[0].graph is not None
        assert not compactor._graphs.retries


async def test_graphs_catch_up_when_nothing_has_come_for_a_while(tmp_path: Path) -> None:
    settings = EngineSettings(durability="off", graph_rows_min=400)
    async with engine_at(tmp_path, settings) as engine, compactor_at(tmp_path, settings) as compactor:
        records = Records(engine, (await create_collection(engine)).id)

        def covered() -> int:
            graph = manifest_of(tmp_path, records.id).segments[0].graph
            return 0 if graph is None else graph.rows

        for rows, resting, expected in (
            (399, True, 0),
            (1_600, True, 1_999),
            (300, False, 1_999),
            (1, True, 2_300),
            (61, True, 2_300),
        ):
            await records.add(names(rows, await records.count()), random_vectors(rows))
            await settle(compactor)
            compactor._graphs.rest(resting)
            await compactor.index_now()
            assert covered() == expected
            compactor._graphs.rest(False)


async def test_a_compactor_rests_when_nothing_has_come_for_a_while(tmp_path: Path) -> None:
    settings = EngineSettings(durability="off", graph_rows_min=400, lock_interval_seconds=0.01)
    async with asyncio.timeout(60), open_engine(tmp_path, settings) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        for rows in (2_000, 90):
            await records.add(names(rows, await records.count()), random_vectors(rows))
            assert await engine.progress.wait(records.id, engine.position, "indexed", 30) == "indexed"

        def covered() -> int:
            graph = manifest_of(tmp_path, records.id).segments[0].graph
            return 0 if graph is None else graph.rows

        await eventually(lambda: covered() == 2_090, tell=covered)
