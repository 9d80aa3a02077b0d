"""`purge`: no file holds a byte of what was deleted or replaced, and all that is there is as before."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tests.support.clock import ManualClock
from tests.support.engines import (
    PATH,
    TINY,
    Records,
    compactor_at,
    create_collection,
    delete_collection,
    engine_at,
    settle,
)
from tests.support.manifests import manifest_of
from tests.support.waiting import soon

from chroma_async import PersistentClient
from chroma_async.cli.commands import app
from chroma_async.engine import open_engine
from chroma_async.engine.compaction.purges import PURGE_AGAIN_SECONDS_MAX
from chroma_async.engine.engine import Engine
from chroma_async.engine.progress import LOOK_SECONDS
from chroma_async.engine.purge import purge
from chroma_async.engine.verify import verify
from chroma_async.errors import FormatError, UnavailableError
from chroma_async.protocol import PurgeCollection
from chroma_async.protocol.results import PurgeResult
from chroma_async.wal import LOG_FILE, SqliteLog

pytestmark = pytest.mark.anyio

NDIM = 8
COUNT = 60
RANDOM = np.random.default_rng(3)
KEPT = range(0, COUNT, 3)
DELETED = range(1, COUNT, 3)
REPLACED = range(2, COUNT, 3)


def vectors(count: int) -> np.ndarray:
    return RANDOM.standard_normal((count, NDIM)).astype(np.float32)


def found_in(directory: Path, needle: bytes) -> list[str]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [str(path.relative_to(directory)) for path in files if needle in path.read_bytes()]


class Filled:
    """A directory with records, some of them deleted or replaced, some of it applied and some not, and what is gone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first, self.second, self.other = vectors(COUNT), vectors(len(REPLACED)), vectors(COUNT)
        self.traces: dict[str, list[bytes]] = {
            "documents": [f"document of {word} {number}".encode() for word, number in self._gone()],
            "metadata": [f"metadata of {word} {number}".encode() for word, number in self._gone()],
            "ids": [f"{word}-{number}-id".encode() for word, number in [*self._deleted(), *self._other()]],
            "vectors": [row.tobytes() for row in (*self.first[list(DELETED)], *self.first[list(REPLACED)], *self.other)],
        }

    def _deleted(self) -> list[tuple[str, str]]:
        return [("first", f"{number:03}") for number in DELETED]

    def _replaced(self) -> list[tuple[str, str]]:
        return [("first", f"{number:03}") for number in REPLACED]

    def _other(self) -> list[tuple[str, str]]:
        return [("other", f"{number:03}") for number in range(COUNT)]

    def _gone(self) -> list[tuple[str, str]]:
        return [*self._deleted(), *self._replaced(), *self._other()]

    async def fill(self) -> None:
        async with engine_at(self.path) as engine, compactor_at(self.path) as compactor:
            records = Records(engine, (await create_collection(engine)).id)
            other = Records(engine, (await create_collection(engine, "other")).id)
            everything = range(COUNT)
            await records.add(self.ids("first", everything), self.first, **self.columns("first", everything))
            await other.add(self.ids("other", everything), self.other, **self.columns("other", everything))
            await settle(compactor)
            await records.delete(self.ids("first", DELETED[: len(DELETED) // 2]))
            await settle(compactor)
            await records.upsert(self.ids("first", REPLACED), self.second, **self.columns("second", REPLACED))
            await records.delete(self.ids("first", DELETED[len(DELETED) // 2 :]))
            await delete_collection(engine, "other")

    def ids(self, word: str, numbers: range) -> list[str]:
        return [f"{word}-{number:03}-id" for number in numbers]

    def columns(self, word: str, numbers: range) -> dict[str, list[object]]:
        return {
            "documents": [f"document of {word} {number:03}" for number in numbers],
            "metadatas": [{"tag": f"metadata of {word} {number:03}"} for number in numbers],
        }

    async def contents(self) -> object:
        async with engine_at(self.path) as engine:
            collection = next(iter(engine.follower.catalog.collection_ids()))
            result = await Records(engine, collection).get()
            columns = result.columns
            assert columns.embeddings is not None
            nearest = await Records(engine, collection).query(self.second[:5], n_results=7)
            found = await Records(engine, collection).get(where_document={"$contains": "second"})
            return (
                columns.ids,
                columns.documents,
                columns.metadatas,
                columns.embeddings.tolist(),
                [part.ids for part in nearest.columns],
                found.columns.ids,
            )


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    made = Filled(tmp_path / "data")
    asyncio.run(made.fill())
    return made


@pytest.mark.parametrize("kind", ["documents", "metadata", "ids", "vectors"])
def test_no_file_holds_what_was_deleted_or_replaced(filled: Filled, kind: str) -> None:
    before = [trace for trace in filled.traces[kind] if found_in(filled.path, trace)]
    assert len(before) > len(filled.traces[kind]) // 2  # there is something to purge
    asyncio.run(purge(filled.path, settings=TINY))
    assert {trace: files for trace in filled.traces[kind] if (files := found_in(filled.path, trace))} == {}


def test_what_is_there_is_as_before(filled: Filled) -> None:
    before = asyncio.run(filled.contents())
    receipt = asyncio.run(purge(filled.path, settings=TINY))
    assert asyncio.run(filled.contents()) == before
    (collection,) = receipt.collections
    assert collection.name == "things"
    assert collection.records == len(KEPT) + len(REPLACED)
    assert collection.dropped_vectors > 0
    assert collection.applied <= receipt.lsn
    again = asyncio.run(purge(filled.path, settings=TINY))
    assert again.collections[0].dropped_vectors == 0


def test_command_prints_a_receipt(filled: Filled) -> None:
    result = CliRunner().invoke(app, ["purge", str(filled.path), "--json"])
    assert result.exit_code == 0
    assert [item["name"] for item in json.loads(result.output)["collections"]] == ["things"]
    assert "things: records=40 dropped_vectors=0" in CliRunner().invoke(app, ["purge", str(filled.path)]).output


def test_purge_refuses_names_that_are_not_there(filled: Filled) -> None:
    with pytest.raises(FormatError, match="no collection of that name"):
        asyncio.run(purge(filled.path, ["nothing"]))


async def test_a_directory_that_is_compacted_is_purged_by_who_compacts_it(filled: Filled) -> None:
    """Beside reads and writes: what is written meanwhile stays, what is deleted meanwhile is of the next purge."""
    before = await filled.contents()
    async with open_engine(filled.path, TINY) as engine:
        (collection_id,) = engine.follower.catalog.collection_ids()
        records, stop = Records(engine, collection_id), asyncio.Event()

        async def read() -> int:
            count = 0
            while not stop.is_set():
                result = await records.query(filled.second[:3], n_results=5)
                assert result.columns[0].ids[0] == filled.ids("first", REPLACED)[0]
                count += 1
                await asyncio.sleep(0)
            return count

        readers = [asyncio.create_task(read()) for _ in range(4)]
        receipt = await purge(filled.path, settings=TINY)
        (done,) = receipt.collections
        stop.set()
        assert min(await asyncio.gather(*readers)) > 0
        assert (done.name, done.records) == ("things", len(KEPT) + len(REPLACED))
        assert done.applied <= receipt.lsn
        for kind, traces in filled.traces.items():
            assert {trace: files for trace in traces if (files := found_in(filled.path, trace))} == {}, kind
        await records.delete(filled.ids("first", KEPT)[:5])
        call = PurgeCollection(**PATH, collection_id=collection_id, wait_seconds=30)
        first, second = await asyncio.gather(engine.dispatch(call), engine.dispatch(call))
        assert (first.done, second.done, second.records) == (True, True, done.records - 5)
        assert b"metadata of first 000" not in b"".join(p.read_bytes() for p in filled.path.rglob("*") if p.is_file())
        await records.add(filled.ids("first", KEPT)[:5], filled.first[list(KEPT)[:5]], **filled.columns("first", KEPT[:5]))
    after = await filled.contents()
    assert sorted(after[0]) == sorted(before[0])  # type: ignore[index]


def test_a_collection_that_is_deleted_meanwhile_keeps_no_other_from_being_purged(tmp_path: Path) -> None:
    with PersistentClient(tmp_path) as client:
        for name in ("first", "second", "third"):
            made = client.create_collection(name, embedding_function=None)
            made.add(["kept", "gone"], [[1.0], [2.0]], documents=["a", f"secret of the {name}"])
            made.delete(["gone"])

        def delete_another(stage: str, number: int, of: int) -> None:
            if number == 0:
                client.delete_collection(next(name for name in ("second", "third") if name not in stage))

        receipt = asyncio.run(purge(tmp_path, report=delete_another))
        assert len(receipt.collections) == 2
        for left in client.list_collections():
            assert found_in(tmp_path, f"secret of the {left.name}".encode()) == []


async def test_a_purge_that_was_asked_for_is_done_by_the_next_who_compacts(filled: Filled) -> None:
    async with engine_at(filled.path) as engine:
        (collection_id,) = engine.follower.catalog.collection_ids()
        call = PurgeCollection(**PATH, collection_id=collection_id, wait_seconds=0.1)
        result = await engine.dispatch(call)
        assert (result.done, result.records, result.lsn) == (False, None, engine.follower.position)
        async with compactor_at(filled.path) as compactor:
            await compactor.step()  # applies, and perhaps no more
        async with compactor_at(filled.path) as compactor:
            await settle(compactor)
        for traces in filled.traces.values():
            assert {trace: files for trace in traces if (files := found_in(filled.path, trace))} == {}
        purged = manifest_of(filled.path, collection_id).purge
        assert purged is not None
        assert (purged.number, purged.records) == (1, len(KEPT) + len(REPLACED))


async def test_a_purge_waits_for_who_reads_an_old_instant(filled: Filled) -> None:
    clock = ManualClock()
    async with (
        engine_at(filled.path, replace(TINY, follow_interval_seconds=600), clock=clock) as engine,
        compactor_at(filled.path, clock=clock) as compactor,
    ):
        (collection_id,) = engine.follower.catalog.collection_ids()
        reader = engine.follower.sink(collection_id)
        call = PurgeCollection(**PATH, collection_id=collection_id, wait_seconds=3600)
        with reader.view(newest=True) as held:
            asked = asyncio.create_task(engine.dispatch(call))
            await clock.asleep(LOOK_SECONDS)
            for _ in range(3):
                await settle(compactor)
                await clock.advance(PURGE_AGAIN_SECONDS_MAX)
                await clock.asleep(LOOK_SECONDS)
            assert not asked.done()
            assert held.image.live == len(KEPT) + len(REPLACED)
        await settle(compactor)
        await clock.advance(LOOK_SECONDS)
        assert (await soon(asked)).done


@contextmanager
def reading(path: Path, table: str) -> Generator[None]:
    """Read an old instant of an SQLite file until the end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        yield


def sizes(directory: Path) -> dict[str, int]:
    files = [path for path in directory.rglob("*") if path.is_file() and not path.name.endswith("-shm")]
    return {str(path.relative_to(directory)): path.stat().st_size for path in files}


async def ask(engine: Engine, collection_id: str) -> None:
    """Ask for a purge, and wait for no answer."""
    await engine.dispatch(PurgeCollection(**PATH, collection_id=collection_id, wait_seconds=0))


@pytest.mark.parametrize("journal", ["empty", "filled"])
async def test_a_purge_that_waits_for_a_reader_writes_nothing_and_delays_nobody(tmp_path: Path, journal: str) -> None:
    clock = ManualClock()
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path, clock=clock) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        other = Records(engine, (await create_collection(engine, "other")).id)
        await records.add(["a", "b"], np.eye(2, 3), documents=["first document", "second document"])
        await records.delete(["a"])
        await settle(compactor)
        if journal == "empty":
            await compactor.tidy()
        directory, manifest = tmp_path / "collections" / records.id, manifest_of(tmp_path, records.id)
        with reading(directory / "records.sqlite3", "records"):
            await ask(engine, records.id)
            await compactor.step()
            before, begun = sizes(directory), time.monotonic()
            for number in range(3):
                await other.add([f"{number}"], np.eye(1, 3))
                await clock.advance(PURGE_AGAIN_SECONDS_MAX)
                await compactor.step()
                assert manifest_of(tmp_path, other.id).live == number + 1
            assert time.monotonic() - begun < 5
            assert sizes(directory) == before
            assert journal == "filled" or before["records.sqlite3-wal"] < 8192
            assert manifest_of(tmp_path, records.id) == manifest
        await clock.advance(PURGE_AGAIN_SECONDS_MAX)
        await settle(compactor)
        assert manifest_of(tmp_path, records.id).purge is not None
        assert not found_in(tmp_path, b"first document")


async def test_a_purge_is_postponed_twice_as_long_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "chroma_async.compactor")
    clock = ManualClock()
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path, clock=clock) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(["a"], np.eye(1, 3))
        await settle(compactor)
        with reading(tmp_path / "collections" / records.id / "records.sqlite3", "records"):
            await ask(engine, records.id)
            for pause in (1, 2, 4, 8, 16, 30, 30):
                caplog.clear()
                await compactor.step()
                assert f"purge.postponed collection={records.id} again_seconds={pause} " in caplog.text
                await clock.advance(pause - 0.5)
                caplog.clear()
                await compactor.step()
                assert "purge.postponed" not in caplog.text
                await clock.advance(0.5)
        await settle(compactor)
        assert manifest_of(tmp_path, records.id).purge is not None


async def test_a_purge_waits_for_who_reads_the_log(tmp_path: Path) -> None:
    """Who writes meanwhile waits for little of it."""
    clock = ManualClock()
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path, clock=clock) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(["a"], np.eye(1, 3))
        with reading(tmp_path / LOG_FILE, "entries"):
            await ask(engine, records.id)
            begun = time.monotonic()
            for _ in range(2):
                await compactor.step()
                await clock.advance(PURGE_AGAIN_SECONDS_MAX)
            assert time.monotonic() - begun < 5
            assert manifest_of(tmp_path, records.id).purge is None
        await settle(compactor)
        assert manifest_of(tmp_path, records.id).purge is not None


async def test_a_log_that_somebody_reads_does_not_grow_from_attempt_to_attempt(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        await Records(engine, (await create_collection(engine)).id).add(["a"], np.eye(1, 3))
        log = await SqliteLog.open(tmp_path, durability="off", create=False)
        with reading(tmp_path / LOG_FILE, "entries"):
            found: list[int] = []
            for _ in range(3):
                with pytest.raises(UnavailableError, match="somebody reads the log"):
                    await log.scrub()
                found.append(await log.size_bytes())
            assert len(set(found)) == 1
        await log.scrub()
        await log.close()


async def test_nothing_is_left_of_a_collection_that_is_deleted_while_its_purge_waits(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
        kept = Records(engine, (await create_collection(engine, "kept")).id)
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(["a"], np.eye(1, 3))
        await kept.add(["a"], np.eye(1, 3))
        await ask(engine, records.id)
        await settle(compactor)
        with reading(tmp_path / "collections" / records.id / "records.sqlite3", "records"):
            await ask(engine, records.id)
            await settle(compactor)
        await delete_collection(engine)
        await ask(engine, kept.id)
        await settle(compactor)
        assert not compactor._purges
        assert not compactor._purges.retries
        assert compactor._purges._done == {kept.id: 1}


def test_a_collection_that_was_never_written_to_is_purged_too(tmp_path: Path) -> None:
    async def ask() -> PurgeResult:
        async with open_engine(tmp_path, TINY) as engine:
            collection = await create_collection(engine)
            return await engine.dispatch(PurgeCollection(**PATH, collection_id=collection.id, wait_seconds=20))

    result = asyncio.run(ask())
    assert (result.done, result.records, result.dropped_vectors) == (True, 0, 0)


def test_a_directory_is_whole_after_a_purge_of_a_collection_that_was_never_written_to(tmp_path: Path) -> None:
    async def create() -> None:
        async with engine_at(tmp_path) as engine:
            await create_collection(engine)

    asyncio.run(create())
    assert [item.records for item in asyncio.run(purge(tmp_path)).collections] == [0]
    assert verify(tmp_path).is_whole
