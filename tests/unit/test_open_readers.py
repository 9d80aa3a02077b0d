"""How many collections a process has open at once, and what it holds of those that it has read."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path

import pytest
from tests.support.engines import (
    Records,
    compactor_at,
    create_collection,
    delete_collection,
    engine_at,
    settle,
)

from chroma_async.engine.open_readers import STALE_TICKS, OpenReaders, Releasable
from chroma_async.errors import NotFoundError

pytestmark = pytest.mark.anyio


class Reader:
    """A reader that says what it was told."""

    def __init__(self, *, busy: bool = False, stale: bool = False) -> None:
        self.open = True
        self.busy = busy
        self.stale = stale

    def release(self) -> bool:
        self.open = self.busy
        return not self.busy

    def is_stale(self) -> bool:
        return self.stale


def test_what_was_not_read_for_longest_is_released() -> None:
    readers, opened = [Reader() for _ in range(4)], OpenReaders(2)
    for reader in (readers[0], readers[1], readers[0], readers[2], readers[3]):
        opened.touch(reader)
    assert [reader.open for reader in readers] == [False, False, True, True]
    assert len(opened) == 2


def test_what_is_in_use_stays_and_is_asked_again() -> None:
    opened, busy = OpenReaders(1), Reader(busy=True)
    opened.touch(busy)
    opened.touch(Reader())
    assert busy.open
    busy.busy = False
    opened.touch(Reader())
    opened.touch(Reader())
    assert not busy.open


def test_only_idle_readers_of_replaced_files_are_released() -> None:
    opened = OpenReaders()
    read, fresh, stale = Reader(stale=True), Reader(), Reader(stale=True)
    readers: list[Releasable] = [read, fresh, stale]
    for reader in readers:
        opened.touch(reader)
    idle: list[Releasable] = []
    for _ in range(STALE_TICKS + 1):
        opened.touch(read)
        idle = opened.tick()
    assert idle == [fresh, stale]
    opened.release_stale(idle)
    assert (read.open, fresh.open, stale.open) == (True, True, False)


def descriptors(directory: Path) -> int:
    """Descriptors and maps of this process in the directory."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith(str(directory))
        except OSError:
            continue
    return found


async def test_many_collections_are_read_with_few_handles(tmp_path: Path) -> None:
    count, open_max = 24, 8
    async with engine_at(tmp_path) as engine:
        engine.open_readers._open_max = open_max
        collections = [Records(engine, (await create_collection(engine, f"many-{n}")).id) for n in range(count)]
        for number, records in enumerate(collections):
            await records.add([f"a{number}", "b"], [[1.0, number], [0.0, 0.0]], metadatas=[{"n": number}, None])
        async with compactor_at(tmp_path) as compactor:
            await settle(compactor)
        for _ in range(2):
            for number, records in enumerate(collections):
                assert (await records.query([[1.0, number]], 1)).columns[0].ids == [f"a{number}"]
                assert (await records.get(where=None)).columns.ids == [f"a{number}", "b"]
            gc.collect()
            assert descriptors(tmp_path / "collections") <= 10 * open_max
            assert len(engine.open_readers) <= open_max
        await collections[0].add(["new"], [[5.0, 5.0]])  # what is unapplied survives being released
        for records in collections[1:]:
            await records.count()
        assert (await collections[0].get()).columns.ids == ["a0", "b", "new"]
        assert await collections[0].count() == 3


async def test_an_idle_process_lets_go_of_files_that_were_replaced_or_deleted(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
        kept = Records(engine, (await create_collection(engine, "kept")).id)
        gone = Records(engine, (await create_collection(engine, "gone")).id)
        for records in (kept, gone):
            await records.add([str(n) for n in range(20)], [[float(n), 0.0] for n in range(20)])
        await settle(compactor)
        for records in (kept, gone):
            await records.query([[1.0, 0.0]])
        await kept.delete([str(n) for n in range(18)])
        await settle(compactor)
        for _ in range(STALE_TICKS + 1):
            engine.open_readers.release_stale(engine.open_readers.tick())
        await delete_collection(engine, "gone")
        await settle(compactor)
        gc.collect()
        await asyncio.sleep(0.05)
        open_files = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _exists(name)]
        assert not [path for path in open_files if path.startswith(str(tmp_path)) and path.endswith("(deleted)")]
        assert (await kept.get()).columns.ids == ["18", "19"]
        with pytest.raises(NotFoundError):
            await gone.get()


def _exists(name: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{name}")
