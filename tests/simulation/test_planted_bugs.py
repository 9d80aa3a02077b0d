"""Each of these bugs is planted and must be found by some of the seeds: a simulation that finds nothing proves nothing."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from tests.simulation.history import STEPS, History
from tests.simulation.play import MEMORY_FILES
from tests.simulation.world import LogKind, Regime

from chroma_async.core.events import RecordsDeleted
from chroma_async.core.memtable import Memtable
from chroma_async.engine.collection import CollectionReader
from chroma_async.engine.compaction.log_room import LogRoom
from chroma_async.engine.follower import Follower
from chroma_async.engine.fsync import IntervalFsync
from chroma_async.engine.read_view import View
from chroma_async.model import Lsn
from chroma_async.projections.segment_files import SegmentFiles
from chroma_async.projections.store import CollectionStore
from chroma_async.wal import MemoryLog
from chroma_async.wal.sqlite.transactions import Transactions

SEEDS = range(40)

Patch = pytest.MonkeyPatch


def early_truncation(patch: Patch) -> None:
    """The log is freed to its end, not to what was applied."""
    right = LogRoom._truncate

    async def wrong(self: LogRoom, collection_id: Any, through: Lsn) -> bool:
        return await right(self, collection_id, self._log.barrier())

    patch.setattr(LogRoom, "_truncate", wrong)


def manifest_before_fsync(patch: Patch) -> None:
    """Vectors and slots are published, and synced when the next ones are written."""

    def wrong(self: SegmentFiles, path: Path, offset: int, data: np.ndarray) -> None:
        if path.exists():
            self._files.sync(path)
        self._files.write_at(path, offset, data.data.cast("B"))

    patch.setattr(SegmentFiles, "_write_at", wrong)


def directory_without_fsync(patch: Patch) -> None:
    """Files are synced, their names are not."""
    patch.setattr("tests.simulation.disk.SimulatedFiles.sync_directory", lambda self, path: None)


def rows_and_manifest_in_two_transactions(patch: Patch) -> None:
    """A crash in between leaves rows that the manifest does not know of."""
    right = CollectionStore.publish

    def wrong(self: CollectionStore, draft: Any, tail: Any = None, sums: Any = None) -> None:
        if tail is not None:
            with self.tables.transaction(write=True):
                self.tables.apply(tail)
            self.files.sync_directory(self.directory)
        right(self, draft, None, sums)

    patch.setattr(CollectionStore, "publish", wrong)


def tail_dropped(patch: Patch) -> None:
    """A reader forgets an entry now and then."""
    right = CollectionReader.offer

    def wrong(self: CollectionReader, lsn: Lsn, payload: bytes) -> None:
        if lsn % 7:
            right(self, lsn, payload)

    patch.setattr(CollectionReader, "offer", wrong)


def add_that_overwrites(patch: Patch) -> None:
    """An add changes a record that exists."""
    right = Memtable._write

    def wrong(self: Memtable, event: Any) -> None:
        if event.head.operation == "add":
            event = replace(event, head=msgspec.structs.replace(event.head, operation="upsert"))
        right(self, event)

    patch.setattr(Memtable, "_write", wrong)


def half_a_batch(patch: Patch) -> None:
    """The last id of a deletion is overlooked."""
    right = Memtable.fold

    def wrong(self: Memtable, lsn: Lsn, event: Any) -> None:
        if isinstance(event, RecordsDeleted) and len(event.ids) > 1:
            event = RecordsDeleted(event.collection, event.ids[:-1])
        right(self, lsn, event)

    patch.setattr(Memtable, "fold", wrong)


def tombstone_forgotten(patch: Patch) -> None:
    """A deleted record of the base is not hidden."""
    right = Memtable.tail

    def wrong(self: Memtable, *, columns: bool = False) -> Any:
        self._died.clear()
        return right(self, columns=columns)

    patch.setattr(Memtable, "tail", wrong)


def acknowledged_before_fsync(patch: Patch) -> None:
    """A commit is answered when the operating system has it."""

    def wrong(self: MemoryLog) -> Any:
        self.state.begin_unsynced()
        return self.state.image

    patch.setattr(MemoryLog, "_image_to_change", wrong)


def applied_before_the_log_is_synced(patch: Patch) -> None:
    """What was applied outlives its entry, and the LSN is given to another one."""

    async def wrong(self: MemoryLog) -> None:
        return None

    patch.setattr("tests.simulation.logs.FailingMemoryLog.sync", wrong)


def deletion_of_a_collection_missed(patch: Patch) -> None:
    """A process that learns of a deletion from the log goes on to answer."""
    patch.setattr(Follower, "_drop_deleted", lambda self: None)
    patch.setattr("chroma_async.core.catalog.Catalog.apply", _without_deletions())


def _without_deletions() -> Callable[..., Any]:
    from chroma_async.core.catalog import Catalog
    from chroma_async.core.events import CollectionDeleted

    right = Catalog.apply

    def wrong(self: Catalog, event: Any) -> Any:
        return {} if isinstance(event, CollectionDeleted) else right(self, event)

    return wrong


# ---- a view that goes on with an older base (docs/decisions/0010-views-do-not-wait-for-a-newer-base.md)


def older_base_with_a_memtable_that_lacks_entries(patch: Patch) -> None:
    """What was applied since is neither in the older base nor in the memtable."""
    right = CollectionReader._suits

    def wrong(self: CollectionReader, tables: Any, newest: bool) -> bool:
        if right(self, tables, newest):
            return True
        if newest or not self._base.manifest.version or tables.version() < self._base.manifest.version:
            return False
        self.entries.drop_through(tables.manifest().applied)
        return True

    patch.setattr(CollectionReader, "_suits", wrong)


def entries_folded_over_tables_that_hold_their_effect(patch: Patch) -> None:
    """The memtable catches up over the newer tables instead of taking their base first."""
    right = CollectionReader._suits

    def wrong(self: CollectionReader, tables: Any, newest: bool) -> bool:
        if right(self, tables, newest):
            return True
        return not newest and bool(self._base.manifest.version) and tables.version() > self._base.manifest.version

    patch.setattr(CollectionReader, "_suits", wrong)


def slots_beyond_the_older_base_not_cut_off(patch: Patch) -> None:
    """Rows of the newer tables that are the tail's here are searched for words where they are stored."""
    right = View._test_document

    def wrong(self: View, test: Any, missing: Any) -> Any:
        mask = right(self, test, missing)
        if self._tables is not None and test.operator == "$contains":
            slots = self._tables.text_index.slots_containing(test.operand)
            mask[slots[slots < len(mask)]] = True
        return mask

    patch.setattr(View, "_test_document", wrong)


