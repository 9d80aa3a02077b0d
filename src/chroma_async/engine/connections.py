"""Connections that read the tables of one collection, kept while nobody uses them."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from chroma_async.errors import StorageCorrupt
from chroma_async.model import Lsn
from chroma_async.projections.manifest import Manifest
from chroma_async.projections.records import RecordTables
from chroma_async.projections.store import CHECK_AT_OPEN_BYTES, RECORDS_FILE
from chroma_async.seams.limits import FULL, READ_ONLY, limit_error


class Connections:
    """Used by any thread, without a lock, which another one may hold for long: each step of a list is atomic."""

    def __init__(self, directory: Path, noted_applied: Lsn) -> None:
        """`noted_applied`: the entries through this LSN may be freed: only the tables are sure to have them."""
        self._directory = directory
        self._noted_applied = noted_applied
        self._idle: list[RecordTables] = []
        self._checked = False
        self._closed = False

    def idle(self) -> RecordTables | None:
        """One that is open and that nobody uses; None: there is none."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def borrow(self) -> RecordTables | None:
        """One that nobody else uses; None: there are no tables yet.

        Raises:
            StorageCorrupt: they are damaged, or gone with what only they had.
            sqlite3.DatabaseError: they can't be opened.
        """
        idle = self.idle()
        if idle is not None:
            return idle
        path = self._directory / RECORDS_FILE
        if not path.exists():
            if self._noted_applied:
                raise StorageCorrupt(
                    f"records are missing, and the only copy. path={path} noted_applied={self._noted_applied}"
                )
            return None
        return self._opened(path, check=True)

    def manifest(self) -> Manifest:
        """What the tables say that are there now, without a look at the rest of them; an empty one before there are any.

        Raises:
            FormatError, StorageCorrupt, sqlite3.DatabaseError: it can't be read.
        """
        path = self._directory / RECORDS_FILE
        if not path.exists():
            return Manifest()
        tables = self._opened(path, check=False)
        if tables is None:
            return Manifest()
        with closing(tables):
            return tables.manifest()

    def anew(self) -> RecordTables:
        """A new one to tables that exist by now."""
        return RecordTables(self._directory / RECORDS_FILE, writable=False)

    def give_back(self, tables: RecordTables) -> None:
        if tables.unchanging:
            tables.close()
            return
        self._idle.append(tables)
        if self._closed:
            self.close_idle()

    @contextmanager
    def instant(self) -> Generator[RecordTables | None]:
        """One instant of the tables; None: there are none yet."""
        tables = self.borrow()
        if tables is None:
            yield None
            return
        try:
            with tables.transaction():
                yield tables
        finally:
            self.give_back(tables)

    def close_idle(self) -> None:
        while (tables := self.idle()) is not None:
            tables.close()

    def close(self) -> None:
        """Close those that nobody uses, and the others as they come back."""
        self._closed = True
        self.close_idle()

    def _opened(self, path: Path, *, check: bool) -> RecordTables | None:
        """Tables that are there; None: the compactor is just making them, and everything is still in the tail."""
        try:
            return self._open(path, check=check)
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            if not _lacks_room_to_share(error, path):
                raise
            return RecordTables(path, writable=False, unchanging=True)

    def _open(self, path: Path, *, check: bool) -> RecordTables:
        tables = RecordTables(path, writable=False)
        try:
            tables.version()
            if check:
                self._check_once(tables)
        except BaseException:
            tables.close()
            raise
        return tables

    def _check_once(self, tables: RecordTables) -> None:
        """Check small tables whole before anything is read of them: a damaged index would hide records silently."""
        if self._checked or tables.size_bytes() > CHECK_AT_OPEN_BYTES:
            return
        problem = tables.problem(patient=False)
        if problem is not None:
            raise StorageCorrupt(f"records are damaged. path={self._directory / RECORDS_FILE} reason={problem}")
        self._checked = True


def _lacks_room_to_share(error: sqlite3.OperationalError, path: Path) -> bool:
    """Whether tables can't be opened for want of the file that SQLite shares, and nothing of them is in its journal."""
    limit = limit_error(error, path.parent)
    journal = path.with_name(f"{path.name}-wal")
    empty = not journal.exists() or not journal.stat().st_size
    return limit is not None and limit.reason in (FULL, READ_ONLY) and empty
