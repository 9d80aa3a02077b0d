"""Opens the files of a log, or makes them: connections, schema, format, and the number that processes share."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import uuid
from pathlib import Path
from typing import Final

import aiosqlite
from msgspec import Struct

from chroma_async.errors import FormatError
from chroma_async.seams.limits import limit_error
from chroma_async.wal.checks import checksum, lost_tail, only_row
from chroma_async.wal.sqlite import sql
from chroma_async.wal.sqlite.connections import (
    FILE,
    await_threads,
    close_all,
    connection_to,
    fetched,
    number,
    to_its_end,
)
from chroma_async.wal.sqlite.place import Place
from chroma_async.wal.sqlite.rows import identity_in, lost_rows
from chroma_async.wal.sqlite.turns import FileLock, SharedLsn
from chroma_async.wal.store import Durability

LOCK: Final = "log.lock"
COMMITTED: Final = "log.committed"
"""The file of the newest LSN as all processes see it."""

_PAGE_BYTES: Final = 8192
"""Of a database page. 4096 costs a third of the throughput of large entries, 16384 a third of that of small ones."""

_CHECKPOINT_PAGES: Final = 4000
"""When SQLite moves its journal into the file: at 32 MB. Small journals make large entries a third slower."""

_JOURNAL_BYTES_MAX: Final = 64 * 2**20

logger = logging.getLogger("chroma_async.log")


class OpenFiles(Struct, frozen=True):
    """One handle's connections to the log, where it is, and the newest LSN as all processes see it."""

    identity: str
    place: Place
    writer: aiosqlite.Connection
    reader: aiosqlite.Connection
    shared: SharedLsn

    async def close(self) -> None:
        await close_all(self.reader, self.writer)
        self.shared.close()


async def open_files(directory: Path, *, durability: Durability, create: bool) -> OpenFiles:
    """See `SqliteLog.open`. Waits for the log's turn: of two who open a directory, the second finds what the first made."""
    synchronous = _synchronous(durability)
    if not create and not (directory / FILE).exists():
        raise FormatError(f"no log in this directory: check the path, or create one. file={FILE}")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        turn = await FileLock(directory / LOCK).acquire()
        try:
            return await _open_in_turn(directory, synchronous)
        finally:
            turn.release()
    except (sqlite3.Error, OSError) as error:
        limit = limit_error(error, directory)
        if limit is not None:
            raise limit from error
        raise


def _synchronous(durability: Durability) -> str:
    match durability:
        case "commit":
            return "FULL"
        case "interval" | "off":
            return "NORMAL"  # not OFF: SQLite must not move a journal into its file before the journal is safe
        case _:
            raise ValueError(f"unknown durability: choose commit, interval or off. durability={durability!r}")


async def _open_in_turn(directory: Path, synchronous: str) -> OpenFiles:
    place = Place(directory / FILE)
    writer, reader = connection_to(directory / FILE), connection_to(directory / FILE)
    try:
        identity = await _prepare_writer(writer, directory, synchronous)
        if place.is_empty:
            place = Place(directory / FILE)
        await reader
        await reader.execute("PRAGMA query_only = ON")
        newest = await number(writer, sql.NEWEST)
        shared = SharedLsn(directory / COMMITTED)
        if shared.get() > newest:
            newest = await _bridge(writer, newest, shared.get())
    except BaseException:
        try:
            await to_its_end(close_all(reader, writer))
        finally:  # a thread that is still connecting would tell a loop that ends now of it, and fail with a traceback
            await to_its_end(asyncio.to_thread(await_threads, reader, writer))
        raise
    shared.set(newest)
    return OpenFiles(identity, place, writer, reader, shared)


async def _prepare_writer(writer: aiosqlite.Connection, directory: Path, synchronous: str) -> str:
    """Make the schema where there is none, and return the log's identity."""
    await writer
    if await _count_tables(writer) == 0:
        await _create(writer, directory)
    identity = await _check_format(writer)
    await writer.execute(sql.BEGIN)
    await writer.execute(sql.CREATE_NOTED)
    if await number(writer, sql.COUNT_FREED_TABLES) == 0:
        await writer.execute(sql.CREATE_FREED)
        await writer.execute(sql.NOTE_APPLIED_BEFORE)
        await writer.execute(sql.NOTE_FREED_BEFORE)
    await writer.commit()
    await writer.execute(f"PRAGMA synchronous = {synchronous}")
    await writer.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    await writer.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES_MAX}")
    await writer.execute("PRAGMA secure_delete = FAST")  # whole pages that are freed are not written once more, to be zeros
    await writer.create_function("entry_crc", 5, checksum)  # pyright: ignore[reportUnknownMemberType]
    return identity


async def _count_tables(writer: aiosqlite.Connection) -> int:
    try:
        return await number(writer, sql.COUNT_TABLES)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            raise
        raise FormatError(f"this file is not a log: move it away. file={FILE}") from error


async def _create(writer: aiosqlite.Connection, directory: Path) -> None:
    # In this order: page size and vacuum mode are fixed by the first page that is written.
    await writer.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    await writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
    (mode,) = only_row(await writer.execute_fetchall("PRAGMA journal_mode = WAL"))
    if mode != "wal":
        raise FormatError(f"this file system can't hold a log: choose a local disk. journal_mode={mode!r}")
    await writer.executescript(sql.SCHEMA.format(identity=uuid.uuid4().hex, format=sql.FORMAT))
    _fsync_directory(directory)


def _fsync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


async def _check_format(writer: aiosqlite.Connection) -> str:
    if await number(writer, sql.COUNT_LOG_TABLES) != 2:
        raise FormatError(f"this file is not a log: move it away. file={FILE}")
    return identity_in(await fetched(writer, sql.LOG))


async def _bridge(writer: aiosqlite.Connection, newest: int, published: int) -> int:
    """The log ends before an LSN that was published: its tail is lost. Give none of these LSNs to another entry."""
    if not lost_tail(newest, published):
        logger.error("log.published_lsn_ignored newest=%d published=%d", newest, published)
        return newest
    logger.error("log.tail_lost newest=%d published=%d entries=%d", newest, published, published - newest)
    await add_lost(writer, newest, published)
    return published


async def add_lost(writer: aiosqlite.Connection, newest: int, through: int) -> None:
    """Append freed entries of no collection up to this LSN, in a transaction with the turn held."""
    await writer.execute(sql.BEGIN)
    await writer.executemany(sql.INSERT, lost_rows(newest, through))
    await writer.commit()
