"""Fold log entries into a memtable over the record tables: the one way, for readers and for the compactor."""

from __future__ import annotations

from chroma_async.core.events import RecordsDeleted, RecordsWritten, decode
from chroma_async.core.memtable import Memtable
from chroma_async.errors import LogCorrupt
from chroma_async.model import Lsn
from chroma_async.projections.records import RecordTables


def fold_entry(memtable: Memtable, lsn: Lsn, payload: bytes, tables: RecordTables | None) -> None:
    """Decode an entry of a collection's records, look up what it needs, fold it. None: the base is empty.

    Raises:
        LogCorrupt: the entry can't be decoded, or is not of records.
    """
    event = decode(payload, to_fold=True)
    if not isinstance(event, RecordsWritten | RecordsDeleted):
        raise LogCorrupt(f"an entry of a collection's records is of something else. lsn={lsn} event={type(event).__name__}")
    asked = memtable.unknown(event.ids)
    memtable.learn(asked, tables.lookup(asked) if tables is not None and asked else {})
    memtable.fold(lsn, event)
