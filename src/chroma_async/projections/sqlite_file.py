"""An SQLite file that one process changes and others read meanwhile: its transactions, its journal and its spare pages."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

from chroma_async.errors import UnavailableError
from chroma_async.seams.databases import copy_database

BUSY_SECONDS: Final = 10.0
BRIEF_SECONDS: Final = 0.25
"""So long a purge waits for who reads: as most do, for milliseconds. For others it is postponed."""

JOURNAL_BYTES_MAX: Final = 16 * 2**20
SPARE_PAGES: Final = 64
SPARE_SHARE: Final = 8
"""Free pages that stay in the file for the next rows: so many, or one of so many."""


MAPPED_BYTES_MAX: Final = 256 * 2**20
"""Of a larger file only the pages that are wanted are read. Of a mapped one the kernel reads what is around them too."""


class SqliteFile:
    """One connection to the file. Used by one thread at a time."""

    def __init__(self, path: Path, *, writable: bool, unchanging: bool = False) -> None:
        """Open the file; a writable connection makes it when it is absent.

        SQLite shares a small file with other processes, made when a database is opened: on a full or read-only disk it can't
        be. `unchanging` opens without: right while nobody writes, which is to be checked by `is_unchanged` afterwards.

        Raises:
            sqlite3.OperationalError: the file can't be opened.
        """
        mode = "ro&immutable=1" if unchanging else "rwc" if writable else "rw"
        self._path = path
        self._before = _stamp(path) if unchanging else None
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        self._connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS
        )
        try:
            self._connection.execute("PRAGMA cache_size = -8000")
            self._connection.execute(f"PRAGMA mmap_size = {MAPPED_BYTES_MAX if self._is_small() else 0}")
            if writable:
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES_MAX}")
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    @property
    def unchanging(self) -> bool:
        return self._before is not None

    def is_unchanged(self) -> bool:
        """Whether nobody has written since the file was opened as unchanging."""
        return self._before == _stamp(self._path)

    def size_bytes(self) -> int:
        """Bytes of the file, without its journal."""
        return self._number("PRAGMA page_size") * self._number("PRAGMA page_count")

    def copy_to(self, path: Path, progress: Callable[[int], None]) -> None:
        """Copy the instant of the transaction that is open into a new file; see `copy_database`."""
        copy_database(self._connection, path, progress)

    def _is_small(self) -> bool:
        try:
            return self._path.stat().st_size <= MAPPED_BYTES_MAX
        except FileNotFoundError:
            return True

    def _number(self, sql: str) -> int:
        return cast("int", self._connection.execute(sql).fetchone()[0])

    # ---- transactions

    @contextmanager
    def transaction(self, *, write: bool = False) -> Generator[None]:
        """One instant of the tables for all that is read inside; with `write`, all or nothing."""
        self._connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite may have rolled back already, for a full disk
                self._connection.execute("ROLLBACK")
            raise
        if write:  # its pages are not needed again soon, and a compactor has many stores open
            self._connection.execute("PRAGMA shrink_memory")

    @contextmanager
    def _turn_of_writers(self, *, patient: bool) -> Generator[bool]:
        """Keep all others from writing, and write nothing that stays. False: without patience, and somebody writes now."""
        try:
            with self._waiting(BUSY_SECONDS if patient else 0):
                self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if patient or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            yield False
            return
        try:
            yield True
        finally:
            self._connection.execute("ROLLBACK")

    @contextmanager
    def _waiting(self, seconds: float) -> Generator[None]:
        """Wait so long, at most, for others who use the file."""
        self._connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
        try:
            yield
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")

    # ---- giving back disk, outside of transactions

    def tidy(self) -> bool:
        """Give back pages that are free, then move SQLite's journal into the file and empty it, where nobody reads it.

        False: somebody was reading, so that the journal is as long as before.
        """
        pages, free = self._number("PRAGMA page_count"), self._number("PRAGMA freelist_count")
        with self._waiting(0):
            if free > max(SPARE_PAGES, pages // SPARE_SHARE):
                self._connection.execute("PRAGMA incremental_vacuum").fetchall()
            return not self._number("PRAGMA wal_checkpoint(TRUNCATE)")

    def check_unread(self) -> None:
        """See that `vacuum` will be able to empty the journal, before anything is written for it.

        Raises:
            UnavailableError: somebody reads the file.
        """
        self._empty_journal()
        version = self._number("PRAGMA user_version")
        self._connection.execute(f"PRAGMA user_version = {version}")  # one page: an empty journal shows no reader
        self._empty_journal()

    def vacuum(self) -> None:
        """Leave no bytes in the file or its journal but those of what the tables hold.

        Raises:
            UnavailableError: somebody reads the file, so that the journal can't be emptied.
        """
        self._connection.execute("VACUUM")
        self._empty_journal()

    def _empty_journal(self) -> None:
        with self._waiting(BRIEF_SECONDS):
            busy = self._number("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            raise UnavailableError(f"somebody reads the collection; stop that and try again. path={self._path}")


def _stamp(path: Path) -> tuple[int, int, int, int]:
    """What changes whenever somebody writes to a database: its inode, size, time of change, and the size of its journal."""
    found, journal = path.stat(), path.with_name(f"{path.name}-wal")
    return found.st_ino, found.st_size, found.st_mtime_ns, journal.stat().st_size if journal.exists() else 0
