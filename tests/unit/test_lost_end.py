"""A directory whose log ends before what was applied of it, as a copy has it that was made while the directory was in use.

Entries get LSNs that others had before: whoever has applied those would pass them over.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.support.engines import PATH, TINY, Records, compactor_at, contents, create_collection, engine_at, settle

from chroma_async.engine.engine import Engine
from chroma_async.engine.verify import verify
from chroma_async.model import Lsn
from chroma_async.protocol import CountRecords, GetCollection

pytestmark = pytest.mark.anyio

LOG_FILES = ("log.sqlite3", "log.sqlite3-wal", "log.sqlite3-shm", "log.committed")


async def records_of(engine: Engine) -> Records:
    return Records(engine, (await engine.dispatch(GetCollection(**PATH, name="copied"))).id)


async def apply_all(directory: Path) -> None:
    async with compactor_at(directory, TINY) as compactor:
        await settle(compactor)


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    """The log was copied after three records, the tables after nine."""
    directory, copied = tmp_path / "data", tmp_path / "log"
    async with engine_at(directory, TINY) as engine:
        records = Records(engine, (await create_collection(engine, "copied")).id)
        for number in range(3):
            await records.add([f"old-{number}"], [[number, 1.0]])
    copied.mkdir()
    for name in LOG_FILES:
        if (directory / name).exists():
            shutil.copy2(directory / name, copied / name)
    async with engine_at(directory, TINY) as engine:
        records = await records_of(engine)
        for number in range(6):
            await records.add([f"later-{number}"], [[number, 2.0]])
    await apply_all(directory)
    for name in LOG_FILES:
        (directory / name).unlink(missing_ok=True)
    shutil.copytree(copied, directory, dirs_exist_ok=True)
    return directory


BEFORE = {*(f"old-{number}" for number in range(3)), *(f"later-{number}" for number in range(6))}


async def add(records: Records) -> set[str]:
    for number in range(4):
        await records.add([f"new-{number}"], [[number, 3.0]])
    return BEFORE | {f"new-{number}" for number in range(4)}


async def upsert(records: Records) -> set[str]:
    await records.upsert(["new", "old-0"], [[1.0, 3.0], [1.0, 3.0]])
    return BEFORE | {"new"}


async def delete_by_ids(records: Records) -> set[str]:
    await records.delete(["old-1", "later-1"])
    return BEFORE - {"old-1", "later-1"}


async def test_what_was_applied_is_read(directory: Path) -> None:
    async with engine_at(directory, TINY) as engine:
        assert set(contents(await (await records_of(engine)).get())) == BEFORE


@pytest.mark.parametrize("write", [add, upsert, delete_by_ids])
async def test_no_write_is_passed_over(directory: Path, write: Callable[[Records], Awaitable[set[str]]]) -> None:
    async with engine_at(directory, TINY) as engine:
        records = await records_of(engine)
        expected = await write(records)
        assert set(contents(await records.get())) == expected
    await apply_all(directory)
    async with engine_at(directory, TINY) as engine:
        assert set(contents(await (await records_of(engine)).get())) == expected


async def test_several_writers_lose_nothing(directory: Path) -> None:
    async with engine_at(directory, TINY) as one, engine_at(directory, TINY) as other:
        first, second = await records_of(one), await records_of(other)
        await asyncio.gather(*(side.add([f"{number}"], [[number, 3.0]]) for number, side in enumerate([first, second] * 5)))
        assert set(contents(await second.get())) == BEFORE | {str(number) for number in range(10)}
    await apply_all(directory)
    async with engine_at(directory, TINY) as engine:
        assert await (await records_of(engine)).count() == 9 + 10


async def test_who_has_seen_what_was_applied_can_go_on_reading(directory: Path) -> None:
    """A session reads on from what it has seen, which this log would come to only with the next writes."""
    async with engine_at(directory, TINY) as engine:
        records = await records_of(engine)
        seen = (await engine.dispatch(CountRecords(**PATH, collection_id=records.id))).lsn
        assert seen == 12
        again = CountRecords(**PATH, collection_id=records.id, min_lsn=seen)
        assert (await asyncio.wait_for(engine.dispatch(again), 20)).count == 9


async def test_verify_says_that_the_end_is_lost_and_makes_up_for_it(directory: Path) -> None:
    (logged,) = [found for found in verify(directory).findings if found.path == "log.sqlite3"]
    assert logged.state == "mendable"
    assert "newest=6 applied=12" in logged.reason
    assert not verify(directory).is_whole
    assert verify(directory, repair=True).is_whole
    assert verify(directory).count("whole") == len(verify(directory).findings)
    async with engine_at(directory, TINY) as engine:
        assert engine.position == Lsn(12)
        expected = await add(await records_of(engine))
    await apply_all(directory)
    async with engine_at(directory, TINY) as engine:
        assert set(contents(await (await records_of(engine)).get())) == expected
