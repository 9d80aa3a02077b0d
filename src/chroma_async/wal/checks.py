"""What every log checks in the same way: the arguments of an append, and the bytes of an entry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from chroma_async.checksums import crc32
from chroma_async.errors import LogConflict, LogCorrupt, LogHole, LogReset, LogTruncated, StorageCorrupt
from chroma_async.model import Lsn
from chroma_async.wal.store import NewEntry

WEIGHTS_MAX: Final = 16_384
"""About as many weights a log has at most: of more entries some neighbours are weighed together."""

OPERATION_WINDOW: Final = 100_000
"""Operation ids of at least this many newest LSNs are remembered, whether their entries were freed and forgotten or not."""

LOST_MAX: Final = 1_000_000
"""Entries that the end of a log may have had which was lost: a copy of a directory in use, whose log was copied first."""

TAIL_MAX: Final = 100_000
"""Entries that a lost tail may have had. A tail is what SQLite's journal holds: 64 MB and rarely more."""


def checksum(
    lsn: int, collection: str | None, time_ns: int, operation_id: str | None, payload: bytes | memoryview | None
) -> int:
    """Return the CRC-32 of an entry: of its payload and of all that stands beside it.

    Part of the format: a change of it is a new format version.
    """
    beside = "\0".join((str(lsn), str(time_ns), _marked(collection), _marked(operation_id), "-" if payload is None else "+"))
    return crc32(payload or b"", crc32(beside.encode()))


def row_checksum(key: str, value: bytes) -> int:
    """Return the CRC-32 of a catalog row."""
    return crc32(value, crc32(key.encode()))


def _marked(text: str | None) -> str:
    return "-" if text is None else f"+{text}"


def only_row(found: Iterable[Sequence[Any]]) -> Sequence[Any]:
    """The one row that a log keeps of something.

    Raises:
        LogCorrupt: it is gone.
    """
    row = next(iter(found), None)
    if row is None or row[0] is None:
        raise LogCorrupt("the log lacks a row that it always has: restore the log")
    return row


def check_batch(entries: Sequence[NewEntry]) -> None:
    """Refuse an append that could not be undone or retried as a whole.

    Raises:
        ValueError: no entry, or one operation id twice.
    """
    if not entries:
        raise ValueError("nothing to append: rows change only together with an entry that says why")
    ids = operation_ids(entries)
    if len(set(ids)) < len(ids):
        raise ValueError("one operation id is on two entries of an append: give each its own, or append one of them")


def operation_ids(entries: Sequence[NewEntry]) -> list[str]:
    return [entry.operation_id for entry in entries if entry.operation_id is not None]


def repeated_lsn(entries: Sequence[NewEntry], known: Sequence[int | None]) -> Lsn | None:
    """Return the LSN of the first entry if all were appended before. `known`: the LSN per operation id of the entries."""
    if len(known) == len(entries) and known[0] is not None and None not in known:
        return Lsn(known[0])
    return None


def mixed_operations(entries: Sequence[NewEntry], known: Sequence[int | None]) -> ValueError:
    """Say that an append mixes what is in the log already with what is new, so that it is neither a retry nor not."""
    repeated = sum(lsn is not None for lsn in known)
    return ValueError(
        "some entries of this append were appended before: append them one by one. "
        f"entries={len(entries)} appended_before={repeated}"
    )


def conflict(after: int, newest: int) -> LogConflict:
    return LogConflict(f"the log moved on: read what follows, then decide again. after={after} newest={newest}")


def hole(after: int, found: int) -> LogHole:
    """Say that the entries between two LSNs are missing."""
    return LogHole(f"entries are missing in the middle of the log: restore it. after={after} next={found}")


def lost_tail(newest: int, published: int) -> int:
    """How many entries a log has lost that ends at `newest`, after it said that it came to `published`.

    A number that is out of all proportion is damage of what holds it.
    """
    return published - newest if 0 < published - newest <= TAIL_MAX else 0


def check_lost(newest: int, applied: int) -> None:
    """Refuse to make up for more entries than a lost end has.

    Raises:
        StorageCorrupt: it would be more.
    """
    if applied - newest > LOST_MAX:
        reason = f"the log ends too long before what was applied of it: restore a backup. newest={newest} applied={applied}"
        raise StorageCorrupt(reason)


def check_reachable(after: int, oldest: int, newest: int) -> None:
    """Refuse to read on from a position that this log can't continue.

    Raises:
        LogTruncated: what follows `after` was forgotten; take the state from a projection.
        LogReset: the log never reached `after`, or lost its end: the caller remembers another log.
    """
    if after + 1 < oldest:
        raise LogTruncated(f"entries were truncated: start from a projection. after={after} oldest={oldest}")
    if after > newest:
        raise LogReset(f"the log ends before the position to read from. after={after} newest={newest}")


def check_history(after: int, freed_through: int, newest: int) -> None:
    """Refuse to read on from a position of a collection whose history does not reach back to it.

    Raises:
        LogTruncated: something after the position was freed.
        LogReset: as `check_reachable`.
    """
    if after < freed_through:
        raise LogTruncated(f"entries were freed: start from a projection. after={after} oldest={freed_through}")
    check_reachable(after, 0, newest)
