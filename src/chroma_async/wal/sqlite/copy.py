"""A copy of one instant of a SQLite log, and what makes a copy a log of its own."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from msgspec import Struct

from chroma_async.errors import LogCorrupt, LogHole, StorageCorrupt
from chroma_async.model import CollectionId, Lsn
from chroma_async.seams.databases import copy_database, open_unchanging
from chroma_async.wal.checks import check_lost, checksum, hole, only_row
from chroma_async.wal.sqlite import sql
from chroma_async.wal.sqlite.connections import FILE
from chroma_async.wal.sqlite.opening import COMMITTED
from chroma_async.wal.sqlite.rows import identity_in, lost_rows, verified_catalog


class LogCopy(Struct, frozen=True):
    """What a copy holds: all through `lsn`, and the catalog's rows of that instant.

    `noted_applied`: the LSN through which a collection was noted as applied.
    `spoiled`: entries that do not match their checksums, and are kept for feeds only: what they said was applied.
    `first_lost`: see `LogStore.first_lost`.
    """

    identity: str
    lsn: Lsn
    rows: Mapping[str, bytes]
    noted_applied: Mapping[CollectionId, Lsn]
    spoiled: tuple[Lsn, ...] = ()
    first_lost: Lsn | None = None


def copy_log(directory: Path, destination: Path, progress: Callable[[int], None]) -> LogCopy:
    """Copy the log of a directory into another one, and check every entry of the copy. Appending goes on meanwhile.

    `progress` is told the number of bytes that were copied since the last time. The file is not synced.

    Raises:
        LogHole, LogCorrupt, StorageCorrupt: the log is damaged.
    """
    with closing(sqlite3.connect(_uri(directory), uri=True, isolation_level=None, timeout=10.0)) as source:
        source.execute("BEGIN")
        source.execute(sql.LOG).fetchone()
        copy_database(source, destination / FILE, progress)
    with closing(open_unchanging(destination / FILE)) as copy:
        checked = _read_checked(copy)
    if checked.spoiled:
        raise LogCorrupt(
            "entries of the log that are kept for feeds are damaged, nothing else; stop the server, and let go of them: "
            f"chroma-async verify --repair. lsn={checked.spoiled[0]} entries={len(checked.spoiled)}"
        )
    return checked


def check_log(directory: Path) -> LogCopy:
    """Read the whole log of a directory, which may be in use, and say what it holds.

    Raises:
        LogHole, LogCorrupt, StorageCorrupt: it is damaged.
        FormatError: it has another format.
        sqlite3.DatabaseError: SQLite can't read it.
    """
    uri = f"{(directory / FILE).absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10.0)) as connection:
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise StorageCorrupt(f"the log is damaged. file={FILE} reason={str(found).splitlines()[-1]}")
        connection.execute("BEGIN")
        return _read_checked(connection)


def _uri(directory: Path) -> str:
    """Of a directory's log: opened so, one that is not there is not made."""
    return f"{(directory / FILE).absolute().as_uri()}?mode=rw"


def _read_checked(copy: sqlite3.Connection) -> LogCopy:
    identity = identity_in(copy.execute(sql.LOG))
    newest, oldest = only_row(copy.execute("SELECT newest, oldest FROM bounds"))
    expected, noted, spoiled = oldest, _noted(copy), list[Lsn]()
    noted_applied = dict(noted)  # and what was freed without a note, by release 0.1.0
    entries = copy.execute("SELECT lsn, crc, collection, time_ns, operation_id, payload FROM entries ORDER BY lsn")
    for lsn, crc, collection, time_ns, operation_id, payload in entries:
        if lsn != expected:
            raise hole(expected - 1, lsn)
        if checksum(lsn, collection, time_ns, operation_id, payload) == crc:
            pass
        elif payload is not None and lsn <= noted.get(collection, 0):
            spoiled.append(lsn)
        else:
            raise LogCorrupt(f"an entry does not match its checksum: restore the log. lsn={lsn}")
        if payload is None and collection is not None:
            noted_applied[collection] = Lsn(max(lsn, noted_applied.get(collection, 0)))
        expected += 1
    if expected != newest + 1:
        raise LogHole(f"entries are missing at the end of the log: restore it. after={expected - 1} newest={newest}")
    rows = verified_catalog(copy.execute("SELECT key, crc, value FROM catalog"))
    (first_lost,) = copy.execute(sql.FIRST_LOST).fetchone()
    return LogCopy(identity, Lsn(newest), rows, noted_applied, tuple(spoiled), first_lost)


def _noted(copy: sqlite3.Connection) -> dict[CollectionId, Lsn]:
    """What was noted as applied; by release 0.1.0 nothing was."""
    if not copy.execute(sql.COUNT_NOTED_TABLES).fetchone()[0]:
        return {}
    return {CollectionId(collection): Lsn(lsn) for collection, lsn in copy.execute(sql.NOTED_APPLIED)}


def let_go_of(directory: Path, spoiled: Sequence[Lsn]) -> None:
    """Free the payloads of entries that are spoiled. Feeds that have not come so far begin anew."""
    with closing(sqlite3.connect(directory / FILE, isolation_level=None, timeout=10.0)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(sql.BEGIN)
        for lsn in spoiled:
            beside = connection.execute(
                "SELECT collection, time_ns, operation_id FROM entries WHERE lsn = ?", (lsn,)
            ).fetchone()
            collection, time_ns, operation_id = beside
            connection.execute(
                "UPDATE entries SET payload = NULL, crc = ? WHERE lsn = ?",
                (checksum(lsn, collection, time_ns, operation_id, None), lsn),
            )
            connection.execute(sql.NOTE_FREED, (collection, lsn))
        connection.execute("COMMIT")


def newest_of(directory: Path) -> Lsn:
    """LSN of the newest entry of a directory's log, which may be in use."""
    with closing(sqlite3.connect(_uri(directory), uri=True, timeout=10.0)) as connection:
        return Lsn(only_row(connection.execute(sql.NEWEST))[0])


def owners_of(directory: Path, lsns: Sequence[Lsn]) -> dict[Lsn, CollectionId | None]:
    """See `LogStore.owners`, of a directory's log, which may be in use."""
    with closing(sqlite3.connect(_uri(directory), uri=True, timeout=10.0)) as connection:
        found = [(lsn, row[0]) for lsn in lsns for row in connection.execute(sql.OWNER, (lsn,))]
    return {lsn: None if owner is None else CollectionId(owner) for lsn, owner in found}


def published_of(directory: Path) -> Lsn:
    """LSN of the newest entry that writers have told of; 0 where nobody has. Take care: see `lost_tail`."""
    try:
        words = np.fromfile(directory / COMMITTED, dtype=np.uint64, count=1)
    except FileNotFoundError:
        return Lsn(0)
    return Lsn(int(words[0]) if len(words) else 0)


def go_on_after(directory: Path, lsn: Lsn) -> None:
    """See `LogStore.go_on_after`, of a directory that nobody writes to."""
    with closing(sqlite3.connect(_uri(directory), uri=True, isolation_level=None, timeout=10.0)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(sql.BEGIN)
        newest = only_row(connection.execute(sql.NEWEST))[0]
        check_lost(newest, lsn)
        connection.executemany(sql.INSERT, lost_rows(newest, lsn))
        connection.execute("COMMIT")


def renew_identity(directory: Path) -> str:
    """Make the log of a directory that nobody has open another one than the log it was copied from."""
    identity = uuid.uuid4().hex
    with closing(sqlite3.connect(directory / FILE)) as connection, connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("UPDATE log SET identity = ?", (identity,))
    return identity
