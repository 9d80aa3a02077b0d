"""A thread that read tables while its process was overtaken folded the newest entries over them, without those before.

The compactor had applied and freed these before this process read them. What the thread had folded was kept, so all reads
that followed lacked acknowledged records too.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.engines import TINY, Records, compactor_at, contents, create_collection, engine_at, settle

from chroma_async.engine.collection import CollectionReader
from chroma_async.engine.pending import Entries, PendingEntries
from chroma_async.model import CollectionId
from chroma_async.projections.records import RecordTables

pytestmark = pytest.mark.anyio

SETTINGS = replace(TINY, brief_seconds=0.0, follow_interval_seconds=3600.0)
"""Reads run in threads, and a process reads the log when it is told to."""


@pytest.mark.parametrize(
    ("applied", "moment"),
    [(0, "before it takes entries"), (1, "before it takes entries"), (1, "after it has looked at the tables")],
)
async def test_a_thread_that_stands_still_while_its_process_is_overtaken_sees_no_hole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, applied: int, moment: str
) -> None:
    async with (
        engine_at(tmp_path, SETTINGS) as one,
        engine_at(tmp_path, SETTINGS) as two,
        compactor_at(tmp_path, SETTINGS) as compactor,
    ):
        records = Records(one, (await create_collection(one)).id)
        ids = [f"{number}" for number in range(applied + 3)]
        for record_id in ids[:applied]:
            await records.add([record_id], [[1.0, 2.0]])
        await settle(compactor)
        behind, reader = Records(two, records.id), two.follower.sink(CollectionId(records.id))
        assert list(contents(await behind.get())) == ids[:applied]
        catch_up, loop = two.follower.catch_up, asyncio.get_running_loop()
        took, suits, is_overtaken = PendingEntries.now, CollectionReader._suits, False

        async def know_nothing_new() -> None:
            return None

        async def overtake() -> None:
            for record_id in ids[applied:-1]:
                await records.add([record_id], [[1.0, 2.0]])
            await settle(compactor)
            await records.add(ids[-1:], [[1.0, 2.0]])
            monkeypatch.setattr(two.follower, "catch_up", catch_up)
            await catch_up()

        def stand_still() -> None:
            nonlocal is_overtaken
            if not is_overtaken:
                is_overtaken = True
                asyncio.run_coroutine_threadsafe(overtake(), loop).result(20)

        def take_late(self: PendingEntries) -> Entries:
            if self is reader.entries and moment.startswith("before"):
                stand_still()
            return took(self)

        def answer_late(self: CollectionReader, tables: RecordTables, newest: bool) -> bool:
            answer = suits(self, tables, newest)
            if self is reader and moment.startswith("after"):
                stand_still()
            return answer

        monkeypatch.setattr(two.follower, "catch_up", know_nothing_new)
        monkeypatch.setattr(PendingEntries, "now", take_late)
        monkeypatch.setattr(CollectionReader, "_suits", answer_late)
        assert list(contents(await behind.get())) in (ids[:applied], ids)
        assert is_overtaken
        assert list(contents(await behind.get())) == ids
