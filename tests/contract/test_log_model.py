"""Any sequence of calls has the same outcome on every log, and on a model of a few lines."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chroma_async.errors import LogConflict, LogReset, LogTruncated
from chroma_async.model import CollectionId, Lsn
from chroma_async.wal import MemoryLog, MemoryLogState, NewEntry, SqliteLog, TruncatableLog

Outcome = Any
"""What a call returned, or the class of what it raised."""


@dataclass
class Model:
    """The contract in lists. `kept` has (collection, payload) from LSN `oldest` on."""

    newest: int = 0
    oldest: int = 1
    kept: dict[int, tuple[str | None, bytes | None]] = field(default_factory=dict)
    rows: dict[str, bytes] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)
    applied: dict[str, int] = field(default_factory=dict)
    freed_through: dict[str, int] = field(default_factory=dict)

    def append(self, after: int, entries: list[NewEntry], rows: dict[str, bytes | None]) -> Outcome:
        ids = [entry.operation_id for entry in entries if entry.operation_id]
        if not entries or len(ids) != len(set(ids)):
            return ValueError
        known = [self.operations[operation] for operation in ids if operation in self.operations]
        if len(known) == len(entries):
            return known[0]
        if after != self.newest:
            return LogConflict
        if known:
            return ValueError
        for lsn, entry in enumerate(entries, after + 1):
            self.kept[lsn] = (entry.collection, entry.payload)
            if entry.operation_id:
                self.operations[entry.operation_id] = lsn
        self.newest += len(entries)
        self.rows = {key: value for key, value in (self.rows | rows).items() if value is not None}
        return after + 1

    def read(self, after: int, through: int | None) -> Outcome:
        last = self.newest if through is None else through
        if through is not None and after >= through:
            return []
        if after + 1 < self.oldest:
            return LogTruncated
        if after > self.newest:
            return LogReset
        return [(lsn, *self.kept[lsn]) for lsn in range(after + 1, min(last, self.newest) + 1)]

    def note(self, collection: str, through: int) -> None:
        self.applied[collection] = max(through, self.applied.get(collection, 0))

    def truncate(self, collection: str, through: int, keep_after: int | None) -> None:
        self.note(collection, through)
        self._free({lsn for lsn, (other, _) in self.kept.items() if other == collection and lsn <= through})
        self._forget(self.newest if keep_after is None else keep_after)

    def truncate_all(self, through: int) -> None:
        applied = {lsn for lsn, (other, _) in self.kept.items() if lsn <= self.applied.get(other or "", 0)}
        self._free({lsn for lsn in applied if lsn <= through})
        self._forget(through)

    def history(self, collection: str | None, after: int) -> Outcome:
        if collection is None:
            return self.read(after, None) if after < self.newest or after + 1 < self.oldest else self._at_end(after)
        if after < self.freed_through.get(collection, 0):
            return LogTruncated
        if after > self.newest:
            return LogReset
        found = [(lsn, *entry) for lsn, entry in sorted(self.kept.items()) if lsn > after and entry[0] == collection]
        return [entry for entry in found if entry[2] is not None]

    def _at_end(self, after: int) -> Outcome:
        return LogReset if after > self.newest else []

    @property
    def first_unapplied(self) -> int:
        held = [(lsn, collection) for lsn, (collection, payload) in self.kept.items() if collection and payload is not None]
        waiting = [lsn for lsn, collection in held if lsn > self.applied.get(collection, 0)]
        return min(waiting, default=self.newest + 1)

    @property
    def holding(self) -> set[str]:
        return {collection for collection, payload in self.kept.values() if collection and payload is not None}

    @property
    def size_bytes(self) -> int:
        return sum(len(payload or b"") for _, payload in self.kept.values())

    def _free(self, lsns: set[int]) -> None:
        for lsn in sorted(lsns):
            collection, payload = self.kept[lsn]
            if collection is not None and payload is not None:
                self.kept[lsn] = (collection, None)
                self.freed_through[collection] = max(lsn, self.freed_through.get(collection, 0))

    def _forget(self, last: int) -> None:
        while self.oldest <= min(last, self.newest) and None in self.kept[self.oldest]:
            del self.kept[self.oldest]
            self.oldest += 1


class Subject:
    """A log, asked in the words of the model."""

    def __init__(self, log: TruncatableLog) -> None:
        self.log = log

    async def append(self, after: int, entries: list[NewEntry], rows: dict[str, bytes | None]) -> Outcome:
        try:
            return await self.log.append(entries, after=Lsn(after), rows=rows)
        except (LogConflict, ValueError) as error:
            return type(error)

    async def read(self, after: int, through: int | None) -> Outcome:
        last = None if through is None else Lsn(through)
        try:
            return [(e.lsn, e.collection, e.payload) async for e in self.log.read(after=Lsn(after), through=last)]
        except (LogTruncated, LogReset) as error:
            return type(error)

    async def truncate(self, collection: str, through: int, keep_after: int | None) -> None:
        keep = None if keep_after is None else Lsn(keep_after)
        await self.log.truncate_collection(CollectionId(collection), through=Lsn(through), keep_after=keep)

    async def note(self, collection: str, through: int) -> None:
        await self.log.note_applied(CollectionId(collection), through=Lsn(through))

    async def truncate_all(self, through: int) -> None:
        await self.log.truncate(through=Lsn(through))

    async def history(self, collection: str | None, after: int) -> Outcome:
        """All of it, in pages of an entry."""
        found: list[Any] = []
        chosen = None if collection is None else CollectionId(collection)
        try:
            while True:
                page = await self.log.history(chosen, after=Lsn(after), bytes_max=0)
                if not page.entries:
                    assert page.through == self.log.barrier()
                    return found
                assert page.through == page.entries[-1].lsn
                found += [(entry.lsn, entry.collection, entry.payload) for entry in page.entries]
                after = page.through
        except (LogTruncated, LogReset) as error:
            return type(error)

    async def state(self) -> Outcome:
        catalog = await self.log.catalog()
        return (await self.log.oldest(), self.log.barrier(), catalog.lsn, dict(catalog.rows))

    async def kept(self) -> Outcome:
        weights = await self.log.weights()
        assert not weights or weights[-1].through == self.log.barrier()
        size = sum(weight.size_bytes for weight in weights)
        return (await self.log.noted_applied(), await self.log.freed_through(), await self.log.first_unapplied(), size)


lsn = st.integers(0, 12)
collections = st.sampled_from(["a", "b"])
entries = st.lists(
    st.builds(
        NewEntry,
        payload=st.binary(max_size=4),
        time_ns=st.integers(0, 2**62),
        collection=st.none() | collections,
        operation_id=st.none() | st.sampled_from(["1", "2", "3", "4"]),
    ),
    max_size=3,
)
rows = st.dictionaries(st.sampled_from(["x", "y"]), st.none() | st.binary(max_size=2))
append_at_end = st.tuples(st.just("append"), st.none(), entries, rows)
call = st.one_of(
    append_at_end,
    append_at_end,
    st.tuples(st.just("append"), lsn, entries, rows),
    st.tuples(st.just("read"), lsn, st.none() | lsn),
    st.tuples(st.just("truncate"), collections, lsn, st.none() | lsn),
    st.tuples(st.just("note"), collections, lsn),
    st.tuples(st.just("truncate_all"), lsn),
    st.tuples(st.just("history"), st.none() | collections, lsn),
    st.tuples(st.just("reopen")),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(calls=st.lists(call, max_size=20))
def test_all_logs_agree_with_the_model(calls: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        anyio.run(_compare, Path(directory), calls)


async def _compare(directory: Path, calls: list[tuple[Any, ...]]) -> None:
    model, state = Model(), MemoryLogState()
    subjects = [Subject(await SqliteLog.open(directory)), Subject(MemoryLog(state))]
    for name, *arguments in calls:
        if name == "reopen":
            for subject in subjects:
                await subject.log.close()
            subjects = [Subject(await SqliteLog.open(directory)), Subject(MemoryLog(state))]
            continue
        if name == "append" and arguments[0] is None:
            arguments[0] = model.newest
        expected = getattr(model, name)(*arguments)
        for subject in subjects:
            assert await getattr(subject, name)(*arguments) == expected
            assert await subject.state() == (model.oldest, model.newest, model.newest, model.rows)
    kept = (model.applied, model.freed_through, model.first_unapplied, model.size_bytes)
    for subject in subjects:
        assert await subject.kept() == kept
        assert await subject.log.holding() == model.holding
    for subject in subjects:
        assert await subject.read(model.oldest - 1, None) == model.read(model.oldest - 1, None)
        await subject.log.close()
