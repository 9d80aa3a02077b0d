"""What a feed tells of an entry of the log, or of the records of a view."""

from __future__ import annotations

from typing import Any, TypeVar

from chroma_async.core.events import RecordsDeleted, RecordsWritten, decode
from chroma_async.core.where import matches
from chroma_async.engine.read_view import View
from chroma_async.errors import LogCorrupt
from chroma_async.model import Slots, Vectors
from chroma_async.protocol.changes import CatalogKind, Change, Choice
from chroma_async.wal import Entry

T = TypeVar("T")


def change_of_entry(entry: Entry, choice: Choice) -> Change | None:
    """Return what an entry did to records; None: nothing that was asked for."""
    assert entry.payload is not None
    event = decode(entry.payload)
    if isinstance(event, RecordsDeleted):
        if not event.ids or not choice.takes("delete"):
            return None
        return Change(kind="delete", lsn=entry.lsn, time=entry.time_ns / 1e9, ids=event.ids)
    if not isinstance(event, RecordsWritten):
        found = type(event).__name__
        raise LogCorrupt(f"an entry of a collection's records is of something else. lsn={entry.lsn} event={found}")
    if not choice.takes(event.head.operation):
        return None
    rows = _matching_rows(event, choice)
    if rows is not None and not rows:
        return None
    include = choice.include
    return Change(
        kind=event.head.operation,
        lsn=entry.lsn,
        time=entry.time_ns / 1e9,
        ids=_chosen(event.ids, rows) or [],
        embeddings=_chosen(_embeddings(event), rows) if "embeddings" in include else None,
        documents=_chosen(event.documents, rows) if "documents" in include else None,
        metadatas=_chosen(event.metadatas, rows) if "metadatas" in include else None,
        uris=_chosen(event.uris, rows) if "uris" in include else None,
    )


def _matching_rows(event: RecordsWritten, choice: Choice) -> list[int] | None:
    """Rows whose metadata, as the write carries it, passes the filter; None: all."""
    if choice.where is None:
        return None
    metadatas: list[Any] = [None] * len(event.ids) if event.metadatas is None else list(event.metadatas)
    where = choice.where
    return [row for row, metadata in enumerate(metadatas) if matches(where, metadata, None, choice.missing)]


def _chosen(values: list[T] | None, rows: list[int] | None) -> list[T] | None:
    return values if values is None or rows is None else [values[row] for row in rows]


def _embeddings(event: RecordsWritten) -> list[Vectors | None] | None:
    if not len(event.vectors):
        return None
    if event.rows is None:
        return list(event.vectors)
    found: list[Vectors | None] = [None] * len(event.ids)
    for row, vector in zip(event.rows.tolist(), event.vectors, strict=True):
        found[row] = vector
    return found


def change_of_catalog(kind: CatalogKind, entry: Entry, collection: str | None, name: str | None, metadata: Any) -> Change:
    """Return what an entry did to the collections of a database."""
    return Change(
        kind=kind,
        lsn=entry.lsn,
        time=entry.time_ns / 1e9,
        collection=collection,
        name=name,
        metadatas=None if metadata is None else [metadata],
    )


def snapshot_page(choice: Choice, view: View, slots: Slots) -> Change:
    """Records of a snapshot, those that pass the filter."""
    rows = view.rows(slots)
    metadatas = [row.metadata for row in rows]
    where = choice.where
    if where is not None:
        kept = [number for number, item in enumerate(metadatas) if matches(where, item, None, choice.missing)]
        slots, rows, metadatas = slots[kept], [rows[number] for number in kept], [metadatas[number] for number in kept]
    include = choice.include
    return Change(
        kind="snapshot",
        lsn=view.image.through,
        ids=[row.id for row in rows],
        embeddings=list(view.vectors(slots)) if "embeddings" in include and len(slots) else None,
        documents=[row.document for row in rows] if "documents" in include else None,
        metadatas=list(metadatas) if "metadatas" in include else None,
        uris=[row.uri for row in rows] if "uris" in include else None,
    )