def newer_base_under_the_old_memtable(patch: Patch) -> None:
    """The base is renewed, and the memtable that was folded over the one before stays."""
    right = CollectionReader._renew

    def wrong(self: CollectionReader, tables: Any, *, packed: bool) -> bool:
        before = self._tail
        done = right(self, tables, packed=packed)
        if before.through > 0:
            self._tail = before
        return done

    patch.setattr(CollectionReader, "_renew", wrong)


def view_at_hand_of_yesterday(patch: Patch) -> None:
    """A view that must not wait is made of what was folded already."""
    right = CollectionReader._pin_at_hand

    def wrong(self: CollectionReader, tables: Any, wanted: Any) -> View:
        image = self._image
        if image is not None and image.has_columns >= wanted.columns and self._suits(tables, wanted.newest):
            return View(image, tables)
        return right(self, tables, wanted)

    patch.setattr(CollectionReader, "_pin_at_hand", wrong)


def rows_kept_from_the_base_before(patch: Patch) -> None:
    """A newer base goes on with the rows that were kept of the one before."""
    right = CollectionReader._renew

    def wrong(self: CollectionReader, tables: Any, *, packed: bool) -> bool:
        before = self._base.rows
        done = right(self, tables, packed=packed)
        self._base.rows = before
        return done

    patch.setattr(CollectionReader, "_renew", wrong)


def fsync_in_intervals_that_forgets_what_came_meanwhile(patch: Patch) -> None:
    """What is appended after an fsync waits for the second next one."""
    right = IntervalFsync.sync

    async def wrong(self: IntervalFsync) -> None:
        oldest = self._oldest
        await right(self)
        self._oldest = None if oldest is None else self._clock.monotonic() + 5

    patch.setattr(IntervalFsync, "sync", wrong)


def end_of_the_log_that_nobody_tells(patch: Patch) -> None:
    """Who finds that somebody died between a commit and telling of it knows it for itself alone."""

    async def wrong(self: Transactions) -> int:
        found = await self.writer.execute_fetchall("SELECT newest FROM bounds")
        return int(next(iter(found))[0])

    patch.setattr(Transactions, "publish_newest", wrong)


BUGS: dict[Callable[[Patch], None], tuple[Regime, LogKind]] = {
    early_truncation: ("commit", "memory"),
    manifest_before_fsync: ("commit", "memory"),
    directory_without_fsync: ("commit", "memory"),
    rows_and_manifest_in_two_transactions: ("commit", "memory"),
    tail_dropped: ("commit", "sqlite"),
    add_that_overwrites: ("commit", "memory"),
    half_a_batch: ("commit", "memory"),
    tombstone_forgotten: ("commit", "memory"),
    acknowledged_before_fsync: ("commit", "memory"),
    applied_before_the_log_is_synced: ("off", "memory"),
    deletion_of_a_collection_missed: ("commit", "memory"),
    fsync_in_intervals_that_forgets_what_came_meanwhile: ("interval", "memory"),
    older_base_with_a_memtable_that_lacks_entries: ("commit", "memory"),
    entries_folded_over_tables_that_hold_their_effect: ("commit", "memory"),
    slots_beyond_the_older_base_not_cut_off: ("commit", "memory"),
    newer_base_under_the_old_memtable: ("commit", "memory"),
    view_at_hand_of_yesterday: ("commit", "memory"),
    rows_kept_from_the_base_before: ("commit", "memory"),
    end_of_the_log_that_nobody_tells: ("commit", "sqlite"),
}


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_planted_bug_is_found(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    plant(monkeypatch)
    durability, log_kind = BUGS[plant]
    assert any(is_found(seed, durability, log_kind) for seed in SEEDS)


def is_found(seed: int, durability: Regime, log_kind: LogKind) -> bool:
    place = MEMORY_FILES if MEMORY_FILES.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="chroma_async-simulation-", dir=place) as directory:
        try:
            asyncio.run(History(Path(directory), seed, durability, log_kind).run(STEPS))
        except AssertionError as error:
            if isinstance(error.__cause__, TypeError | AttributeError):
                raise  # the bug does not fit what it was planted in
            return True
    return False
