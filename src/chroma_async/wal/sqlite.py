"""The log in one SQLite file, shared by any number of processes.

Theory of operation. Two connections per handle: one writes, one reads, so that a read never waits for an fsync of its
own process. A write is three steps: take the turn (`turns.FileLock`), run one transaction, publish the new end
(`turns.SharedLsn`) before the turn is given back; so the published number never goes backwards. Who is killed between the
last two has said before that it would publish: the next one who has the turn does it. Until then nobody is given what
was committed, since others do not see it yet.

An append of one entry, as most are, is one trip to the writer's thread, because each costs as much as the work it does:
the insert is a transaction by itself. One of several entries, or with rows of the catalog, takes three: it is begun,
inserted and committed. What must not be trusted to callers is in the schema: a trigger refuses an LSN that does not
follow the newest one. Numbering starts from the LSN that the caller names, so that trigger is also the check of `after`.
Checksums are computed by the generator that feeds the inserts, and therefore in that thread too.

A transaction runs in a task of its own. A caller that is cancelled, by anyio or by plain asyncio, waits for its end,
and gives back the turn only then. aiosqlite runs what it was given in order, so even a loop that shuts down in the
middle waits for a rollback that is queued behind the last statement.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Self, TypeVar, cast

import aiosqlite
import anyio
import anyio.to_thread
from msgspec import Struct

from chroma_async.errors import DirectoryReplacedError, FormatError, LogCorrupt, LogError, LogHole, UnavailableError
from chroma_async.model import CollectionId, Lsn
from chroma_async.seams.limits import limit_error
from chroma_async.wal.checks import (
    OPERATION_WINDOW,
    WEIGHTS_MAX,
    check_batch,
    check_history,
    check_reachable,
    checksum,
    conflict,
    mixed_operations,
    only_row,
    operation_ids,
    repeated_lsn,
    row_checksum,
)
from chroma_async.wal.holds import Holds
from chroma_async.wal.store import CatalogRows, Durability, Entry, History, NewEntry, Weight
from chroma_async.wal.turns import FileLock, SharedLsn, pinned, unpinned

T = TypeVar("T")
Row = tuple[Any, ...]
Statement = tuple[str, Row]

FORMAT: Final = 1
FILE: Final = "log.sqlite3"
_LOCK: Final = "log.lock"
_PIN: Final = "log.pin"
_COMMITTED: Final = "log.committed"

_PAGE_BYTES: Final = 8192
"""Of a database page. 4096 costs a third of the throughput of large entries, 16384 a third of that of small ones."""

_CHECKPOINT_PAGES: Final = 4000
"""When SQLite moves its journal into the file: at 32 MB. Small journals make large entries a third slower."""

_JOURNAL_BYTES_MAX: Final = 64 * 2**20
_BUSY_SECONDS: Final = 10.0
"""Waiting for who does not take turns: a shell with the sqlite3 program, another program's backup."""

_SCRUB_SECONDS: Final = 0.25
"""Waiting for who reads, while writers wait for the turn: most read for milliseconds."""

_READ_BYTES: Final = 8 * 2**20
_READ_ROWS: Final = 1024
_VERIFY_INLINE_BYTES: Final = 256 * 2**10
"""Checksums of less than this are computed where they are, a few hundred microseconds; of more in a worker thread."""

_FREE_ROWS: Final = 1024
_FREE_BYTES: Final = 64 * 2**20
"""Freed in one turn, which takes some ten milliseconds: what a writer may have to wait."""

_FORGET_ROWS: Final = 4096
_VACUUM_PAGES: Final = 1024
_SPARE_PAGES: Final = 1024
"""Free pages that stay in the file, 8 MB, since the next entries need them."""

_BRIDGED_MAX: Final = 100_000
"""Entries that a lost tail may have had. A tail is what SQLite's journal holds: 64 MB and rarely more."""

_NO_LIMIT: Final = 2**63 - 1

logger = logging.getLogger("chroma_async.log")

_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE log (identity TEXT NOT NULL, format INTEGER NOT NULL);
INSERT INTO log VALUES ('{identity}', {format});
CREATE TABLE entries (
    lsn INTEGER PRIMARY KEY AUTOINCREMENT,
    collection TEXT,
    time_ns INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    operation_id TEXT,
    payload BLOB
);
INSERT INTO sqlite_sequence VALUES ('entries', 0);
CREATE INDEX entries_kept ON entries (collection, lsn) WHERE payload IS NOT NULL;
CREATE TABLE operations (lsn INTEGER PRIMARY KEY, operation_id TEXT NOT NULL UNIQUE);
CREATE TABLE catalog (key TEXT PRIMARY KEY, crc INTEGER NOT NULL, value BLOB NOT NULL);
CREATE VIEW bounds AS
    SELECT seq AS newest, coalesce((SELECT min(lsn) FROM entries), seq + 1) AS oldest
    FROM sqlite_sequence WHERE name = 'entries';
