"""What rows of the log's file say, once it agrees with their checksums."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final

import anyio.to_thread

from chroma_async.errors import FormatError, LogCorrupt, LogError
from chroma_async.model import CollectionId, Lsn
from chroma_async.wal.checks import checksum, hole, only_row, row_checksum
from chroma_async.wal.sqlite.connections import Row
from chroma_async.wal.sqlite.sql import FORMAT
from chroma_async.wal.store import Entry

_VERIFY_INLINE_BYTES: Final = 256 * 2**10
"""Checksums of less than this are computed where they are, a few hundred microseconds; of more in a worker thread."""


def entry_rows(found: list[Row]) -> list[Row]:
    """The entries behind two bounds, in LSN order; the row without an entry is there where none was found."""
    return sorted((row[2:] for row in found if row[2] is not None), key=itemgetter(0))


def lost_rows(newest: int, through: int) -> Iterator[tuple[object, ...]]:
    """What `sql.INSERT` takes of lost entries: those behind the newest one, whose LSNs are to be given to no others."""
    return ((lsn, None, 0, checksum(lsn, None, 0, None, None), None, None) for lsn in range(newest + 1, through + 1))


def within(rows: list[Row], bytes_max: int) -> list[Row]:
    """Without the last row of a page, if that is the one that is too much."""
    return rows[:-1] if len(rows) > 1 and _size(rows) > bytes_max else rows


async def verified(rows: list[Row], after: int | None = None) -> tuple[list[Entry], LogError | None]:
    """Return the entries up to the first that is missing or damaged, and the error that says so.

    Those of one collection, without `after`, need not follow each other.
    """
    if _size(rows) < _VERIFY_INLINE_BYTES:
        return _verify(rows, after)
    return await anyio.to_thread.run_sync(_verify, rows, after)


def _size(rows: list[Row]) -> int:
    return sum(len(row[5] or b"") for row in rows)


def _verify(rows: list[Row], after: int | None) -> tuple[list[Entry], LogError | None]:
    entries: list[Entry] = []
    for expected, (lsn, collection, time_ns, crc, operation_id, payload) in enumerate(rows, (after or 0) + 1):
        if after is not None and lsn != expected:
            return entries, hole(expected - 1, lsn)
        if checksum(lsn, collection, time_ns, operation_id, payload) != crc:
            reason = f"an entry does not match its checksum: restore the log from a backup. lsn={lsn}"
            return entries, LogCorrupt(reason, lsn=lsn, collection=collection)
        entries.append(Entry(Lsn(lsn), collection and CollectionId(collection), payload, time_ns))
    return entries, None


def identity_in(found: Iterable[Sequence[Any]]) -> str:
    """The log's identity, which stands beside its format.

    Raises:
        FormatError: it is of another format.
        LogCorrupt: there is no such row.
    """
    identity, version = only_row(found)
    if version != FORMAT:
        raise FormatError(f"the log has another format: use the version that wrote it. format={version} known={FORMAT}")
    return str(identity)


def verified_catalog(rows: Iterable[Row]) -> dict[str, bytes]:
    """The catalog's rows by their keys, of rows that have key, checksum and value.

    Raises:
        LogCorrupt: one does not match its checksum.
    """
    catalog: dict[str, bytes] = {}
    for key, crc, value in rows:
        if row_checksum(key, value) != crc:
            raise LogCorrupt(f"a catalog row does not match its checksum: restore the log. key={key!r}")
        catalog[key] = value
    return catalog
