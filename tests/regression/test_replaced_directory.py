"""A directory that is restored beneath a living process keeps what was restored, whatever that process still has to do."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from tests.support.engines import TINY, Records, create_collection, delete_collection, engine_at

from chroma_async.engine.engine import open_engine
from chroma_async.errors import DirectoryReplacedError

pytestmark = pytest.mark.anyio


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


async def test_a_restored_directory_is_not_touched_by_who_had_the_old_one(tmp_path: Path) -> None:
    here, saved = tmp_path / "data", tmp_path / "saved"
    async with open_engine(here, TINY) as engine:
        kept, gone = [Records(engine, (await create_collection(engine, name)).id) for name in ("kept", "gone")]
        for records in (kept, gone):
            await records.add([str(row) for row in range(20)], [[float(row), 1.0] for row in range(20)])
    shutil.copytree(here, saved)
    async with open_engine(here, TINY) as engine:  # with a compactor
        await delete_collection(engine, "gone")
        await Records(engine, kept.id).add(["later"], [[1.0, 1.0]])
        here.rename(tmp_path / "old")
        shutil.copytree(saved, here)
        before = files_of(here)
        with pytest.raises(DirectoryReplacedError):
            await Records(engine, kept.id).add(["lost"], [[1.0, 1.0]])
        with pytest.raises(DirectoryReplacedError):
            await delete_collection(engine, "kept")
        await asyncio.sleep(2.5)  # a compactor that fails begins anew after a second
        assert files_of(here) == before
    async with engine_at(here) as engine:
        for records in (kept, gone):
            assert await Records(engine, records.id).count() == 20
