"""The log in memory, for simulated processes that share one log: what was not synced can be lost."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio
import anyio.lowlevel
from msgspec import Struct, field
from msgspec.structs import replace

from chroma_async.errors import LogCorrupt, LogHole
from chroma_async.model import CollectionId, Lsn
from chroma_async.wal.checks import (
    OPERATION_WINDOW,
    WEIGHTS_MAX,
    check_batch,
    check_history,
    check_lost,
    check_reachable,
    checksum,
    conflict,
    mixed_operations,
    operation_ids,
    repeated_lsn,
)
from chroma_async.wal.holds import Holds
from chroma_async.wal.store import CatalogRows, Durability, Entry, History, NewEntry, Weight

_READ_ROWS: Final = 256
"""Entries that a reader yields between two chances for other tasks to run."""


class _Stored(Struct, frozen=True):
    entry: Entry
    operation_id: str | None
    crc: int


class _Image(Struct):
    """All that a log holds."""

    oldest: int
    newest: int
    entries: dict[int, _Stored]
    rows: dict[str, bytes]
    operations: dict[str, int]
    noted_applied: dict[CollectionId, Lsn] = field(default_factory=dict[CollectionId, Lsn])
    freed_through: dict[CollectionId, Lsn] = field(default_factory=dict[CollectionId, Lsn])

    def copy(self) -> _Image:
        parts = (self.entries, self.rows, self.operations, self.noted_applied, self.freed_through)
        return _Image(self.oldest, self.newest, *(dict(part) for part in parts))  # type: ignore[arg-type]


class MemoryLogState:
    """What outlives the handles of a log in memory: the medium, and the power switch of the machine around it."""

    def __init__(self, identity: str | None = None) -> None:
        self.identity: Final = identity or uuid.uuid4().hex
        self.image = _Image(1, 0, {}, {}, {})
        self.turn = anyio.Lock()
        self.power_cuts = 0
        self.pins = 0
        self._synced: _Image | None = None

    def begin_unsynced(self) -> None:
        """Keep the image of the last `sync` aside, before the first change that it does not cover."""
        self._synced = self._synced or self.image.copy()

    def sync(self) -> None:
        """Make all that was appended so far outlive `lose_unsynced`."""
        self._synced = None

    def lose_unsynced(self) -> None:
        """Cut the power: back to the last `sync`. Every process is dead then: the turn is free, all handles are closed."""
        self.image = self._synced or self.image
        self._synced = None
        self.turn = anyio.Lock()
        self.pins = 0
        self.power_cuts += 1


class MemoryLog:
    """A `TruncatableLog` in memory. Handles on one state are to each other as processes on one directory.

    With a durability other than `commit`, a cut of the power loses what was changed since the last `sync`.
    """

    def __init__(self, state: MemoryLogState | None = None, *, durability: Durability = "commit") -> None:
        self.state: Final = state or MemoryLogState()
        self._durability = durability
        self._power_cuts = self.state.power_cuts
        self._holds = Holds()
        self._closed = False

    @property
    def identity(self) -> str:
        return self.state.identity

    async def sync(self) -> None:
        self._check_open()
        self.state.sync()

    async def append(
        self, entries: Sequence[NewEntry], *, after: Lsn, rows: Mapping[str, bytes | None] | None = None
    ) -> Lsn:
        check_batch(entries)
        async with self.exclusive():
            self._check_open()
            return self._append(entries, after, rows or {})

    def _append(self, entries: Sequence[NewEntry], after: Lsn, rows: Mapping[str, bytes | None]) -> Lsn:
        now = self.state.image
        known = [now.operations.get(operation) for operation in operation_ids(entries)]
        repeated = repeated_lsn(entries, known)
        if repeated is not None:
            return repeated
        if now.newest != after:
            raise conflict(after, now.newest)
        if any(lsn is not None for lsn in known):
            raise mixed_operations(entries, known)
        self._store(entries, rows)
        return Lsn(after + 1)

    def _store(self, entries: Sequence[NewEntry], rows: Mapping[str, bytes | None]) -> None:
        # All that can fail comes before the first change.
        stored = [_stored(Lsn(lsn), new) for lsn, new in enumerate(entries, self.state.image.newest + 1)]
        now = self._image_to_change()
        now.entries.update({item.entry.lsn: item for item in stored})
        now.operations.update({item.operation_id: item.entry.lsn for item in stored if item.operation_id is not None})
        now.newest += len(entries)
        now.rows.update({key: value for key, value in rows.items() if value is not None})
        for key in [key for key, value in rows.items() if value is None]:
            now.rows.pop(key, None)

    async def go_on_after(self, lsn: Lsn) -> None:
        async with self.exclusive():
            self._check_open()
            check_lost(self.state.image.newest, lsn)
            now = self._image_to_change()
            for lost in range(now.newest + 1, lsn + 1):
                now.entries[lost] = _Stored(Entry(Lsn(lost), None, None, 0), None, checksum(lost, None, 0, None, None))
                now.newest = lost

    async def operations(self, prefixes: Sequence[str]) -> Mapping[str, tuple[str, Lsn]]:
        """See `LogStore.operations`."""
        self._check_open()
        known = self.state.image.operations
        greatest = {prefix: max((item for item in known if item.startswith(prefix)), default=None) for prefix in prefixes}
        return {prefix: (item, Lsn(known[item])) for prefix, item in greatest.items() if item is not None}

    async def read(self, *, after: Lsn, through: Lsn | None = None) -> AsyncIterator[Entry]:
        """See `LogStore.read`. Ends, at the latest, with what was the newest entry when the read began."""
        self._check_open()
        last: int | None = through
        while last is None or after < last:
            await anyio.lowlevel.checkpoint()
            self._check_open()
            now = self.state.image
            check_reachable(after, now.oldest, now.newest)
            last = now.newest if last is None else min(last, now.newest)
            for lsn in range(after + 1, min(last, after + _READ_ROWS) + 1):
                # Consumers take their time: what is truncated meanwhile is noticed at each entry.
                check_reachable(lsn - 1, self.state.image.oldest, self.state.image.newest)
                yield _verified(self.state.image, lsn)
                after = Lsn(lsn)

    def require_in_place(self) -> None:
        """It has no place."""

    def barrier(self) -> Lsn:
        self._check_open()
        return Lsn(self.state.image.newest)

    @asynccontextmanager
    async def exclusive(self) -> AsyncGenerator[None]:
        """See `LogStore.exclusive`. May be nested. Tasks that are started inside it write as its holder does."""
        self._check_open()
        if self._holds.inside():
            yield
            return
        async with self.state.turn:
            self._check_open()
            with self._holds.entered():
                yield

    async def catalog(self) -> CatalogRows:
        self._check_open()
        return CatalogRows(Lsn(self.state.image.newest), dict(self.state.image.rows))

    @asynccontextmanager
    async def pinned(self) -> AsyncGenerator[None]:
        self._check_open()
        self.state.pins += 1
        try:
            yield
        finally:
            self.state.pins = max(0, self.state.pins - 1)

    async def truncate_collection(self, collection: CollectionId, *, through: Lsn, keep_after: Lsn | None = None) -> bool:
        self._check_open()
        async with self.exclusive():
            self._check_open()
            if self.state.pins:
                return False
            now = self._image_to_change()
            _note_applied(now, collection, through)
            _free(now, lambda entry: entry.collection == collection and entry.lsn <= through)
            _forget(now, now.newest if keep_after is None else keep_after)
            return True

    async def note_applied(self, collection: CollectionId, *, through: Lsn) -> bool:
        self._check_open()
        async with self.exclusive():
            self._check_open()
            if self.state.pins:
                return False
            _note_applied(self._image_to_change(), collection, through)
            return True

    async def truncate(self, *, through: Lsn) -> bool:
        self._check_open()
        async with self.exclusive():
            self._check_open()
            if self.state.pins:
                return False
            now = self._image_to_change()
            _free(now, lambda entry: entry.lsn <= through and not _waits(now, entry))
            _forget(now, through)
            return True

    async def history(self, collection: CollectionId | None, *, after: Lsn, bytes_max: int) -> History:
        """See `LogStore.history`."""
        self._check_open()
        now = self.state.image
        if collection is None:
            check_reachable(after, now.oldest, now.newest)
        else:
            check_history(after, now.freed_through.get(collection, 0), now.newest)
        entries: list[Entry] = []
        size = 0
        for lsn in range(max(after + 1, now.oldest), now.newest + 1):
            try:
                entry = _verified(now, lsn)
            except (LogCorrupt, LogHole):
                if entries:
                    break
                raise
            if collection is not None and (entry.collection != collection or entry.payload is None):
                continue
            size += len(entry.payload or b"")
            if entries and (size > bytes_max or len(entries) >= _READ_ROWS):
                break
            entries.append(entry)
        return History(entries, entries[-1].lsn if entries else Lsn(now.newest))

    async def freed_through(self) -> Mapping[CollectionId, Lsn]:
        self._check_open()
        return dict(self.state.image.freed_through)

    async def first_unapplied(self) -> Lsn:
        self._check_open()
        now = self.state.image
        waiting = (lsn for lsn, stored in now.entries.items() if _waits(now, stored.entry))
        return Lsn(min(waiting, default=now.newest + 1))

    async def first_lost(self) -> Lsn | None:
        self._check_open()
        entries = [stored.entry for stored in self.state.image.entries.values()]
        lost = [e.lsn for e in entries if e.collection is None and e.payload is None and e.time_ns == 0]
        return min(lost, default=None)

    async def owners(self, lsns: Iterable[Lsn]) -> Mapping[Lsn, CollectionId | None]:
        self._check_open()
        entries = self.state.image.entries
        return {lsn: entries[lsn].entry.collection for lsn in lsns if lsn in entries}

    async def holding(self) -> frozenset[CollectionId]:
        self._check_open()
        entries = [stored.entry for stored in self.state.image.entries.values()]
        return frozenset(e.collection for e in entries if e.collection is not None and e.payload is not None)

    async def weights(self) -> list[Weight]:
        self._check_open()
        groups: dict[int, Weight] = {}
        now = self.state.image
        together = max(1, (now.newest - now.oldest) // WEIGHTS_MAX)
        for lsn, stored in sorted(now.entries.items()):
            entry, before = stored.entry, groups.get(lsn // together)
            size = len(entry.payload or b"") + (0 if before is None else before.size_bytes)
            time_ns = entry.time_ns if before is None else max(entry.time_ns, before.time_ns)
            groups[lsn // together] = Weight(Lsn(lsn), time_ns, size)
        return list(groups.values())

    async def noted_applied(self) -> Mapping[CollectionId, Lsn]:
        self._check_open()
        return dict(self.state.image.noted_applied)

    async def oldest(self) -> Lsn:
        self._check_open()
        return Lsn(self.state.image.oldest)

    async def tidy(self) -> bool:
        self._check_open()
        return True

    async def scrub(self) -> None:
        self._check_open()

    async def size_bytes(self) -> int:
        self._check_open()
        return 0

    async def close(self) -> None:
        """Close this handle; the state stays. More than once does no harm."""
        self._closed = True

    def _image_to_change(self) -> _Image:
        """Return the image; a change of it is synced from the beginning, or can be lost until `sync`."""
        if self._durability == "commit":
            self.state.sync()
        else:
            self.state.begin_unsynced()
        return self.state.image

    def _check_open(self) -> None:
        if self._closed or self._power_cuts != self.state.power_cuts:
            raise RuntimeError("the log is closed: open it again")


def _stored(lsn: Lsn, new: NewEntry) -> _Stored:
    payload = bytes(new.payload)
    crc = checksum(lsn, new.collection, new.time_ns, new.operation_id, payload)
    return _Stored(Entry(lsn, new.collection, payload, new.time_ns), new.operation_id, crc)


def _waits(now: _Image, entry: Entry) -> bool:
    """Whether an entry is not applied, as far as the log was told."""
    collection = entry.collection
    return collection is not None and entry.payload is not None and entry.lsn > now.noted_applied.get(collection, 0)


def _note_applied(now: _Image, collection: CollectionId, through: Lsn) -> None:
    now.noted_applied[collection] = max(through, now.noted_applied.get(collection, Lsn(0)))


def _free(now: _Image, is_meant: Callable[[Entry], bool]) -> None:
    for lsn, stored in now.entries.items():
        collection = stored.entry.collection
        if collection is not None and stored.entry.payload is not None and is_meant(stored.entry):
            now.entries[lsn] = _freed(stored)
            now.freed_through[collection] = max(Lsn(lsn), now.freed_through.get(collection, Lsn(0)))


def _freed(stored: _Stored) -> _Stored:
    entry = replace(stored.entry, payload=None)
    crc = checksum(entry.lsn, entry.collection, entry.time_ns, stored.operation_id, None)
    return replace(stored, entry=entry, crc=crc)


def _verified(now: _Image, lsn: int) -> Entry:
    stored = now.entries.get(lsn)
    if stored is None:
        raise LogHole(f"entries are missing in the middle of the log: restore it. after={lsn - 1}")
    entry = stored.entry
    if checksum(lsn, entry.collection, entry.time_ns, stored.operation_id, entry.payload) != stored.crc:
        raise LogCorrupt(f"an entry does not match its checksum: restore the log. lsn={lsn}")
    return entry


def _forget(now: _Image, through: int) -> None:
    while now.oldest <= through and _needless(now.entries.get(now.oldest)):
        del now.entries[now.oldest]
        now.oldest += 1
    for operation, lsn in list(now.operations.items()):
        if lsn > now.newest - OPERATION_WINDOW:
            break
        del now.operations[operation]


def _needless(stored: _Stored | None) -> bool:
    return stored is not None and (stored.entry.payload is None or stored.entry.collection is None)
