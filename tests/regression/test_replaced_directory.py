"""A directory that is restored beneath a living process keeps what was restored, whatever that process still has to do."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import aiosqlite
import pytest
from tests.support.clock import PATIENCE_SECONDS, ManualClock
from tests.support.engines import TINY, Records, create_collection, delete_collection, engine_at

from chroma_async.engine.compactor import IDLE_SECONDS, SETTLE_SECONDS
from chroma_async.engine.engine import DISPLACED_SECONDS, open_engine
from chroma_async.errors import DirectoryReplacedError
from chroma_async.model import Lsn
from chroma_async.seams import Seams
from chroma_async.wal import NewEntry, SqliteLog
from chroma_async.wal.sqlite import opening

pytestmark = pytest.mark.anyio


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


async def idle(clock: ManualClock) -> None:
    """Let the compactor do what there is to do: it may be idle since before that was there."""
    await clock.advance(IDLE_SECONDS)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not clock.sleeping(IDLE_SECONDS):
            await clock.advance(SETTLE_SECONDS)
            await asyncio.sleep(0.005)


async def test_a_restored_directory_is_not_touched_by_who_had_the_old_one(tmp_path: Path) -> None:
    here, saved, clock = tmp_path / "data", tmp_path / "saved", ManualClock()
    async with open_engine(here, TINY, seams=Seams(clock=clock)) as engine:
        kept, gone = [Records(engine, (await create_collection(engine, name)).id) for name in ("kept", "gone")]
        for records in (kept, gone):
            await records.add([str(row) for row in range(20)], [[float(row), 1.0] for row in range(20)])
        await idle(clock)
    shutil.copytree(here, saved)
    assert (saved / "collections" / gone.id).exists()
    clock = ManualClock()
    async with open_engine(here, TINY, seams=Seams(clock=clock)) as engine:  # with a compactor
        await idle(clock)  # what it is about to do by name, it does
        await delete_collection(engine, "gone")
        await Records(engine, kept.id).add(["later"], [[1.0, 1.0]])
        here.rename(tmp_path / "old")
        shutil.copytree(saved, here)
        before = files_of(here)
        with pytest.raises(DirectoryReplacedError):
            await Records(engine, kept.id).add(["lost"], [[1.0, 1.0]])
        with pytest.raises(DirectoryReplacedError):
            await delete_collection(engine, "kept")
        await clock.advance(IDLE_SECONDS)
        await clock.round(DISPLACED_SECONDS)  # it begins anew
        assert files_of(here) == before
    async with engine_at(here) as engine:
        for records in (kept, gone):
            assert await Records(engine, records.id).count() == 20


async def test_a_log_that_is_replaced_while_it_is_opened_takes_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections have the old file, whatever there is when they are ready."""
    here, saved = tmp_path / "data", tmp_path / "saved"
    await (await SqliteLog.open(here)).close()
    shutil.copytree(here, saved)
    prepare = opening._prepare_writer

    async def prepare_and_lose(writer: aiosqlite.Connection, directory: Path, synchronous: str) -> str:
        identity = await prepare(writer, directory, synchronous)
        here.rename(tmp_path / "old")
        shutil.copytree(saved, here)
        return identity

    monkeypatch.setattr(opening, "_prepare_writer", prepare_and_lose)
    log = await SqliteLog.open(here)
    try:
        with pytest.raises(DirectoryReplacedError):
            log.require_in_place()
        with pytest.raises(DirectoryReplacedError):
            async with log.exclusive():
                await log.append([NewEntry(None, b"lost", 0)], after=Lsn(0))
    finally:
        await log.close()
