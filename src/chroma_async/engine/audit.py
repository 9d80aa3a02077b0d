"""Who wrote what, as far as the log still tells: a payload, and with it the author, is freed when it was applied."""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec import Struct

from chroma_async.core.events import (
    CatalogEvent,
    CollectionCreated,
    CollectionDeleted,
    CollectionModified,
    RecordsDeleted,
    RecordsHead,
    author_of,
    decode_head,
)
from chroma_async.errors import LogTruncated
from chroma_async.model import CollectionId, Lsn
from chroma_async.wal import Entry, LogStore


class AuditLine(Struct, frozen=True):
    """One entry of the log. `event` is None where it was freed: only when it was written is known then."""

    lsn: Lsn
    time_ns: int
    author: str | None
    event: str | None
    collection: CollectionId | None
    records: int | None = None
    name: str | None = None


async def audit(log: LogStore, *, after: Lsn, collection: CollectionId | None = None) -> AsyncIterator[AuditLine]:
    """Yield the entries that the log keeps, oldest first: those after an LSN, of one collection or of all.

    Raises:
        LogError: the log is damaged, or ends before `after`.
    """
    position = after
    while True:
        position = max(position, Lsn(await log.oldest() - 1))
        try:
            async for entry in log.read(after=position):
                position = entry.lsn
                line = _line(entry)
                if collection is None or line.collection == collection:
                    yield line
        except LogTruncated:
            continue  # the compactor forgot entries meanwhile
        return


def _line(entry: Entry) -> AuditLine:
    if entry.payload is None:
        return AuditLine(entry.lsn, entry.time_ns, None, None, entry.collection)
    head = decode_head(entry.payload)
    name = getattr(head, "name", None)
    event = "RecordsWritten" if isinstance(head, RecordsHead) else type(head).__name__
    return AuditLine(
        lsn=entry.lsn,
        time_ns=entry.time_ns,
        author=author_of(entry.payload),
        event=f"{event}.{head.operation}" if isinstance(head, RecordsHead) else event,
        collection=_collection(head, entry),
        records=_count(head),
        name=name,
    )


def _collection(head: CatalogEvent | RecordsHead | RecordsDeleted, entry: Entry) -> CollectionId | None:
    if isinstance(head, CollectionCreated | CollectionModified | CollectionDeleted):
        return head.id
    return entry.collection


def _count(head: CatalogEvent | RecordsHead | RecordsDeleted) -> int | None:
    if isinstance(head, RecordsHead):
        return head.count
    return len(head.ids) if isinstance(head, RecordsDeleted) else None
