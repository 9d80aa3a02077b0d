"""The log in one SQLite file, shared by any number of processes.

Theory of operation. Two connections per handle: one writes, one reads, so that a read never waits for an fsync of its
own process. A write is three steps (`transactions`): take the turn (`turns.FileLock`), run one transaction, publish the
new end (`turns.SharedLsn`) before the turn is given back; so the published number never goes backwards. Who is killed
between the last two has said before that it would publish: the next one who has the turn does it. Until then nobody is
given what was committed, since others do not see it yet. Freeing (`truncation`) is many such writes, each of them short.

An append of one entry, as most are, is one trip to the writer's thread, because each costs as much as the work it does:
the insert is a transaction by itself. One of several entries, or with rows of the catalog, takes three: it is begun,
inserted and committed. What must not be trusted to callers is in the schema: a trigger refuses an LSN that does not
follow the newest one. Numbering starts from the LSN that the caller names, so that trigger is also the check of `after`.
Checksums are computed by the generator that feeds the inserts, and therefore in that thread too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final, Self

import anyio.to_thread
from msgspec import Struct

from chroma_async.model import CollectionId, Lsn
from chroma_async.seams.limits import limit_error
from chroma_async.wal.checks import (
    check_batch,
    check_history,
    check_lost,
    check_reachable,
    checksum,
    conflict,
    hole,
    mixed_operations,
    only_row,
    operation_ids,
    repeated_lsn,
    row_checksum,
)
from chroma_async.wal.sqlite import sql
from chroma_async.wal.sqlite.connections import FILE, Row, fetched, number
from chroma_async.wal.sqlite.journal import Journal
from chroma_async.wal.sqlite.opening import OpenFiles, add_lost, open_files
from chroma_async.wal.sqlite.rows import entry_rows, verified, verified_catalog, within
from chroma_async.wal.sqlite.transactions import Transactions
from chroma_async.wal.sqlite.truncation import Truncation
from chroma_async.wal.sqlite.turns import pinned
from chroma_async.wal.store import CatalogRows, Durability, Entry, History, NewEntry, Weight

_PIN: Final = "log.pin"

_READ_BYTES: Final = 8 * 2**20
_READ_ROWS: Final = 1024


class _Page(Struct, frozen=True):
    newest: Lsn
    rows: list[Row]


class SqliteLog:
    """A `TruncatableLog` in one SQLite file. Made by `open`; belongs to one event loop; open as many as you like."""

    def __init__(self, directory: Path, files: OpenFiles) -> None:
        self._directory = directory
        self._identity = files.identity
        self._writer = files.writer
        self._reader = files.reader
        self._shared = files.shared
        self._transactions = Transactions(directory, files)
        self._truncation = Truncation(self._transactions, directory / _PIN)
        self._journal = Journal(directory / FILE)

    @classmethod
    async def open(cls, directory: Path, *, durability: Durability = "commit", create: bool = True) -> Self:
        """Open the log of a directory, or make it.

        Args:
            directory: where the files are; made with `create`.
            durability: `commit` fsyncs each append before it returns. `off` leaves that to the operating system, and
                `interval` to the caller's `sync`: a killed process loses nothing, a power cut loses the newest appends,
                never the order or the rest.
            create: without it, a directory that has no log is refused.

        Raises:
            FormatError: no log there, or one of a newer format, or a file that is something else.
            InsufficientStorageError, ResourceLimitError: opening takes 64 KB of room, a few handles, and a writable disk.
            ValueError: an unknown durability.
        """
        return cls(directory, await open_files(directory, durability=durability, create=create))

    @property
    def identity(self) -> str:
        return self._identity

    def require_in_place(self) -> None:
        self._transactions.place.require()

    async def size_bytes(self) -> int:
        self._transactions.check_open()
        files = (self._directory / f"{FILE}{suffix}" for suffix in ("", "-wal", "-shm"))
        return sum(file.stat().st_size for file in files if file.exists())

    async def close(self) -> None:
        """Close the files, after a running append. More than once does no harm."""
        await self._transactions.close()

    # ---- appending

    async def append(
        self, entries: Sequence[NewEntry], *, after: Lsn, rows: Mapping[str, bytes | None] | None = None
    ) -> Lsn:
        """See `LogStore.append`. Other errors of the driver (`sqlite3.Error`) arrive as they are, rolled back."""
        check_batch(entries)
        async with self._transactions.exclusive():
            return await self._transactions.run(lambda: self._append(entries, after, rows or {}))

    async def _append(self, entries: Sequence[NewEntry], after: Lsn, rows: Mapping[str, bytes | None]) -> Lsn:
        self._shared.begin()
        try:
            if len(entries) == 1 and not rows:  # a transaction by itself
                await self._writer.executemany(sql.INSERT, _numbered(entries, after))
            else:
                await self._writer.execute(sql.BEGIN)
                await self._writer.executemany(sql.INSERT, _numbered(entries, after))
                await self._change_rows(rows)
                await self._writer.commit()
        except sqlite3.IntegrityError as error:
            await self._writer.rollback()
            return await self._settle(entries, after, error)
        except (sqlite3.Error, MemoryError) as error:
            await self._raise_limit(error, after)
            raise
        self._shared.set(after + len(entries))
        return Lsn(after + 1)

    async def _change_rows(self, rows: Mapping[str, bytes | None]) -> None:
        puts = [(key, row_checksum(key, value), value) for key, value in rows.items() if value is not None]
        drops = [(key,) for key, value in rows.items() if value is None]
        if puts:
            await self._writer.executemany(sql.PUT_ROW, puts)
        if drops:
            await self._writer.executemany(sql.DROP_ROW, drops)

    async def _raise_limit(self, error: BaseException, after: Lsn) -> None:
        """Raise what an append failed for if the machine lacked it and nothing of the append is there: that is looked up."""
        limit = limit_error(error, self._directory)
        if limit is None:
            return
        if self._writer.in_transaction:
            await self._writer.rollback()
        if await number(self._writer, sql.NEWEST) == after:
            self._shared.set(after)
            raise limit from error

    async def _settle(self, entries: Sequence[NewEntry], after: Lsn, refusal: sqlite3.IntegrityError) -> Lsn:
        """Tell why the schema refused an append: it is a retry, it came too late, or it is both old and new."""
        known = [await self._known(operation) for operation in operation_ids(entries)]
        newest = await self._transactions.publish_newest()
        repeated = repeated_lsn(entries, known)
        if repeated is not None:
            return repeated
        if newest != after:
            raise conflict(after, newest) from refusal
        if any(lsn is not None for lsn in known):
            raise mixed_operations(entries, known) from refusal
        raise refusal

    async def _known(self, operation_id: str) -> int | None:
        found = await self._writer.execute_fetchall(sql.LSN_OF_OPERATION, (operation_id,))
        return next((int(row[0]) for row in found), None)

    async def go_on_after(self, lsn: Lsn) -> None:
        """See `LogStore.go_on_after`."""
        async with self._transactions.exclusive():
            await self._transactions.run(lambda: self._go_on_after(lsn))

    async def _go_on_after(self, lsn: Lsn) -> None:
        newest = await number(self._writer, sql.NEWEST)
        if newest >= lsn:
            return
        check_lost(newest, lsn)
        self._shared.begin()
        try:
            await add_lost(self._writer, newest, lsn)
        except (sqlite3.Error, MemoryError) as error:
            await self._raise_limit(error, Lsn(newest))
            raise
        self._shared.set(lsn)

    async def operations(self, prefixes: Sequence[str]) -> Mapping[str, tuple[str, Lsn]]:
        """See `LogStore.operations`. One query for all of them."""
        self._transactions.check_open()
        ranges = [bound for prefix in prefixes for bound in (prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1))]
        found = await fetched(self._reader, sql.OPERATIONS.format(ranges=", ".join(["(?, ?)"] * len(prefixes))), ranges)
        operations = {str(row[0]): (str(row[1]), Lsn(int(row[2]))) for row in found}
        if any(lsn > self.barrier() for _, lsn in operations.values()):
            async with self.exclusive():  # whoever appended it tells of it before that, or was killed: then this does
                pass
        return operations

    async def sync(self) -> None:
        self._transactions.check_open()
        await anyio.to_thread.run_sync(self._journal.sync)

    def exclusive(self) -> AbstractAsyncContextManager[None]:
        return self._transactions.exclusive()

    # ---- reading

    def barrier(self) -> Lsn:
        self._transactions.check_open()
        return Lsn(self._shared.known())

    async def read(self, *, after: Lsn, through: Lsn | None = None) -> AsyncIterator[Entry]:
        """See `LogStore.read`. Ends, at the latest, with what was the newest entry when the first one was read."""
        self._transactions.check_open()
        last = sql.NO_LIMIT if through is None else int(through)
        while after < last:
            page = await self._page(after, self.barrier() if through is None else last)
            last = min(last, page.newest)
            entries, error = await verified(page.rows, after)
            for entry in entries:
                yield entry
            if error is not None:
                raise error
            after = Lsn(after + len(entries))
            if not entries and after < last:
                raise hole(after, last)

    async def _page(self, after: int, through: int, bytes_max: int = _READ_BYTES) -> _Page:
        """Some entries up to `through`, which is what is known to be told, or what somebody told the caller.

        Nobody is given more: between a commit and the telling of it, it would be news that others do not see yet.
        """
        self._transactions.check_open()
        limits = {"after": after, "through": through, "rows": _READ_ROWS, "bytes": bytes_max}
        found = await fetched(self._reader, sql.PAGE, limits)
        newest, oldest = only_row(found)[:2]
        check_reachable(after, oldest, newest)
        page = _Page(Lsn(min(newest, through)), entry_rows(found))
        self._shared.saw(page.newest)
        return page

    async def history(self, collection: CollectionId | None, *, after: Lsn, bytes_max: int) -> History:
        """See `LogStore.history`."""
        if collection is None:
            page = await self._page(after, self.barrier(), bytes_max)
            rows, newest = within(page.rows, bytes_max), page.newest
            entries, error = await verified(rows, after)
        else:
            published = self.barrier()  # as of a page
            limits = {"collection": collection, "after": after, "through": published, "rows": _READ_ROWS, "bytes": bytes_max}
            found = await fetched(self._reader, sql.HISTORY, limits)
            newest = Lsn(min(found[0][0], published))
            check_history(after, found[0][1], found[0][0])
            entries, error = await verified(entry_rows(found))
        if error is not None and not entries:
            raise error
        return History(entries, entries[-1].lsn if entries else newest)

    async def catalog(self) -> CatalogRows:
        """See `LogStore.catalog`. Unlike a page it may be of an instant that its writer has not told of yet."""
        self._transactions.check_open()
        found = await fetched(self._reader, sql.CATALOG)
        self._shared.saw(found[0][0])
        rows = [row[1:] for row in found if row[1] is not None]
        return CatalogRows(Lsn(found[0][0]), await anyio.to_thread.run_sync(verified_catalog, rows))

    # ---- what was applied, freed, and is kept

    async def noted_applied(self) -> Mapping[CollectionId, Lsn]:
        self._transactions.check_open()
        return {CollectionId(collection): Lsn(lsn) for collection, lsn in await fetched(self._reader, sql.NOTED_APPLIED)}

    async def freed_through(self) -> Mapping[CollectionId, Lsn]:
        self._transactions.check_open()
        return {CollectionId(collection): Lsn(lsn) for collection, lsn in await fetched(self._reader, sql.FREED_THROUGH)}

    async def first_unapplied(self) -> Lsn:
        self._transactions.check_open()
        return Lsn(await number(self._reader, sql.FIRST_UNAPPLIED))

    async def oldest(self) -> Lsn:
        self._transactions.check_open()
        return Lsn(await number(self._reader, sql.OLDEST))

    async def first_lost(self) -> Lsn | None:
        self._transactions.check_open()
        ((found,),) = await fetched(self._reader, sql.FIRST_LOST)
        return None if found is None else Lsn(found)

    async def owners(self, lsns: Iterable[Lsn]) -> Mapping[Lsn, CollectionId | None]:
        self._transactions.check_open()
        found = [(lsn, row[0]) for lsn in lsns for row in await fetched(self._reader, sql.OWNER, (lsn,))]
        return {lsn: None if owner is None else CollectionId(owner) for lsn, owner in found}

    async def holding(self) -> frozenset[CollectionId]:
        self._transactions.check_open()
        return frozenset(CollectionId(row[0]) for row in await fetched(self._reader, sql.HOLDING))

    async def weights(self) -> list[Weight]:
        self._transactions.check_open()
        return [Weight(Lsn(row[0]), row[1], row[2]) for row in await fetched(self._reader, sql.WEIGHTS)]

    # ---- freeing

    @asynccontextmanager
    async def pinned(self) -> AsyncGenerator[None]:
        """See `LogStore.pinned`."""
        self._transactions.check_open()
        async with pinned(self._directory / _PIN):
            yield

    async def note_applied(self, collection: CollectionId, *, through: Lsn) -> bool:
        return await self._truncation.note_applied(collection, through)

    async def truncate_collection(self, collection: CollectionId, *, through: Lsn, keep_after: Lsn | None = None) -> bool:
        return await self._truncation.truncate_collection(collection, through, keep_after)

    async def truncate(self, *, through: Lsn) -> bool:
        return await self._truncation.truncate(through)

    async def tidy(self) -> bool:
        return await self._truncation.tidy()

    async def scrub(self) -> None:
        await self._truncation.scrub()


def _numbered(entries: Sequence[NewEntry], after: int) -> Iterator[Row]:
    for lsn, entry in enumerate(entries, after + 1):
        crc = checksum(lsn, entry.collection, entry.time_ns, entry.operation_id, entry.payload)
        yield lsn, entry.collection, entry.time_ns, crc, entry.operation_id, entry.payload
