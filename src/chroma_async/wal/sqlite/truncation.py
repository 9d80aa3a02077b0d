"""Frees what was applied, forgets what is empty, and gives the room back.

It goes in steps, each a short turn of its own, so that writers wait for one step at most. A caller that is cancelled between
two of them leaves a log that is as good, and the rest for the next call.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from chroma_async.errors import UnavailableError
from chroma_async.model import CollectionId, Lsn
from chroma_async.wal.checks import OPERATION_WINDOW
from chroma_async.wal.sqlite import sql
from chroma_async.wal.sqlite.connections import BUSY_SECONDS, FILE, Row, number
from chroma_async.wal.sqlite.transactions import Transactions
from chroma_async.wal.sqlite.turns import unpinned

Statement = tuple[str, Row]

_SCRUB_SECONDS: Final = 0.25
"""Waiting for who reads, while writers wait for the turn: most read for milliseconds."""

_FREE_ROWS: Final = 1024
_FREE_BYTES: Final = 64 * 2**20
"""Freed in one turn, which takes some ten milliseconds: what a writer may have to wait."""

_FORGET_ROWS: Final = 4096
_VACUUM_PAGES: Final = 1024
_SPARE_PAGES: Final = 1024
"""Free pages that stay in the file, 8 MB, since the next entries need them."""


class Truncation:
    """What a `TruncatableLog` does for those who free what was applied, and nobody else."""

    def __init__(self, transactions: Transactions, pin: Path) -> None:
        """`pin`: the file that is locked by whoever wants nothing to be freed."""
        self._transactions = transactions
        self._writer = transactions.writer
        self._pin = pin

    async def note_applied(self, collection: CollectionId, through: Lsn) -> bool:
        """See `TruncatableLog.note_applied`."""
        return await self._change((sql.NOTE_APPLIED, (collection, through))) is not None

    async def truncate_collection(self, collection: CollectionId, through: Lsn, keep_after: Lsn | None) -> bool:
        """See `TruncatableLog.truncate_collection`."""
        note = (sql.NOTE_APPLIED, (collection, through)), (sql.NOTE_FREEING, (collection, through))
        free = (sql.FREE, (collection, through, _FREE_ROWS, _FREE_BYTES))
        return await self._truncate(note, free, sql.NO_LIMIT if keep_after is None else int(keep_after))

    async def truncate(self, through: Lsn) -> bool:
        """See `TruncatableLog.truncate`."""
        note = ((sql.NOTE_FREEING_APPLIED, (through,)),)
        return await self._truncate(note, (sql.FREE_APPLIED, (through, _FREE_ROWS, _FREE_BYTES)), int(through))

    async def _truncate(self, note: Sequence[Statement], free: Statement, forget_through: int) -> bool:
        forget = (sql.FORGET, (forget_through, _FORGET_ROWS)), (sql.FORGET_OPERATIONS, (OPERATION_WINDOW,))
        steps: tuple[Statement, ...] = (*note, free, *forget)
        while steps:
            changed = await self._change(*steps)
            if changed is None:
                return False
            freed, forgotten, _ = changed[-3:]
            steps = (free, *forget) if freed or forgotten else ()
        await self._shrink()
        return True

    async def _change(self, *statements: Statement) -> list[int] | None:
        """Run statements as one transaction, in turn; return how many rows each changed, None where the log is pinned."""

        async def change() -> list[int]:
            await self._writer.execute(sql.BEGIN)
            changed = [(await self._writer.execute(statement, values)).rowcount for statement, values in statements]
            await self._writer.commit()
            return changed

        async with self._transactions.exclusive():
            with unpinned(self._pin) as free:
                return await self._transactions.run(change) if free else None

    async def _shrink(self) -> None:
        while await self._vacuum():
            pass
        # The file itself becomes shorter when SQLite's journal is moved into it. That needs no turn: it never blocks.
        await self._transactions.run(lambda: number(self._writer, "PRAGMA wal_checkpoint(PASSIVE)"))

    async def _vacuum(self, spare_pages: int = _SPARE_PAGES) -> bool:
        """Give some free pages back to the file system; return whether there are more of them to give."""

        async def vacuum() -> bool:
            surplus = await number(self._writer, "PRAGMA freelist_count") - spare_pages
            if surplus > 0:
                # As a script: `execute` would take the first of its steps only, which is one page.
                await self._writer.executescript(f"PRAGMA incremental_vacuum({min(surplus, _VACUUM_PAGES)})")
            return surplus > _VACUUM_PAGES

        async with self._transactions.exclusive():
            return await self._transactions.run(vacuum)

    async def tidy(self) -> bool:
        """See `TruncatableLog.tidy`. Moves SQLite's journal into the file and empties it; one that is being read stays."""
        while await self._vacuum(spare_pages=0):
            pass

        async def empty() -> bool:
            await self._forget_deleted()
            return await self._empty_journal(0)

        async with self._transactions.exclusive():
            return await self._transactions.run(empty)

    async def scrub(self) -> None:
        """See `TruncatableLog.scrub`."""

        async def vacuum() -> bool:
            await self._forget_deleted()
            if not await self._empty_journal(_SCRUB_SECONDS):  # before all is written anew
                return False
            await self._writer.execute("VACUUM")
            return await self._empty_journal(_SCRUB_SECONDS)

        async with self._transactions.exclusive():
            if not await self._transactions.run(vacuum):
                raise UnavailableError(f"somebody reads the log; stop that and try again. file={FILE}")

    async def _empty_journal(self, wait_seconds: float) -> bool:
        """Move SQLite's journal into the file and empty it, in a turn. False: somebody reads it for longer than that."""
        await self._writer.execute_fetchall(f"PRAGMA busy_timeout = {int(wait_seconds * 1000)}")
        try:
            return not await number(self._writer, "PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            await self._writer.execute_fetchall(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")

    async def _forget_deleted(self) -> None:
        """Forget what was noted of collections that are gone, also from the entries."""
        await self._writer.execute(sql.BEGIN)
        for statement in sql.FORGET_DELETED:
            await self._writer.execute(statement)
        await self._writer.commit()
