"""The logs of a simulated machine: in memory, or in SQLite's files; what a power cut leaves, and appends that fail."""

from __future__ import annotations

import errno
import random
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal, Protocol

from chroma_async.model import CollectionId, Lsn
from chroma_async.settings import Durability
from chroma_async.wal import LOG_FILE, MemoryLog, MemoryLogState, NewEntry, SqliteLog, TruncatableLog

AppendFault = Literal["full", "unanswered", "untold"]
"""full: nothing is appended, the disk is full. unanswered: all is appended, but its fsync says that it failed. untold: all
is appended, and the process dies before it tells others how far the log goes now; in memory there is nothing to tell."""


class AppendFaults:
    """What happens to the next append, and to the next sync, of whichever process."""

    def __init__(self) -> None:
        self.append: AppendFault | None = None
        self.sync = False

    def take(self) -> AppendFault | None:
        fault, self.append = self.append, None
        return fault

    def check_sync(self) -> None:
        failing, self.sync = self.sync, False
        if failing:
            raise OSError(errno.EIO, "simulated: the log's fsync failed")


def _refuse(fault: AppendFault) -> None:
    raise OSError(errno.ENOSPC if fault == "full" else errno.EIO, f"simulated: {fault}")


class FailingMemoryLog(MemoryLog):
    """The log in memory, which fails when it is told to."""

    def __init__(self, state: MemoryLogState, faults: AppendFaults, *, durability: Durability) -> None:
        super().__init__(state, durability=durability)
        self._faults = faults

    async def append(
        self, entries: Sequence[NewEntry], *, after: Lsn, rows: Mapping[str, bytes | None] | None = None
    ) -> Lsn:
        fault = self._faults.take()
        if fault == "full":
            _refuse(fault)
        first = await super().append(entries, after=after, rows=rows)
        if fault is not None:
            _refuse(fault)
        return first

    async def sync(self) -> None:
        self._faults.check_sync()
        await super().sync()


class FailingSqliteLog(SqliteLog):
    """The log in SQLite, which fails when it is told to."""

    medium: SqliteMedium

    async def append(
        self, entries: Sequence[NewEntry], *, after: Lsn, rows: Mapping[str, bytes | None] | None = None
    ) -> Lsn:
        fault = self.medium.faults.take()
        if fault == "full":
            _refuse(fault)
        if fault == "untold":
            self._shared.set = lambda newest: _refuse("untold")  # type: ignore[method-assign]
        first = await super().append(entries, after=after, rows=rows)
        if fault is not None:
            _refuse(fault)
        return first

    async def sync(self) -> None:
        self.medium.faults.check_sync()
        await super().sync()
        self.medium.write_back()

    async def truncate_collection(self, collection: CollectionId, *, through: Lsn, keep_after: Lsn | None = None) -> bool:
        done = await super().truncate_collection(collection, through=through, keep_after=keep_after)
        self.medium.write_back()  # SQLite syncs its journal before it moves it into the file, which ends this
        return done


class Medium(Protocol):
    """What outlives the handles of a log."""

    faults: AppendFaults

    async def open(self, durability: Durability) -> TruncatableLog:
        """A handle for one process, of the durability that it chose."""
        ...

    def write_back(self) -> None:
        """The operating system writes what it has to the disk."""
        ...

    async def cut_power(self, handles: Sequence[TruncatableLog]) -> int:
        """Lose what a power cut may take, and return the LSN of the newest entry that is left.

        These are all handles that are open; they are of no use afterwards.
        """
        ...


class MemoryMedium:
    """A log in memory; a power cut takes it back to what was synced."""

    def __init__(self, seed: int) -> None:
        self.state = MemoryLogState(f"log-{seed}")
        self.faults = AppendFaults()

    async def open(self, durability: Durability) -> TruncatableLog:
        return FailingMemoryLog(self.state, self.faults, durability=durability)

    def write_back(self) -> None:
        self.state.sync()

    async def cut_power(self, handles: Sequence[TruncatableLog]) -> int:
        self.state.lose_unsynced()
        return self.state.image.newest


class SqliteMedium:
    """SQLite's own files. A power cut takes the end of its journal, or leaves the beginning of what was never committed."""

    def __init__(self, directory: Path, rng: random.Random, durability: Durability) -> None:
        self._directory = directory
        self._journal = directory / f"{LOG_FILE}-wal"
        self._rng = rng
        self._durability: Durability = durability
        self._safe_bytes = 0
        self.faults = AppendFaults()

    async def open(self, durability: Durability) -> TruncatableLog:
        is_new = not (self._directory / LOG_FILE).exists()
        log = await FailingSqliteLog.open(self._directory, durability=durability)
        log.medium = self
        if is_new:
            self.write_back()  # a log is made with fsync, whatever its durability
        return log

    def write_back(self) -> None:
        self._safe_bytes = self._journal.stat().st_size if self._journal.exists() else 0

    async def cut_power(self, handles: Sequence[TruncatableLog]) -> int:
        kept = {path: path.read_bytes() for path in (self._directory / LOG_FILE, self._journal) if path.exists()}
        for log in handles:
            await log.close()
        for path in self._directory.glob(f"{LOG_FILE}*"):
            path.unlink()
        for path, content in kept.items():
            path.write_bytes(self._torn(content) if path == self._journal else content)
        self._safe_bytes = 0
        if self._rng.random() < 0.5:  # the number that processes share is not synced: it may be of any time, or missing
            (self._directory / "log.committed").unlink(missing_ok=True)
        with closing(sqlite3.connect(self._directory / LOG_FILE)) as connection:
            return int(connection.execute("SELECT newest FROM bounds").fetchone()[0])

    def _torn(self, journal: bytes) -> bytes:
        if self._durability == "commit":
            return journal + self._rng.randbytes(self._rng.randint(0, 10_000))
        return journal[: self._rng.randint(min(self._safe_bytes, len(journal)), len(journal))]
