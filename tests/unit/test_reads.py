"""Where reads run: brief ones on the event loop, those that wait or take long in threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.support.engines import TINY, Records, compactor_at, create_collection, engine_at, settle
from tests.support.waiting import soon

from chroma_async.core.where import DocumentTest, Missing
from chroma_async.engine.collection import FOLD_AT_HAND_BYTES, CollectionReader
from chroma_async.engine.compactor import Compactor
from chroma_async.engine.read_view import RECORDS_AT_HAND_MAX, NotAtHand, View
from chroma_async.engine.reads import Kind, PacedRunner
from chroma_async.model import Mask
from chroma_async.seams import ThreadWorkers

pytestmark = pytest.mark.anyio

VECTORS = np.eye(2, 3, dtype=np.float32)


@pytest.fixture
def workers() -> Iterator[ThreadWorkers]:
    threads = ThreadWorkers(1, "test")
    yield threads
    threads.close()


async def where_it_ran(runner: PacedRunner, seconds: float = 0.0, kind: Kind | None = "query", count: int = 1) -> str:
    def read(at_hand: bool) -> str:
        time.sleep(seconds)
        return "loop" if threading.current_thread() is threading.main_thread() else "thread"

    return await runner.run(read, kind, count)


async def test_a_read_with_many_filters_ends_when_its_caller_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests, began = 0, threading.Event()

    def test_document(view: View, test: DocumentTest, missing: Missing) -> Mask:
        nonlocal tests
        tests += 1
        began.set()
        time.sleep(0.005)
        return view.image.alive.copy()

    monkeypatch.setattr(View, "_test_document", test_document)
    filters = {"$and": [{"$not_contains": f"word {number}"} for number in range(2_000)]}
    async with engine_at(tmp_path, replace(TINY, brief_seconds=0.0, reader_threads=1)) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(["a"], VECTORS[:1], documents=["text"])
        for ask in (lambda: records.get(where_document=filters), lambda: records.query(VECTORS[:1], where_document=filters)):
            tests = 0
            began.clear()
            task = asyncio.create_task(ask())
            assert await asyncio.to_thread(began.wait, 30)
            task.cancel()
            await asyncio.wait({task})
            assert await soon(records.count()) == 1  # by the thread that read for the one who has gone
            assert tests < 1_000


async def test_a_kind_of_read_moves_to_threads_while_it_takes_long_and_back(workers: ThreadWorkers) -> None:
    runner = PacedRunner(workers, brief_seconds=0.02)
    assert await where_it_ran(runner) == "loop"
    assert await where_it_ran(runner, 0.2) == "loop"  # nobody knew
    assert await where_it_ran(runner, 0.2) == "thread"
    assert await where_it_ran(runner, kind="get") == "loop"
    for _ in range(20):
        await where_it_ran(runner)
    assert await where_it_ran(runner) == "loop"


async def test_a_large_batch_of_brief_reads_is_long(workers: ThreadWorkers) -> None:
    runner = PacedRunner(workers, brief_seconds=0.05)
    assert await where_it_ran(runner, 0.01) == "loop"
    assert await where_it_ran(runner, 0.01, count=64) == "thread"


async def test_reads_known_to_be_long_and_all_reads_of_an_embedded_client_run_in_threads(workers: ThreadWorkers) -> None:
    assert await where_it_ran(PacedRunner(workers, brief_seconds=1.0), kind=None) == "thread"
    assert await where_it_ran(PacedRunner(workers, brief_seconds=0.0)) == "thread"


async def test_a_read_that_would_wait_starts_again_in_a_thread(workers: ThreadWorkers) -> None:
    runs: list[bool] = []

    def read(at_hand: bool) -> str:
        runs.append(at_hand)
        if at_hand:
            raise NotAtHand
        return threading.current_thread().name

    assert (await PacedRunner(workers, brief_seconds=1.0).run(read, "get")).startswith("test")
    assert runs == [True, False]


async def test_an_error_of_a_brief_read_is_the_callers(workers: ThreadWorkers) -> None:
    def read(at_hand: bool) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await PacedRunner(workers, brief_seconds=1.0).run(read, "get")


@asynccontextmanager
async def reader_with_a_base(path: Path) -> AsyncIterator[tuple[CollectionReader, Records, Compactor]]:
    async with engine_at(path) as engine, compactor_at(path) as compactor:
        collection = await create_collection(engine)
        records = Records(engine, collection.id)
        await records.add(["a", "b"], VECTORS, documents=["one", "two"])
        await settle(compactor)
        reader = engine.follower.sink(collection.id)
        with reader.view():
            pass
        yield reader, records, compactor


async def test_a_view_at_hand_folds_few_entries_only(tmp_path: Path) -> None:
    async with reader_with_a_base(tmp_path) as (reader, records, _):
        await records.upsert(["a"], VECTORS[:1], documents=["small"])
        with reader.view(at_hand=True) as view:
            assert [row.document for row in view.rows(view.slots_of(["a"]))] == ["small"]
        await records.upsert(["a"], VECTORS[:1], documents=["x" * 2 * FOLD_AT_HAND_BYTES])
        with pytest.raises(NotAtHand), reader.view(at_hand=True):
            pass
        with reader.view():
            pass
        with reader.view(at_hand=True) as view:  # folded by now
            assert view.image.live == 2


async def test_a_view_at_hand_opens_no_files(tmp_path: Path) -> None:
    async with reader_with_a_base(tmp_path) as (reader, records, compactor):
        await records.upsert(["a"], VECTORS[:1])
        with reader.view(at_hand=True) as view:
            assert view.image.base.live == 2
        before = view.image.base
        await settle(compactor)
        with reader.view(at_hand=True) as view:  # of the base that is open: with the tail it holds the same
            assert view.image.base is before
            assert view.image.live == 2
        assert reader.is_behind
        with pytest.raises(NotAtHand), reader.view(at_hand=True, newest=True):
            pass
        reader.refresh()
        assert not reader.is_behind
        with reader.view(at_hand=True, newest=True) as view:
            assert view.image.base.manifest.applied == view.image.through


async def test_a_view_at_hand_waits_for_no_lock_and_no_connection(tmp_path: Path) -> None:
    async with reader_with_a_base(tmp_path) as (reader, _, _):
        with reader._lock, pytest.raises(NotAtHand), reader.view(at_hand=True):
            pass
        with reader.view(at_hand=True), pytest.raises(NotAtHand), reader.view(at_hand=True):
            pass
        with reader.view(at_hand=True):
            pass


async def test_a_view_at_hand_reads_few_records(tmp_path: Path) -> None:
    async with reader_with_a_base(tmp_path) as (reader, _, _):
        with reader.view(at_hand=True) as view:
            view.expect(RECORDS_AT_HAND_MAX)
            with pytest.raises(NotAtHand):
                view.expect(RECORDS_AT_HAND_MAX + 1)
        with reader.view() as view:
            view.expect(10**9)


async def test_many_records_and_searches_through_all_documents_are_answered_from_threads(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
        collection = await create_collection(engine)
        records = Records(engine, collection.id)
        count = RECORDS_AT_HAND_MAX + 1
        vectors = np.ones((count, 3), dtype=np.float32)
        await records.add([str(row) for row in range(count)], vectors, documents=[f"text {row}" for row in range(count)])
        await settle(compactor)
        for _ in range(2):  # at hand from the second on
            assert len((await records.get()).columns.ids) == count
            assert len((await records.get(where_document={"$regex": "t 1.$"})).columns.ids) == 10
            assert len((await records.get(where_document={"$contains": "25"})).columns.ids) == 10
