"""Group commit: many callers, few transactions; each has its own outcome, and an unexplained failure stops writes."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.support.engines import (
    PATH,
    TINY,
    Records,
    compactor_at,
    contents,
    create_collection,
    delete_collection,
    engine_at,
    settle,
)
from tests.support.waiting import soon

from chroma_async.core.events import TenantCreated, author_of
from chroma_async.engine import writer
from chroma_async.engine.author import AUTHOR
from chroma_async.engine.engine import Engine
from chroma_async.engine.writer import Append, Decision, Proposal
from chroma_async.errors import (
    InsufficientStorageError,
    InternalError,
    InvalidArgumentError,
    InvalidDimensionException,
    LogHole,
    NotFoundError,
    PayloadTooLargeError,
    UnavailableError,
    UniqueConstraintError,
)
from chroma_async.model import Lsn
from chroma_async.protocol import CountCollections
from chroma_async.seams import ThreadWorkers
from chroma_async.wal import MemoryLog, NewEntry

pytestmark = pytest.mark.anyio


class CountingLog(MemoryLog):
    """Counts transactions, takes its time over each, and fails once when told to."""

    def __init__(self, *, seconds: float = 0.002) -> None:
        super().__init__()
        self.appends: list[int] = []
        self.failure: Exception | None = None
        self.begun = asyncio.Event()
        self._seconds = seconds

    async def append(
        self, entries: Sequence[NewEntry], *, after: Lsn, rows: Mapping[str, bytes | None] | None = None
    ) -> Lsn:
        self.begun.set()
        await asyncio.sleep(self._seconds)
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        first = await super().append(entries, after=after, rows=rows)
        self.appends.append(len(entries))
        return first


@asynccontextmanager
async def engine_on(log: MemoryLog, directory: Path) -> AsyncIterator[Engine]:
    workers = ThreadWorkers(2, "reader")
    engine = Engine(directory, log, workers, TINY)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()
        workers.close()


def batch(generation: int, rows: int = 10) -> tuple[list[str], np.ndarray, list[dict[str, int]]]:
    """Ten ids that all say the same generation."""
    ids = [f"{generation}-{row}" for row in range(rows)]
    return ids, np.full((rows, 2), generation, dtype=np.float32), [{"generation": generation}] * rows


async def put(records: Records, generation: int) -> None:
    ids, vectors, metadatas = batch(generation)
    await records.add(ids, vectors, metadatas=metadatas)


async def test_concurrent_calls_share_transactions(tmp_path: Path) -> None:
    log = CountingLog()
    async with engine_on(log, tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        log.appends.clear()
        await asyncio.gather(*(put(records, generation) for generation in range(100)))
        assert sum(log.appends) == 100
        assert len(log.appends) <= 5
        assert await records.count() == 1_000


async def test_a_bad_call_fails_alone(tmp_path: Path) -> None:
    log = CountingLog()
    async with engine_on(log, tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await put(records, 0)
        nowhere = Records(engine, "00000000-0000-4000-8000-000000000000")
        log.appends.clear()
        outcomes = await asyncio.gather(
            *(put(records, generation) for generation in range(1, 20)),
            records.add(["wrong"], np.zeros((1, 3), dtype=np.float32)),
            put(nowhere, 1),
            create_collection(engine),
            records.add(["", "x"], np.zeros((2, 2), dtype=np.float32)),
            *(put(records, generation) for generation in range(20, 40)),
            return_exceptions=True,
        )
        failures = [type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)]
        assert failures == [InvalidDimensionException, NotFoundError, UniqueConstraintError, InvalidArgumentError]
        assert sum(log.appends) == 39
        assert await records.count() == 400


async def test_a_write_too_large_for_an_entry_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "ENTRY_BYTES_MAX", 10_000)
    async with engine_at(tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        with pytest.raises(PayloadTooLargeError, match="send fewer records at once"):
            await records.add(["large"], [[1.0]], documents=["x" * 10_000])
        await records.add(["small"], [[1.0]])
        assert set(contents(await records.get())) == {"small"}


async def test_what_needs_no_room_does_not_end_the_want_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Deletions go on while records are refused, also those that were asked for at the same time."""
    log = CountingLog()
    async with engine_on(log, tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await put(records, 0)
        engine.writer._reserve_bytes = 2**62
        caplog.set_level("INFO", logger="chroma_async.writer")
        for number in range(3):
            outcomes = await asyncio.gather(put(records, 1), records.delete([f"0-{number}"]), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [InsufficientStorageError, int]
        assert log.appends[-3:] == [1, 1, 1]
        assert [record.message.split()[0] for record in caplog.records] == ["writes.refused"]
        engine.writer._reserve_bytes = 0
        await put(records, 1)
        assert [record.message.split()[0] for record in caplog.records] == ["writes.refused", "writes.resumed"]


async def test_a_call_that_turns_out_to_be_impossible_fails_alone(tmp_path: Path) -> None:
    """Whatever its decision, its encoding or the catalog raises: nothing was appended yet, so nothing is unknown."""
    log = CountingLog()
    async with engine_on(log, tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)

        def decide_badly(catalog: object) -> Decision[None]:
            raise TypeError("a bug")

        unstorable = TenantCreated("half \ud83d")

        def decide_what_the_catalog_cannot_store(catalog: object) -> Decision[None]:
            return Decision([Append(unstorable, b"", None)], lambda lsn: None)

        outcomes = await asyncio.gather(
            put(records, 1),
            engine.writer.submit(Proposal(decide_badly)),
            put(records, 2),
            engine.writer.submit(Proposal(decide_what_the_catalog_cannot_store)),
            put(records, 3),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes[1:4:2]] == [TypeError, UnicodeEncodeError]
        assert outcomes[::2] == [None, None, None]
        assert engine.writer.refusal is None
        await put(records, 4)
        assert await records.count() == 40
        assert engine.follower.catalog.tenant(unstorable.name) is None


@asynccontextmanager
async def engine_that_fails_once(
    error: Exception, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Engine, Records]]:
    """An engine with a collection, whose next write meets an error before anything is appended."""
    log = CountingLog()
    async with engine_on(log, directory) as engine:
        records = Records(engine, (await create_collection(engine)).id)

        def fail() -> None:
            monkeypatch.undo()
            raise error

        monkeypatch.setattr(log, "exclusive", fail)
        yield engine, records


@pytest.mark.parametrize(
    "error", [LogHole("entries are missing"), sqlite3.DatabaseError("malformed")], ids=["hole", "sqlite"]
)
async def test_a_log_that_cannot_be_read_on_stops_writes_for_good(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine_that_fails_once(error, tmp_path, monkeypatch) as (engine, records):
        for _ in range(2):
            with pytest.raises(UnavailableError, match="writes are refused"):
                await put(records, 1)
        assert engine.writer.refusal is not None


async def test_what_fails_before_an_append_fails_the_calls_that_met_it_and_no_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ValueError("nobody knows why")
    async with engine_that_fails_once(error, tmp_path, monkeypatch) as (_, records):
        with pytest.raises(UnavailableError, match=r"not made, and may be sent again.*nobody knows why"):
            await put(records, 1)
        await put(records, 2)
        assert await records.count() == 10


async def test_only_the_first_of_two_dimensions_in_one_transaction_is_taken(tmp_path: Path) -> None:
    async with engine_on(CountingLog(), tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        outcomes = await asyncio.gather(
            records.add(["two"], np.zeros((1, 2), dtype=np.float32)),
            records.add(["three"], np.zeros((1, 3), dtype=np.float32)),
            records.add(["other two"], np.zeros((1, 2), dtype=np.float32)),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [type(None), InvalidDimensionException, type(None)]
        assert set(contents(await records.get())) == {"two", "other two"}


async def test_only_one_of_many_creations_of_a_name_succeeds(tmp_path: Path) -> None:
    async with engine_on(CountingLog(), tmp_path) as engine:
        outcomes = await asyncio.gather(*(create_collection(engine) for _ in range(20)), return_exceptions=True)
        assert sum(isinstance(outcome, UniqueConstraintError) for outcome in outcomes) == 19


async def test_write_and_deletion_of_its_collection_in_one_transaction(tmp_path: Path) -> None:
    async with engine_on(CountingLog(), tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        outcomes = await asyncio.gather(
            put(records, 1), delete_collection(engine), put(records, 2), create_collection(engine), return_exceptions=True
        )
        assert [type(outcome).__name__ for outcome in outcomes[:3]] == ["NoneType", "NoneType", "NotFoundError"]
        with pytest.raises(NotFoundError):
            await records.count()


async def test_deletion_by_filter_sees_the_writes_before_it_and_none_after(tmp_path: Path) -> None:
    async with engine_on(CountingLog(), tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await put(records, 0)
        deletions = [records.delete(where={"generation": {"$gte": 0}}) for _ in range(5)]
        writes = [put(records, generation) for generation in range(1, 6)]
        mixed = [work for pair in zip(writes, deletions, strict=True) for work in pair]
        counts = await asyncio.gather(*mixed)
        assert sum(count for count in counts if count is not None) + await records.count() == 60


@pytest.mark.parametrize("seed", range(3))
async def test_cancelled_callers_leave_whole_entries_or_nothing(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        tasks = [asyncio.create_task(put(records, generation)) for generation in range(150)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(dice.random() * 0.003)
            for task in dice.sample(tasks, 3):
                task.cancel()
        acknowledged = {number for number, task in enumerate(tasks) if not task.cancelled() and task.exception() is None}
        await put(records, 1_000)
        for _ in range(2):
            found = contents(await records.get())
            generations = [metadata["generation"] for _, _, metadata, _ in found.values()]
            assert {number: generations.count(number) for number in set(generations)} == dict.fromkeys(set(generations), 10)
            assert acknowledged <= set(generations)
            await settle(compactor)
        assert any(task.cancelled() for task in tasks)


async def test_cancelled_readers_disturb_nobody(tmp_path: Path) -> None:
    dice = random.Random(1)
    async with engine_at(tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await put(records, 0)
        async with asyncio.timeout(20):
            for _ in range(60):
                queries = [records.query(np.zeros((1, 2), dtype=np.float32), 3) for _ in range(4)]
                tasks = [asyncio.create_task(work) for work in (*queries, records.get(), records.count())]
                await asyncio.sleep(dice.random() * 0.002)
                for task in dice.sample(tasks, 3):
                    task.cancel()
                for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                    assert not isinstance(outcome, Exception)
            assert await records.count() == 10


async def test_failed_append_stops_writes_while_reads_go_on(tmp_path: Path) -> None:
    log = CountingLog()
    async with engine_on(log, tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await put(records, 0)
        log.failure = OSError(28, "no space left on device")
        outcomes = await asyncio.gather(*(put(records, generation) for generation in range(1, 9)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {UnavailableError}
        for _ in range(3):
            with pytest.raises(UnavailableError, match="no space left"):
                await put(records, 9)
        assert await records.count() == 10
        assert (await records.query(np.zeros((1, 2), dtype=np.float32), 3)).columns[0].ids
        assert len(contents(await records.get(limit=4))) == 4


async def test_deletion_whose_records_cannot_be_read_fails_alone(tmp_path: Path) -> None:
    """Nothing was appended, so nothing is unknown: other writes go on."""
    async with engine_at(tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await put(records, 0)
        async with compactor_at(tmp_path) as compactor:
            await settle(compactor)
    tables = tmp_path / "collections" / records.id / "records.sqlite3"
    content = bytearray(tables.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    tables.write_bytes(content)
    async with engine_at(tmp_path) as engine:
        damaged = Records(engine, records.id)
        whole = Records(engine, (await create_collection(engine, "whole")).id)
        with pytest.raises(InternalError, match="damaged"):
            await damaged.delete(where={"generation": 0})
        await put(whole, 1)
        assert await whole.count() == 10


async def test_waiting_writes_are_appended_before_the_engine_closes(tmp_path: Path) -> None:
    log = CountingLog(seconds=0.01)
    async with engine_on(log, tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        log.begun.clear()
        tasks = [asyncio.create_task(put(records, generation)) for generation in range(20)]
        await soon(log.begun.wait())
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {type(None), UnavailableError}
    acknowledged = sum(outcome is None for outcome in outcomes)
    assert acknowledged > 0
    async with engine_on(MemoryLog(log.state), tmp_path) as engine:
        assert await Records(engine, records.id).count() == 10 * acknowledged


async def test_each_entry_keeps_who_wrote_it(tmp_path: Path) -> None:
    """Also where calls of several authors share a transaction, and where the writer decides what is written."""
    async with engine_at(tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)

        async def write_as(author: str | None, record_id: str) -> None:
            AUTHOR.set(author)
            await records.add([record_id], [[1.0, 2.0]], metadatas=[{"f": 1}])
            await records.delete(where={"f": 2})

        authors = ["alice", None, "bob"]
        before = engine.follower.position
        await asyncio.gather(*(asyncio.create_task(write_as(author, str(author))) for author in authors))
        entries = [entry async for entry in engine.log.read(after=before)]
        assert sorted(str(author_of(entry.payload or b"")) for entry in entries) == ["None", "alice", "bob"]
        AUTHOR.set("carol")
        await records.delete(where={"f": 1})
        await delete_collection(engine)
        AUTHOR.set(None)
        added = [entry async for entry in engine.log.read(after=entries[-1].lsn)]
        assert [author_of(entry.payload or b"") for entry in added] == ["carol", "carol"]
        assert await records.engine.dispatch(CountCollections(**PATH)) == 0
