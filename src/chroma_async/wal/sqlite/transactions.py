"""The one way to change the log's file: take the turn, run a transaction, tell all processes of the new end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio

from chroma_async.wal.holds import Holds
from chroma_async.wal.sqlite import sql
from chroma_async.wal.sqlite.connections import number, to_its_end
from chroma_async.wal.sqlite.opening import LOCK, OpenFiles
from chroma_async.wal.sqlite.turns import FileLock

T = TypeVar("T")


class Transactions:
    """Those of one handle, on the connection that writes.

    A transaction runs in a task of its own. A caller that is cancelled, by anyio or by plain asyncio, waits for its end,
    and gives back the turn only then. aiosqlite runs what it was given in order, so even a loop that shuts down in the
    middle waits for a rollback that is queued behind the last statement.
    """

    def __init__(self, directory: Path, files: OpenFiles) -> None:
        self.place = files.place
        self._files = files
        self.writer = files.writer
        """The connection: for work that `run` was given."""
        self._shared = files.shared
        self._file_lock = FileLock(directory / LOCK)
        self._queue = anyio.Lock(fast_acquire=True)
        self._transaction = anyio.Lock(fast_acquire=True)
        self._holds = Holds()
        self._closed = False

    @asynccontextmanager
    async def exclusive(self) -> AsyncGenerator[None]:
        """See `LogStore.exclusive`. May be nested. Tasks that are started inside it write as its holder does."""
        self.check_open()
        if self._holds.inside():
            yield
            return
        async with self._queue:
            self.check_open()
            self.place.require()
            turn = await self._file_lock.acquire()
            try:
                self.place.require()  # the wait may have been long
                if self._shared.is_about_to_change:  # somebody was killed between a commit and telling of it
                    await self.run(self.publish_newest)
                with self._holds.entered():
                    yield
            finally:
                turn.release()

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await work on the writer's connection, to its end, and leave no transaction open.

        Who needs the turn has taken it before (`exclusive`).
        """

        async def run() -> T:
            try:
                return await work()
            except BaseException:
                await self.writer.rollback()  # behind whatever still runs; does nothing where nothing is begun
                raise

        async with self._transaction:
            self.check_open()
            return await to_its_end(run())

    async def publish_newest(self) -> int:
        """Tell all processes where the log ends, and return that. In a transaction, with the turn held."""
        newest = await number(self.writer, sql.NEWEST)
        self._shared.set(newest)
        return newest

    def check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the log is closed: open it again")

    async def close(self) -> None:
        """Close the files, after a running transaction. More than once does no harm."""
        if self._closed:
            return
        self._closed = True
        await to_its_end(self._close())

    async def _close(self) -> None:
        async with self._transaction:
            await self._files.close()