CREATE TRIGGER entries_are_dense BEFORE INSERT ON entries
    WHEN NEW.lsn <> (SELECT seq + 1 FROM sqlite_sequence WHERE name = 'entries')
    BEGIN SELECT raise(ABORT, 'this lsn does not follow the newest one'); END;
CREATE TRIGGER entries_are_remembered AFTER INSERT ON entries
    WHEN NEW.operation_id IS NOT NULL
    BEGIN INSERT INTO operations VALUES (NEW.lsn, NEW.operation_id); END;
COMMIT;
"""

_BEGIN = "BEGIN IMMEDIATE"
_INSERT = "INSERT INTO entries (lsn, collection, time_ns, crc, operation_id, payload) VALUES (?, ?, ?, ?, ?, ?)"
_PUT = "INSERT OR REPLACE INTO catalog (key, crc, value) VALUES (?, ?, ?)"
_DROP = "DELETE FROM catalog WHERE key = ?"

# One statement, so one instant; at least one row, so that bounds come with an empty page too. Neither a window nor a sort
# may have payloads in its rows: SQLite copies them, which takes longer than all the rest. So lengths are found first, and
# the rows are sorted by whoever gets them.
_PAGE = """
WITH lengths AS (
    SELECT lsn, coalesce(length(payload), 0) AS bytes
    FROM entries WHERE lsn > :after AND lsn <= :through ORDER BY lsn LIMIT :rows
), sizes AS (
    SELECT lsn, sum(bytes) OVER (ORDER BY lsn ROWS UNBOUNDED PRECEDING) AS bytes FROM lengths
), page AS (
    SELECT coalesce(min(lsn) FILTER (WHERE bytes >= :bytes), max(lsn)) AS last FROM sizes
)
SELECT newest, oldest, lsn, collection, time_ns, crc, operation_id, payload
FROM bounds LEFT JOIN entries ON lsn > :after AND lsn <= (SELECT last FROM page)
"""

_CATALOG = "SELECT newest, key, crc, value FROM bounds LEFT JOIN catalog ON true ORDER BY key"

_FREE = """
UPDATE entries SET payload = NULL, crc = entry_crc(lsn, collection, time_ns, operation_id, NULL)
WHERE lsn IN (
    SELECT lsn FROM (
        SELECT lsn, sum(bytes) OVER (ORDER BY lsn ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before FROM (
            SELECT lsn, length(payload) AS bytes
            FROM entries WHERE collection = ? AND lsn <= ? AND payload IS NOT NULL ORDER BY lsn LIMIT ?
        )
    ) WHERE bytes_before < ?
)
"""

_FREED_TABLE = "CREATE TABLE IF NOT EXISTS freed (collection TEXT PRIMARY KEY, lsn INTEGER NOT NULL) WITHOUT ROWID"
_TRUNCATED_TABLE = "CREATE TABLE truncated (collection TEXT PRIMARY KEY, lsn INTEGER NOT NULL) WITHOUT ROWID"

_FREE_KEPT = """
UPDATE entries SET payload = NULL, crc = entry_crc(lsn, collection, time_ns, operation_id, NULL)
WHERE lsn IN (
    SELECT lsn FROM (
        SELECT lsn, sum(bytes) OVER (ORDER BY lsn ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before FROM (
            SELECT entries.lsn, length(payload) AS bytes FROM entries JOIN freed USING (collection)
            WHERE entries.lsn <= ? AND entries.lsn <= freed.lsn AND payload IS NOT NULL ORDER BY entries.lsn LIMIT ?
        )
    ) WHERE bytes_before < ?
)
"""

_NOTE_TRUNCATED = """
INSERT INTO truncated
SELECT collection, max(lsn) FROM entries WHERE collection = ? AND lsn <= ? AND payload IS NOT NULL GROUP BY collection
ON CONFLICT (collection) DO UPDATE SET lsn = excluded.lsn WHERE excluded.lsn > lsn
"""

# By LSN, as the entries are freed: the index would lead through all that is kept.
_NOTE_ALL_TRUNCATED = """
INSERT INTO truncated
SELECT entries.collection, max(entries.lsn) FROM entries NOT INDEXED JOIN freed USING (collection)
WHERE entries.lsn <= ? AND entries.lsn <= freed.lsn AND payload IS NOT NULL GROUP BY entries.collection
ON CONFLICT (collection) DO UPDATE SET lsn = excluded.lsn WHERE excluded.lsn > lsn
"""

_NOTE_FREED = """
INSERT INTO freed VALUES (?, ?) ON CONFLICT (collection) DO UPDATE SET lsn = excluded.lsn WHERE excluded.lsn > lsn
"""

_FORGET_DELETED = """
DELETE FROM {table} WHERE 'collection/' || collection NOT IN (SELECT key FROM catalog)
AND collection NOT IN (SELECT collection FROM entries WHERE payload IS NOT NULL AND collection IS NOT NULL)
"""

_FREED = """
SELECT collection, max(lsn) FROM (
    SELECT collection, lsn FROM freed
    UNION ALL SELECT collection, lsn FROM entries WHERE payload IS NULL AND collection IS NOT NULL
) GROUP BY collection
"""

# For a log of 0.1.0, which kept no account; from then on the account is whole, and much shorter than the entries.
_ALL_WAS_FREED = f"INSERT INTO truncated {_FREED}"
_TRUNCATED = "SELECT collection, lsn FROM truncated"

_FORGET = """
DELETE FROM entries WHERE lsn <= ? AND lsn < coalesce(
    (SELECT lsn FROM entries WHERE payload IS NOT NULL AND collection IS NOT NULL ORDER BY lsn LIMIT 1), ?
) AND lsn < (SELECT min(lsn) FROM entries) + ?
"""

# The newest entry through which a collection was freed comes from the same instant as the entries.
_HISTORY = """
WITH found AS (
    SELECT lsn, length(payload) AS bytes FROM entries
    WHERE collection = :collection AND payload IS NOT NULL AND lsn > :after AND lsn <= :through ORDER BY lsn LIMIT :rows
), sizes AS (
    SELECT lsn, row_number() OVER (ORDER BY lsn) AS number, sum(bytes) OVER (ORDER BY lsn ROWS UNBOUNDED PRECEDING) AS bytes
    FROM found
)
SELECT newest, coalesce((SELECT lsn FROM truncated WHERE collection = :collection), 0), chosen.*
FROM bounds LEFT JOIN (
    SELECT entries.lsn, collection, time_ns, crc, operation_id, payload FROM sizes JOIN entries USING (lsn)
    WHERE number = 1 OR bytes <= :bytes
) AS chosen ON true
"""

_HOLDING = "SELECT DISTINCT collection FROM entries WHERE payload IS NOT NULL AND collection IS NOT NULL"

_FIRST_UNAPPLIED = f"""
SELECT coalesce(min(first), (SELECT newest + 1 FROM bounds)) FROM (
    SELECT (
        SELECT min(lsn) FROM entries WHERE collection = holding.collection AND payload IS NOT NULL
        AND lsn > coalesce((SELECT lsn FROM freed WHERE collection = holding.collection), 0)
    ) AS first FROM ({_HOLDING}) AS holding
)
"""

_WEIGHTS = f"""
WITH lengths AS MATERIALIZED (SELECT lsn, time_ns, coalesce(length(payload), 0) AS bytes FROM entries)
SELECT max(lsn), max(time_ns), sum(bytes) FROM lengths
GROUP BY lsn / (SELECT max(1, (newest - oldest) / {WEIGHTS_MAX}) FROM bounds) ORDER BY 1
"""

_OPERATIONS = """
WITH ranges (first, beyond) AS (VALUES {ranges})
SELECT first, operation_id, lsn FROM ranges CROSS JOIN operations
    ON operation_id = (SELECT max(operation_id) FROM operations WHERE operation_id >= first AND operation_id < beyond)
"""
_FORGET_OPERATIONS = "DELETE FROM operations WHERE lsn <= (SELECT newest FROM bounds) - ?"


class _Page(Struct, frozen=True):
    newest: Lsn
    oldest: Lsn
    rows: list[Row]


class SqliteLog:
    """A `LogStore` in one SQLite file. Made by `open`; belongs to one event loop; open as many as you like."""

    def __init__(
        self, directory: Path, identity: str, writer: aiosqlite.Connection, reader: aiosqlite.Connection, shared: SharedLsn
    ) -> None:
        self._directory = directory
        self._identity = identity
        self._writer = writer
        self._reader = reader
        self._shared = shared
        self._file_lock = FileLock(directory / _LOCK)
        self._queue = anyio.Lock(fast_acquire=True)
        self._transaction = anyio.Lock(fast_acquire=True)
        self._holds = Holds()
        self._seen = Lsn(0)
        self._closed = False
        self._place = _place_of(directory / FILE)
        self._is_displaced = False
        self._durable_inode = 0
        """Of the journal whose name in the directory is on disk too."""

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
        synchronous = _synchronous(durability)
        if not create and not (directory / FILE).exists():
            raise FormatError(f"no log in this directory: check the path, or create one. file={FILE}")
        directory.mkdir(parents=True, exist_ok=True)
        try:
            turn = await FileLock(directory / _LOCK).acquire()
            try:
                return await cls._open_in_turn(directory, synchronous)
            finally:
                turn.release()
        except (sqlite3.Error, OSError) as error:
            limit = limit_error(error, directory)
            if limit is not None:
                raise limit from error
            raise

    @classmethod
    async def _open_in_turn(cls, directory: Path, synchronous: str) -> Self:
        writer, reader = _connection(directory / FILE), _connection(directory / FILE)
        try:
            identity = await _prepare_writer(writer, directory, synchronous)
            await reader
            await reader.execute("PRAGMA query_only = ON")
            newest = await _number(writer, "SELECT newest FROM bounds")
            shared = SharedLsn(directory / _COMMITTED)
            if shared.get() > newest:
                newest = await _bridge(writer, newest, shared.get())
        except BaseException:
            try:
                await _to_its_end(_close_all(reader, writer))
            finally:  # a thread that is still connecting would tell a loop that ends now of it, and fail with a traceback
                await _to_its_end(asyncio.to_thread(_await_threads, reader, writer))
            raise
        shared.set(newest)
        return cls(directory, identity, writer, reader, shared)

    @property
    def identity(self) -> str:
        return self._identity

    async def append(
        self, entries: Sequence[NewEntry], *, after: Lsn, rows: Mapping[str, bytes | None] | None = None
    ) -> Lsn:
        """See `LogStore.append`. Other errors of the driver (`sqlite3.Error`) arrive as they are, rolled back."""
        check_batch(entries)
        async with self.exclusive():
            return await self._in_transaction(lambda: self._append(entries, after, rows or {}))

    async def _append(self, entries: Sequence[NewEntry], after: Lsn, rows: Mapping[str, bytes | None]) -> Lsn:
        self._shared.begin()
        try:
            if len(entries) == 1 and not rows:  # a transaction by itself
                await self._writer.executemany(_INSERT, _numbered(entries, after))
            else:
                await self._writer.execute(_BEGIN)
                await self._writer.executemany(_INSERT, _numbered(entries, after))
                await self._change_rows(rows)
                await self._writer.commit()
        except sqlite3.IntegrityError as error:
            await self._writer.rollback()
            return await self._settle(entries, after, error)
        except (sqlite3.Error, MemoryError) as error:
            await self._raise_limit(error, after)
            raise
        self._publish(after + len(entries))
        return Lsn(after + 1)

    async def _raise_limit(self, error: BaseException, after: Lsn) -> None:
        """Raise what an append failed for if the machine lacked it and nothing of the append is there: that is looked up."""
        limit = limit_error(error, self._directory)
        if limit is None:
            return
        if self._writer.in_transaction:
            await self._writer.rollback()
        if await _number(self._writer, "SELECT newest FROM bounds") == after:
            self._publish(after)
            raise limit from error

    async def _change_rows(self, rows: Mapping[str, bytes | None]) -> None:
        puts = [(key, row_checksum(key, value), value) for key, value in rows.items() if value is not None]
        drops = [(key,) for key, value in rows.items() if value is None]
        if puts:
            await self._writer.executemany(_PUT, puts)
        if drops:
            await self._writer.executemany(_DROP, drops)

    async def _settle(self, entries: Sequence[NewEntry], after: Lsn, refusal: sqlite3.IntegrityError) -> Lsn:
        """Tell why the schema refused an append: it is a retry, it came too late, or it is both old and new."""
        known = [await self._known(operation) for operation in operation_ids(entries)]
        newest = await self._publish_newest()
        repeated = repeated_lsn(entries, known)
        if repeated is not None:
            return repeated
        if newest != after:
            raise conflict(after, newest) from refusal
        if any(lsn is not None for lsn in known):
            raise mixed_operations(entries, known) from refusal
        raise refusal

    async def operations(self, prefixes: Sequence[str]) -> Mapping[str, tuple[str, Lsn]]:
        """See `LogStore.operations`. One query for all of them."""
        self._check_open()
        ranges = [bound for prefix in prefixes for bound in (prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1))]
        found = await _fetched(self._reader, _OPERATIONS.format(ranges=", ".join(["(?, ?)"] * len(prefixes))), ranges)
        operations = {str(row[0]): (str(row[1]), Lsn(int(row[2]))) for row in found}
        if any(lsn > self.barrier() for _, lsn in operations.values()):
            async with self.exclusive():  # whoever appended it tells of it before that, or was killed: then this does
                pass
        return operations

    async def _known(self, operation_id: str) -> int | None:
        found = await self._writer.execute_fetchall("SELECT lsn FROM operations WHERE operation_id = ?", (operation_id,))
        return next((int(row[0]) for row in found), None)

    async def read(self, *, after: Lsn, through: Lsn | None = None) -> AsyncIterator[Entry]:
        """See `LogStore.read`. Ends, at the latest, with what was the newest entry when the first one was read."""
        self._check_open()
        last = _NO_LIMIT if through is None else int(through)
        while after < last:
            page = await self._page(after, self.barrier() if through is None else last)
            last = min(last, page.newest)
            entries, error = await _verified(page.rows, after)
            for entry in entries:
                yield entry
            if error is not None:
                raise error
            after = Lsn(after + len(entries))
            if not entries and after < last:
                raise _hole(after, last)

    async def _page(self, after: int, through: int, bytes_max: int = _READ_BYTES) -> _Page:
        """Some entries up to `through`, which is what is known to be told, or what somebody told the caller.

        Nobody is given more: between a commit and the telling of it, it would be news that others do not see yet.
        """
        self._check_open()
        limits = {"after": after, "through": through, "rows": _READ_ROWS, "bytes": bytes_max}
        found = await _fetched(self._reader, _PAGE, limits)
        newest, oldest = only_row(found)[:2]
        check_reachable(after, oldest, newest)
        page = _Page(Lsn(min(newest, through)), oldest, _entry_rows(found))
        self._saw(page.newest)
        return page

    def barrier(self) -> Lsn:
        self._check_open()
        return Lsn(max(self._seen, self._shared.get()))

    def require_in_place(self) -> None:
        """See `LogStore.require_in_place`."""
        is_displaced = _place_of(self._directory / FILE) != self._place
        if is_displaced != self._is_displaced:
            self._is_displaced = is_displaced
            event = "log.replaced path=%s" if is_displaced else "log.is_back path=%s"
            logger.log(logging.ERROR if is_displaced else logging.INFO, event, self._directory)
        if is_displaced:
            raise DirectoryReplacedError(
                "the data directory was moved away, removed or restored beneath this process: restart it, and stop a server "
                f"before its directory is restored. file={FILE}"
            )

    @asynccontextmanager
    async def exclusive(self) -> AsyncGenerator[None]:
        """See `LogStore.exclusive`. May be nested. Tasks that are started inside it write as its holder does."""
        self._check_open()
        if self._holds.inside():
            yield
            return
        async with self._queue:
            self._check_open()
            self.require_in_place()
            turn = await self._file_lock.acquire()
            try:
                self.require_in_place()  # the wait may have been long
                if self._shared.is_about_to_change:  # somebody was killed between a commit and telling of it
                    await self._in_transaction(self._publish_newest)
                with self._holds.entered():
                    yield
            finally:
                turn.release()

    async def catalog(self) -> CatalogRows:
        """See `LogStore.catalog`. Unlike a page it may be of an instant that its writer has not told of yet."""
        self._check_open()
        found = await _fetched(self._reader, _CATALOG)
        self._saw(found[0][0])
        rows = [row[1:] for row in found if row[1] is not None]
        return CatalogRows(Lsn(found[0][0]), await anyio.to_thread.run_sync(_verified_rows, rows))

    @asynccontextmanager
    async def pinned(self) -> AsyncGenerator[None]:
        """See `LogStore.pinned`."""
        self._check_open()
        async with pinned(self._directory / _PIN):
            yield

    async def truncate_collection(self, collection: CollectionId, *, through: Lsn, keep_after: Lsn | None = None) -> bool:
        """See `LogStore.truncate_collection`.

        It goes in steps, each a short turn of its own, so that writers wait for one step at most; the caller that is
        cancelled between two of them leaves a log that is as good, and the rest for the next call.
        """
        self._check_open()
        note = (_NOTE_FREED, (collection, through)), (_NOTE_TRUNCATED, (collection, through))
        free = (_FREE, (collection, through, _FREE_ROWS, _FREE_BYTES))
        return await self._truncate(note, free, _NO_LIMIT if keep_after is None else int(keep_after))

    async def note_applied(self, collection: CollectionId, *, through: Lsn) -> bool:
        """See `LogStore.note_applied`."""
        self._check_open()
        return await self._change((_NOTE_FREED, (collection, through))) is not None

    async def truncate(self, *, through: Lsn) -> bool:
        """See `LogStore.truncate`. In steps, as `truncate_collection`."""
        self._check_open()
        note = ((_NOTE_ALL_TRUNCATED, (through,)),)
        return await self._truncate(note, (_FREE_KEPT, (through, _FREE_ROWS, _FREE_BYTES)), int(through))

    async def _truncate(self, note: Sequence[Statement], free: Statement, forget_through: int) -> bool:
        forget = (_FORGET, (forget_through, _NO_LIMIT, _FORGET_ROWS)), (_FORGET_OPERATIONS, (OPERATION_WINDOW,))
        steps: tuple[Statement, ...] = (*note, free, *forget)
        while steps:
            changed = await self._change(*steps)
            if changed is None:
                return False
            freed, forgotten, _ = changed[-3:]
            steps = (free, *forget) if freed or forgotten else ()
        await self._shrink()
        return True

    async def history(self, collection: CollectionId | None, *, after: Lsn, bytes_max: int) -> History:
        """See `LogStore.history`."""
        if collection is None:
            page = await self._page(after, self.barrier(), bytes_max)
            rows, newest = _within(page.rows, bytes_max), page.newest
            entries, error = await _verified(rows, after)
        else:
            published = self.barrier()  # as of a page
            limits = {"collection": collection, "after": after, "through": published, "rows": _READ_ROWS, "bytes": bytes_max}
            found = await _fetched(self._reader, _HISTORY, limits)
            newest = Lsn(min(found[0][0], published))
            check_history(after, found[0][1], found[0][0])
            entries, error = await _verified(_entry_rows(found))
        if error is not None and not entries:
            raise error
        return History(entries, entries[-1].lsn if entries else newest)

    async def truncated(self) -> Mapping[CollectionId, Lsn]:
        self._check_open()
        return {CollectionId(collection): Lsn(lsn) for collection, lsn in await _fetched(self._reader, _TRUNCATED)}

    async def first_unapplied(self) -> Lsn:
        self._check_open()
        return Lsn(await _number(self._reader, _FIRST_UNAPPLIED))

    async def holding(self) -> frozenset[CollectionId]:
        self._check_open()
        return frozenset(CollectionId(row[0]) for row in await _fetched(self._reader, _HOLDING))

    async def weights(self) -> list[Weight]:
        self._check_open()
        return [Weight(Lsn(row[0]), row[1], row[2]) for row in await _fetched(self._reader, _WEIGHTS)]

    async def _shrink(self) -> None:
        while await self._vacuum():
            pass
        # The file itself becomes shorter when SQLite's journal is moved into it. That needs no turn: it never blocks.
        await self._in_transaction(lambda: _number(self._writer, "PRAGMA wal_checkpoint(PASSIVE)"))

    async def _vacuum(self, spare_pages: int = _SPARE_PAGES) -> bool:
        """Give some free pages back to the file system; return whether there are more of them to give."""

        async def vacuum() -> bool:
            surplus = await _number(self._writer, "PRAGMA freelist_count") - spare_pages
            if surplus > 0:
                # As a script: `execute` would take the first of its steps only, which is one page.
                await self._writer.executescript(f"PRAGMA incremental_vacuum({min(surplus, _VACUUM_PAGES)})")
            return surplus > _VACUUM_PAGES

        async with self.exclusive():
            return await self._in_transaction(vacuum)

    async def _change(self, *statements: Statement) -> list[int] | None:
        """Run statements as one transaction, in turn; return how many rows each changed, None where the log is pinned."""

        async def change() -> list[int]:
            await self._writer.execute(_BEGIN)
            changed = [(await self._writer.execute(sql, parameters)).rowcount for sql, parameters in statements]
            await self._writer.commit()
            return changed

        async with self.exclusive():
            with unpinned(self._directory / _PIN) as free:
                return await self._in_transaction(change) if free else None

    async def sync(self) -> None:
        """See `LogStore.sync`. Commits are in SQLite's journal; an fsync of it, by anybody, makes them durable."""
        self._check_open()
        await anyio.to_thread.run_sync(self._sync_journal)

    def _sync_journal(self) -> None:
        with ExitStack() as stack:

            def opened(path: Path) -> int:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                return descriptor

            try:
                journal, directory = opened(self._directory / f"{FILE}-wal"), opened(self._directory)
            except FileNotFoundError:
                return  # nobody has the log open: SQLite made all of it safe when the last one closed it
            except OSError as error:
                raise limit_error(error, self._directory) or error from error
            os.fsync(journal)
            inode = os.fstat(journal).st_ino
            if inode != self._durable_inode:
                os.fsync(directory)
                self._durable_inode = inode

    async def tidy(self) -> bool:
        """See `LogStore.tidy`. Moves SQLite's journal into the file and empties it; one that is being read stays."""
        self._check_open()
        while await self._vacuum(spare_pages=0):
            pass

        async def truncate() -> bool:
            await self._forget_deleted()
            return await self._empty_journal(0)

        async with self.exclusive():
            return await self._in_transaction(truncate)

    async def freed(self) -> Mapping[CollectionId, Lsn]:
        """See `LogStore.freed`. Release 0.1.0 kept no account of it; what is left of freed entries tells some of it."""
        self._check_open()
        found = await _fetched(self._reader, _FREED)
        return {CollectionId(collection): Lsn(lsn) for collection, lsn in found}

    async def oldest(self) -> Lsn:
        self._check_open()
        return Lsn(await _number(self._reader, "SELECT oldest FROM bounds"))

    async def scrub(self) -> None:
        """See `LogStore.scrub`."""
        self._check_open()

        async def vacuum() -> bool:
            await self._forget_deleted()
            if not await self._empty_journal(_SCRUB_SECONDS):  # before all is written anew
                return False
            await self._writer.execute("VACUUM")
            return await self._empty_journal(_SCRUB_SECONDS)

        async with self.exclusive():
            if not await self._in_transaction(vacuum):
                raise UnavailableError(f"somebody reads the log; stop that and try again. file={FILE}")

    async def _empty_journal(self, wait_seconds: float) -> bool:
        """Move SQLite's journal into the file and empty it, in a turn. False: somebody reads it for longer than that."""
        await self._writer.execute_fetchall(f"PRAGMA busy_timeout = {int(wait_seconds * 1000)}")
        try:
            return not await _number(self._writer, "PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            await self._writer.execute_fetchall(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")

    async def _forget_deleted(self) -> None:
        """Forget what was noted of collections that are gone, also from the entries."""
        await self._writer.execute(_BEGIN)
        for table in ("freed", "truncated"):
            await self._writer.execute(_FORGET_DELETED.format(table=table))
        await self._writer.commit()

    async def size_bytes(self) -> int:
        self._check_open()
        files = (self._directory / f"{FILE}{suffix}" for suffix in ("", "-wal", "-shm"))
        return sum(file.stat().st_size for file in files if file.exists())

    async def close(self) -> None:
        """Close the files, after a running append. More than once does no harm."""
        if self._closed:
            return
        self._closed = True
        await _to_its_end(self._close())

    async def _close(self) -> None:
        async with self._transaction:
            await _close_all(self._reader, self._writer)
            self._shared.close()

    async def _in_transaction(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await work on the writer's connection, to its end, and leave no transaction open."""

        async def run() -> T:
            try:
                return await work()
            except BaseException:
                await self._writer.rollback()  # behind whatever still runs; does nothing where nothing is begun
                raise

        async with self._transaction:
            self._check_open()
            return await _to_its_end(run())

    async def _publish_newest(self) -> int:
        newest = await _number(self._writer, "SELECT newest FROM bounds")
        self._publish(newest)
        return newest

    def _publish(self, newest: int) -> None:
        self._shared.set(newest)
        self._saw(newest)

    def _saw(self, newest: int) -> None:
        """Remember what this process has been told, which it may see before the writer has published it."""
        self._seen = Lsn(max(self._seen, newest))

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the log is closed: open it again")


def _place_of(path: Path) -> tuple[int, int] | None:
    """Which file there is, by device and inode; None: there is none, or it can't be reached."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Await work in a task that the caller's cancellation does not reach; pass that on when the task is over."""
    task = asyncio.ensure_future(work)
    cancellation: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError as error:
                cancellation = error
    if cancellation is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # Looked at, so that asyncio does not complain that nobody did.
    raise cancellation


def _synchronous(durability: Durability) -> str:
    match durability:
        case "commit":
            return "FULL"
        case "interval" | "off":
            return "NORMAL"  # not OFF: SQLite must not move a journal into its file before the journal is safe
        case _:
            raise ValueError(f"unknown durability: choose commit, interval or off. durability={durability!r}")


class _Connection(sqlite3.Connection):
    """Closed when it is forgotten, as aiosqlite forgets one whose opening is cancelled. Python 3.13 would warn of that."""

    def __del__(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # it was not opened
            self.close()


def _connection(file: Path) -> aiosqlite.Connection:
    connection = aiosqlite.connect(
        file, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False, factory=_Connection
    )
    # A script that forgets to close the log should end all the same; what was acknowledged is on disk.
    _thread_of(connection).daemon = True
    return connection


def _thread_of(connection: aiosqlite.Connection) -> threading.Thread:
    return cast("threading.Thread", getattr(connection, "_thread", connection))


def _await_threads(*connections: aiosqlite.Connection) -> None:
    """Wait for the threads of connections that were closed, or told to be while they connect. Not for the event loop."""
    for thread in map(_thread_of, connections):
        if thread.is_alive():
            thread.join(_BUSY_SECONDS)


async def _prepare_writer(writer: aiosqlite.Connection, directory: Path, synchronous: str) -> str:
    """Make the schema where there is none, and return the log's identity."""
    await writer
    if await _count_tables(writer) == 0:
        await _create(writer, directory)
    identity = await _check_format(writer)
    await writer.execute(_BEGIN)
    await writer.execute(_FREED_TABLE)
    if await _number(writer, "SELECT count(*) FROM sqlite_master WHERE name = 'truncated'") == 0:
        await writer.execute(_TRUNCATED_TABLE)
        await writer.execute(_ALL_WAS_FREED)
    await writer.commit()
    await writer.execute(f"PRAGMA synchronous = {synchronous}")
    await writer.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    await writer.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES_MAX}")
    await writer.execute("PRAGMA secure_delete = FAST")  # whole pages that are freed are not written once more, to be zeros
    await writer.create_function("entry_crc", 5, checksum)  # pyright: ignore[reportUnknownMemberType]
    return identity


async def _count_tables(writer: aiosqlite.Connection) -> int:
    try:
        return await _number(writer, "SELECT count(*) FROM sqlite_master")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            raise
        raise FormatError(f"this file is not a log: move it away. file={FILE}") from error


async def _create(writer: aiosqlite.Connection, directory: Path) -> None:
    # In this order: page size and vacuum mode are fixed by the first page that is written.
    await writer.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    await writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
    mode = _rows(await writer.execute_fetchall("PRAGMA journal_mode = WAL"))[0][0]
    if mode != "wal":
        raise FormatError(f"this file system can't hold a log: choose a local disk. journal_mode={mode!r}")
    await writer.executescript(_SCHEMA.format(identity=uuid.uuid4().hex, format=FORMAT))
    _fsync_directory(directory)


def _fsync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


async def _check_format(writer: aiosqlite.Connection) -> str:
    has_log = await _number(writer, "SELECT count(*) FROM sqlite_master WHERE name IN ('log', 'entries')")
    if has_log != 2:
        raise FormatError(f"this file is not a log: move it away. file={FILE}")
    identity, version = only_row(await _fetched(writer, "SELECT identity, format FROM log"))
    if version != FORMAT:
        raise FormatError(f"the log has another format: use the version that wrote it. format={version} known={FORMAT}")
    return str(identity)


async def _close_all(*connections: aiosqlite.Connection) -> None:
    for connection in connections:
        await connection.close()


async def _bridge(writer: aiosqlite.Connection, newest: int, published: int) -> int:
    """The log ends before an LSN that was published: its tail is lost. Give none of these LSNs to another entry.

    They become freed entries of no collection. A number that is out of all proportion is damage of the file that has it.
    """
    if published - newest > _BRIDGED_MAX:
        logger.error("log.published_lsn_ignored newest=%d published=%d", newest, published)
        return newest
    logger.error("log.tail_lost newest=%d published=%d entries=%d", newest, published, published - newest)
    lost = ((lsn, None, 0, checksum(lsn, None, 0, None, None), None, None) for lsn in range(newest + 1, published + 1))
    await writer.execute(_BEGIN)
    await writer.executemany(_INSERT, lost)
    await writer.commit()
    return published


async def _fetched(connection: aiosqlite.Connection, sql: str, parameters: Any = ()) -> list[Row]:
    """All rows of a query.

    Raises:
        LogCorrupt: what SQLite has to say, or a text that it has read, is no UTF-8.
    """
    try:
        return _rows(await connection.execute_fetchall(sql, parameters))
    except UnicodeDecodeError as error:
        raise LogCorrupt(f"the log is damaged: restore it from a backup. file={FILE} reason={error}") from error


async def _number(connection: aiosqlite.Connection, sql: str) -> int:
    return int(only_row(await _fetched(connection, sql))[0])


def _rows(found: Iterable[Any]) -> list[Row]:
    return list(found)


def _numbered(entries: Sequence[NewEntry], after: int) -> Iterator[Row]:
    for lsn, entry in enumerate(entries, after + 1):
        crc = checksum(lsn, entry.collection, entry.time_ns, entry.operation_id, entry.payload)
        yield lsn, entry.collection, entry.time_ns, crc, entry.operation_id, entry.payload


def _entry_rows(found: list[Row]) -> list[Row]:
    """The entries behind two bounds, in LSN order; the row without an entry is there where none was found."""
    return sorted((row[2:] for row in found if row[2] is not None), key=itemgetter(0))


def _within(rows: list[Row], bytes_max: int) -> list[Row]:
    """Without the last row of a page, if that is the one that is too much."""
    return rows[:-1] if len(rows) > 1 and sum(len(row[5] or b"") for row in rows) > bytes_max else rows


async def _verified(rows: list[Row], after: int | None = None) -> tuple[list[Entry], LogError | None]:
    """Return the entries up to the first that is missing or damaged, and the error that says so.

    Those of one collection, without `after`, need not follow each other.
    """
    if sum(len(row[5] or b"") for row in rows) < _VERIFY_INLINE_BYTES:
        return _verify(rows, after)
    return await anyio.to_thread.run_sync(_verify, rows, after)


def _verify(rows: list[Row], after: int | None) -> tuple[list[Entry], LogError | None]:
    entries: list[Entry] = []
    for expected, (lsn, collection, time_ns, crc, operation_id, payload) in enumerate(rows, (after or 0) + 1):
        if after is not None and lsn != expected:
            return entries, _hole(expected - 1, lsn)
        if checksum(lsn, collection, time_ns, operation_id, payload) != crc:
            reason = f"an entry does not match its checksum: restore the log from a backup. lsn={lsn}"
            return entries, LogCorrupt(reason, lsn=lsn, collection=collection)
        entries.append(Entry(Lsn(lsn), collection and CollectionId(collection), payload, time_ns))
    return entries, None


def _verified_rows(rows: list[Row]) -> Mapping[str, bytes]:
    for key, crc, value in rows:
        if row_checksum(key, value) != crc:
            raise LogCorrupt(f"a catalog row does not match its checksum: restore the log. key={key!r}")
    return {key: value for key, _, value in rows}


def _hole(after: int, found: int) -> LogHole:
    return LogHole(f"entries are missing in the middle of the log: restore it. after={after} next={found}")
