"""What the log in memory offers to simulations: a power switch."""

from __future__ import annotations

import asyncio

import pytest

from chroma_async.errors import LogConflict
from chroma_async.model import CollectionId, Lsn
from chroma_async.settings import Durability
from chroma_async.wal import MemoryLog, MemoryLogState, NewEntry

pytestmark = pytest.mark.anyio

A = CollectionId("aaaaaaaa-0000-4000-8000-000000000000")


def entry(operation: str | None = None) -> NewEntry:
    return NewEntry(b"x", 0, A, operation)


@pytest.mark.parametrize("durability", ["interval", "off"])
async def test_a_power_cut_loses_what_was_not_synced(durability: Durability) -> None:
    state = MemoryLogState("the identity")
    log = MemoryLog(state, durability=durability)
    await log.append([entry("one")], after=Lsn(0), rows={"k": b"1"})
    await log.sync()
    await log.append([entry("two"), entry()], after=Lsn(1), rows={"k": b"2"})
    await log.truncate_collection(A, through=Lsn(3))
    state.lose_unsynced()
    again = MemoryLog(state)
    assert again.identity == "the identity"
    assert (again.barrier(), await again.oldest()) == (1, 1)
    assert [found.payload async for found in again.read(after=Lsn(0))] == [b"x"]
    assert (await again.catalog()).rows == {"k": b"1"}
    assert await again.append([entry("one")], after=Lsn(0)) == 1
    assert await again.append([entry("two")], after=Lsn(1)) == 2


async def test_a_power_cut_loses_nothing_that_was_committed() -> None:
    state = MemoryLogState()
    lazy, careful = MemoryLog(state, durability="off"), MemoryLog(state)
    await lazy.append([entry()], after=Lsn(0))
    await careful.append([entry()], after=Lsn(1))
    await lazy.append([entry()], after=Lsn(2))
    state.lose_unsynced()
    assert MemoryLog(state).barrier() == 2
    state.lose_unsynced()
    assert MemoryLog(state).barrier() == 2


async def test_a_power_cut_ends_every_handle_and_every_hold() -> None:
    state = MemoryLogState()
    log = MemoryLog(state)
    started = asyncio.Event()

    async def hold() -> None:
        async with log.exclusive():
            started.set()
            await asyncio.sleep(60)

    dead = asyncio.create_task(hold())
    await started.wait()
    state.lose_unsynced()
    with pytest.raises(RuntimeError, match="closed"):
        await log.append([entry()], after=Lsn(0))
    again = MemoryLog(state)
    assert await asyncio.wait_for(again.append([entry()], after=Lsn(0)), 5) == 1
    dead.cancel()
    await asyncio.wait((dead,))
    with pytest.raises(LogConflict):
        await again.append([entry()], after=Lsn(0))
