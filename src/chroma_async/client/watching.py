"""What a feed of changes is asked for, and what can be made of it: a dictionary that follows a collection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from chroma_async.client.checks import checked_missing
from chroma_async.client.filters import checked_where
from chroma_async.core.metadata import merge_metadata
from chroma_async.model import Metadata, MetadataPatch, Vectors
from chroma_async.protocol.changes import RECORD_KINDS, Change, ChangeKind, Included, to_query_text, to_where_text
from chroma_async.settings import Missing

OnGone = Literal["raise", "snapshot"]

WATCH_INCLUDE: tuple[Included, ...] = ("documents", "metadatas")
RECONNECT_SECONDS = 300.0


def watch_fields(
    after: int | str | None,
    snapshot: bool,
    include: Sequence[Included],
    kinds: Sequence[ChangeKind] | None,
    where: Any,
    missing: Missing | None,
    heartbeat_seconds: float | None,
) -> dict[str, Any]:
    """Return the fields of a call for a feed, as texts."""
    return {
        "after": None if after is None else str(after),
        "snapshot": "true" if snapshot else None,
        "include": to_query_text(include),
        "kinds": to_query_text(kinds),
        "where": to_where_text(checked_where(where)),
        "missing": checked_missing(missing),
        "heartbeat": None if heartbeat_seconds is None else str(heartbeat_seconds),
    }


@dataclass(frozen=True, slots=True, eq=False)
class MirroredRecord:
    """A record as a feed has told of it. What the feed does not include is None. `embedding` has shape (ndim,), float32."""

    embedding: Vectors | None = None
    document: str | None = None
    metadata: Metadata | None = None
    uri: str | None = None


@dataclass(slots=True)
class Mirror:
    """A dictionary that follows a collection: what its records are after the changes that were applied to it, by id.

    They are in insertion order, as `get()` returns them. It starts empty: right for a collection whose whole history the
    feed has, or after a snapshot. `position` is the cursor of the last change.

        mirror = Mirror()
        async for change in collection.watch(snapshot=True, on_gone="snapshot"):
            mirror.apply(change)

    Of a feed with a filter it has what passes: updates of records that it does not know change nothing.
    """

    records: dict[str, MirroredRecord] = field(default_factory=dict[str, MirroredRecord])
    position: str | None = None
    is_whole: bool = True
    """Not in the middle of a snapshot."""

    def apply(self, change: Change) -> None:
        """Do to the dictionary what was done to the collection."""
        match change.kind:
            case "snapshot_begin":
                self.records, self.is_whole = {}, False
            case "snapshot_end":
                self.is_whole = True
            case "collection_deleted" | "database_deleted":
                self.records = {}
            case "delete":
                for record_id in change.ids:
                    self.records.pop(record_id, None)
            case _ if change.kind == "snapshot" or change.kind in RECORD_KINDS:
                self._write(change)
            case _:
                pass
        if change.cursor is not None:
            self.position = change.cursor

    def _write(self, change: Change) -> None:
        nothing: list[None] = [None] * len(change.ids)
        columns = (change.embeddings, change.documents, change.metadatas, change.uris)
        for record_id, embedding, document, metadata, uri in zip(
            change.ids, *(column or nothing for column in columns), strict=True
        ):
            old = self.records.get(record_id)
            if old is None and change.kind != "update":
                new = MirroredRecord(embedding, document, merge_metadata(None, metadata), uri)
                self.records[record_id] = new
            elif old is not None and change.kind != "add":
                self.records[record_id] = _changed(old, embedding, document, metadata, uri)


def _changed(
    old: MirroredRecord, embedding: Vectors | None, document: str | None, metadata: MetadataPatch | None, uri: str | None
) -> MirroredRecord:
    """What a write leaves out stays; metadata is merged field by field."""
    return replace(
        old,
        embedding=old.embedding if embedding is None else embedding,
        document=old.document if document is None else document,
        metadata=merge_metadata(old.metadata, metadata),
        uri=old.uri if uri is None else uri,
    )
