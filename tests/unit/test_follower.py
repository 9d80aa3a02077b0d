"""The follower knows each entry once, in order, whichever way it hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from chroma_async.core.catalog import Catalog
from chroma_async.core.events import (
    CollectionCreated,
    CollectionDeleted,
    DatabaseCreated,
    Event,
    RecordsDeleted,
    TenantCreated,
    encode,
)
from chroma_async.engine.follower import Follower
from chroma_async.errors import LogReset
from chroma_async.model import CollectionId, HnswConfiguration, Lsn
from chroma_async.wal import CatalogRows, Entry, MemoryLog, NewEntry
from chroma_async.wal.memory import MemoryLogState

pytestmark = pytest.mark.anyio

A, B = (CollectionId(f"00000000-0000-4000-8000-00000000000{digit}") for digit in "ab")
BEGINNING: list[Event] = [TenantCreated("t"), DatabaseCreated("d", "d", "t")]


def created(collection_id: CollectionId) -> CollectionCreated:
    return CollectionCreated(collection_id, collection_id, "t", "d", None, HnswConfiguration(), None, None)


def written(collection_id: CollectionId, text: str = "x") -> RecordsDeleted:
    """Any entry of records will do: a follower does not look inside."""
    return RecordsDeleted(collection_id, [text])


class Heard:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.lsns: list[int] = []
        self.missed = Lsn(0)
        self.is_closed = False

    def refuse(self, reason: str) -> None:
        raise AssertionError(reason)

    def offer(self, lsn: Lsn, payload: bytes) -> None:
        assert not self.is_closed
        self.lsns.append(lsn)

    def miss(self, through: Lsn) -> None:
        self.missed = through

    def close(self) -> None:
        self.is_closed = True


class PausingLog(MemoryLog):
    """Gives what it read only when `go` is set: as a slow disk does."""

    def __init__(self, state: MemoryLogState) -> None:
        super().__init__(state)
        self.reading, self.go = asyncio.Event(), asyncio.Event()
        self.go.set()

    async def read(self, *, after: Lsn, through: Lsn | None = None) -> AsyncIterator[Entry]:
        entries = [entry async for entry in super().read(after=after, through=through)]
        self.reading.set()
        await self.go.wait()
        for entry in entries:
            yield entry

    async def catalog(self) -> CatalogRows:
        rows = await super().catalog()
        self.reading.set()
        await self.go.wait()
        return rows


class Process:
    """A follower with the appending half of a writer."""

    def __init__(self, state: MemoryLogState) -> None:
        self.log = PausingLog(state)
        self.sinks: dict[CollectionId, list[Heard]] = {}
        self.follower: Follower[Heard] = Follower(self.log, self._make)

    def _make(self, collection_id: CollectionId) -> Heard:
        sink = Heard()
        self.sinks.setdefault(collection_id, []).append(sink)
        return sink

    async def append(self, *events: Event) -> None:
        await self.commit(*events)
        self.accept()

    async def commit(self, *events: Event) -> None:
        """Append, without telling the follower yet."""
        self._catalog = self.follower.catalog.fork()
        rows: dict[str, bytes | None] = {}
        entries: list[NewEntry] = []
        for event in events:
            rows.update(self._catalog.apply(event))  # type: ignore[arg-type]
            collection = event.collection if isinstance(event, RecordsDeleted) else None
            entries.append(NewEntry(encode(event), 0, collection))
        self._first = await self.log.append(entries, after=self.follower.position, rows=rows)
        self._entries = [(entry.collection, bytes(entry.payload)) for entry in entries]

    def accept(self) -> None:
        self.follower.accept(self._first, self._entries, self._catalog)


@pytest.fixture
def state() -> MemoryLogState:
    return MemoryLogState()


async def started(state: MemoryLogState) -> Process:
    process = Process(state)
    await process.follower.start()
    return process


async def test_two_processes_hear_the_same_entries(state: MemoryLogState) -> None:
    mine, other = await started(state), await started(state)
    await mine.append(*BEGINNING, created(A))
    await mine.append(written(A), written(A))
    await other.follower.catch_up()
    await other.append(created(B), written(B))
    await mine.follower.catch_up()
    assert mine.follower.position == other.follower.position == 7
    for process in (mine, other):
        assert process.follower.sink(A).lsns == [4, 5]
        assert process.follower.sink(B).lsns == [7]
        assert process.follower.catalog.collection_ids() == {A, B}


async def test_entry_that_is_accepted_while_it_is_read_is_taken_once(state: MemoryLogState) -> None:
    mine = await started(state)
    await mine.append(*BEGINNING, created(A), written(A))
    await mine.commit(written(A), CollectionDeleted(A), created(B), written(B))
    mine.log.go.clear()
    mine.log.reading.clear()
    reading = asyncio.create_task(mine.follower.catch_up())
    await mine.log.reading.wait()
    mine.accept()
    mine.log.go.set()
    await reading
    assert mine.follower.position == 8
    assert [sink.lsns for sink in mine.sinks[A] + mine.sinks[B]] == [[4], [8]]


async def test_entry_that_was_read_before_it_is_accepted_is_taken_once(state: MemoryLogState) -> None:
    mine = await started(state)
    await mine.append(*BEGINNING, created(A))
    await mine.commit(written(A), written(A))
    await mine.follower.catch_up()
    mine.accept()
    assert mine.follower.position == 5
    assert mine.follower.sink(A).lsns == [4, 5]
    await mine.append(written(A))
    assert mine.follower.sink(A).lsns == [4, 5, 6]


async def test_entries_are_not_accepted_before_those_that_come_before_them(state: MemoryLogState) -> None:
    mine = await started(state)
    await mine.append(*BEGINNING, created(A))
    with pytest.raises(RuntimeError, match="were not taken"):
        mine.follower.accept(Lsn(5), [(A, encode(written(A)))], mine.follower.catalog)
    assert (mine.follower.position, mine.follower.sink(A).lsns) == (3, [])


async def test_position_never_goes_back_when_an_append_meets_a_reload(state: MemoryLogState) -> None:
    mine, other = await started(state), await started(state)
    await other.append(*BEGINNING, created(A), written(A))
    await other.log.truncate_collection(A, through=Lsn(4))
    mine.log.go.clear()
    mine.log.reading.clear()
    reading = asyncio.create_task(mine.follower.catch_up())
    await mine.log.reading.wait()
    mine.follower.catalog, mine.follower.position = other.follower.catalog.fork(), Lsn(4)
    await mine.append(created(B), written(B))
    mine.log.go.set()
    await reading
    assert mine.follower.position == 6
    assert mine.follower.catalog.collection_ids() == {A, B}
    assert [sink.lsns for sink in mine.sinks[B]] == [[6]]


async def test_truncated_entries_are_replaced_by_the_catalog_rows(state: MemoryLogState) -> None:
    mine = await started(state)
    await mine.append(*BEGINNING, created(A), created(B), written(A), written(B))
    await mine.log.truncate_collection(A, through=Lsn(5))
    late = await started(state)
    assert late.follower.position == 6
    assert late.follower.catalog.collection_ids() == {A, B}
    assert {name: [sink.lsns for sink in sinks] for name, sinks in late.sinks.items()} == {B: [[6]]}


async def test_entries_left_by_a_deleted_collection_are_not_forgotten_by_who_starts_later(state: MemoryLogState) -> None:
    """Its sink is closed, which tells the compactor to free them: nothing else would, and the log could never shrink."""
    mine = await started(state)
    await mine.append(*BEGINNING, created(A), created(B), written(A), written(B), CollectionDeleted(A))
    late = await started(state)
    assert [(sink.lsns, sink.is_closed) for sink in late.sinks[A]] == [([5], True)]
    assert late.follower.sinks().keys() == {B}


async def test_sink_of_a_deleted_collection_is_closed(state: MemoryLogState) -> None:
    mine, other = await started(state), await started(state)
    await mine.append(*BEGINNING, created(A), written(A))
    await other.follower.catch_up()
    await mine.append(CollectionDeleted(A))
    await other.follower.catch_up()
    for process in (mine, other):
        assert [sink.is_closed for sink in process.sinks[A]] == [True]
        assert process.follower.catalog.collection_ids() == frozenset()


async def test_another_log_in_the_place_of_the_one_followed_is_noticed(state: MemoryLogState) -> None:
    mine = await started(state)
    await mine.append(*BEGINNING)
    replaced = MemoryLogState()
    mine.log.state.image, mine.log.state.identity = replaced.image, replaced.identity  # type: ignore[misc]
    filler = MemoryLog(mine.log.state)
    for lsn in range(3):
        await filler.append([NewEntry(encode(TenantCreated("x")), 0)], after=Lsn(lsn))
    with pytest.raises(LogReset):
        await mine.follower.catch_up()


async def test_catalog_of_rows_is_the_catalog_of_entries(state: MemoryLogState) -> None:
    mine = await started(state)
    await mine.append(*BEGINNING, created(A), created(B), CollectionDeleted(A))
    rows = (await mine.log.catalog()).rows
    assert Catalog.from_rows(rows).collections("t", "d") == mine.follower.catalog.collections("t", "d")
