"""Connections to the log's file, each with aiosqlite's thread of its own."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import aiosqlite
import anyio

from chroma_async.errors import LogCorrupt
from chroma_async.wal.checks import only_row

T = TypeVar("T")
Row = tuple[Any, ...]

FILE: Final = "log.sqlite3"

BUSY_SECONDS: Final = 10.0
"""Waiting for who does not take turns: a shell with the sqlite3 program, another program's backup."""


class _Connection(sqlite3.Connection):
    """Closed when it is forgotten, as aiosqlite forgets one whose opening is cancelled. Python 3.13 would warn of that."""

    def __del__(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # it was not opened
            self.close()


def connection_to(file: Path) -> aiosqlite.Connection:
    """A connection to be awaited, which opens it. Statements commit by themselves unless a transaction is begun."""
    connection = aiosqlite.connect(
        file, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False, factory=_Connection
    )
    # A script that forgets to close the log should end all the same; what was acknowledged is on disk.
    _thread_of(connection).daemon = True
    return connection


def _thread_of(connection: aiosqlite.Connection) -> threading.Thread:
    return cast("threading.Thread", getattr(connection, "_thread", connection))


async def close_all(*connections: aiosqlite.Connection) -> None:
    for connection in connections:
        await connection.close()


def await_threads(*connections: aiosqlite.Connection) -> None:
    """Wait for the threads of connections that were closed, or told to be while they connect. Not for the event loop."""
    for thread in map(_thread_of, connections):
        if thread.is_alive():
            thread.join(BUSY_SECONDS)


async def fetched(connection: aiosqlite.Connection, sql: str, parameters: Any = ()) -> list[Row]:
    """All rows of a query.

    Raises:
        LogCorrupt: what SQLite has to say, or a text that it has read, is no UTF-8.
    """
    try:
        found: Iterable[Any] = await connection.execute_fetchall(sql, parameters)
    except UnicodeDecodeError as error:
        raise LogCorrupt(f"the log is damaged: restore it from a backup. file={FILE} reason={error}") from error
    return list(found)


async def number(connection: aiosqlite.Connection, sql: str) -> int:
    """What a query of one number says."""
    return int(only_row(await fetched(connection, sql))[0])


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
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
