"""The change feed: what was written to a collection, or to all of a database, entry by entry, as it happens.

An answer has no end of its own. It is Server-Sent Events, whose `id` is the cursor, or, asked for by `Accept`, NDJSON.
Each change is one JSON object, the same in both.

    https://html.spec.whatwg.org/multipage/server-sent-events.html
    https://github.com/ndjson/ndjson-spec
"""

from __future__ import annotations

import binascii
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, Protocol, cast, get_args

import numpy as np
import orjson
from msgspec import Struct

from chroma_async.core.where import Missing, Where, parse_where
from chroma_async.errors import ChromaError, InvalidArgumentError, from_wire
from chroma_async.model import JsonObject, Lsn, MetadataPatch, Vectors
from chroma_async.protocol.call import COLLECTION, DATABASE, Call, Route
from chroma_async.protocol.records import RecordsCall
from chroma_async.protocol.validation import LSN_MAX, check_database_in_path

EVENT_STREAM: Final = "text/event-stream"
LOG_HEADER: Final = "chroma-async-log"
"""The identity of the log that a feed reads: LSNs of two logs do not compare."""

RecordKind = Literal["add", "update", "upsert", "delete"]
CatalogKind = Literal["collection_created", "collection_modified", "collection_deleted", "database_deleted"]
SnapshotKind = Literal["snapshot_begin", "snapshot", "snapshot_end"]
ChangeKind = Literal[RecordKind, CatalogKind, SnapshotKind, "heartbeat"]
"""What a change is. `snapshot` has records as they are, not what was done to them."""

ERROR_KIND: Final = "error"
"""The kind of an object that is no change, but why a feed ends."""

Included = Literal["documents", "embeddings", "metadatas", "uris"]

RECORD_KINDS: Final[tuple[RecordKind, ...]] = get_args(RecordKind)
KINDS: Final[tuple[str, ...]] = (*RECORD_KINDS, *get_args(CatalogKind)[:3])
"""Kinds that may be asked for; the others come anyway."""

INCLUDED: Final[tuple[Included, ...]] = get_args(Included)

HEARTBEAT_SECONDS: Final = 15.0
HEARTBEAT_SECONDS_MIN: Final = 0.1
HEARTBEAT_SECONDS_MAX: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """One entry of the log, or a part of a snapshot, or a heartbeat.

    The lists are parallel to `ids`; those that were not asked for, or that the write did not carry, are None. Embeddings are
    float32, of shape (ndim,). `time` is in seconds since 1970. A feed goes on after `cursor`, which is None where it can't:
    within a snapshot. `collection` is a UUID, `name` the collection's name then; a feed of one collection has neither.
    """

    kind: ChangeKind
    lsn: int
    time: float | None = None
    cursor: str | None = None
    collection: str | None = None
    name: str | None = None
    ids: list[str] = field(default_factory=list[str])
    embeddings: list[Vectors | None] | None = None
    documents: list[str | None] | None = None
    metadatas: list[MetadataPatch | None] | None = None
    uris: list[str | None] | None = None

    def __repr__(self) -> str:
        where = "" if self.name is None else f" name={self.name!r}"
        return f"Change(kind={self.kind!r}, lsn={self.lsn},{where} ids={len(self.ids)})"

    def to_json(self) -> bytes:
        """Return it as a JSON object, without what it lacks."""
        fields: JsonObject = {"kind": self.kind, "lsn": self.lsn}
        for name in ("time", "cursor", "collection", "name", "documents", "metadatas", "uris"):
            value = getattr(self, name)
            if value is not None:
                fields[name] = value
        if self.kind in RECORD_KINDS or self.kind == "snapshot":
            fields["ids"] = self.ids
        if self.embeddings is not None:
            fields["embeddings"] = [None if vector is None else _base64(vector) for vector in self.embeddings]
        return orjson.dumps(fields)

    @classmethod
    def from_json(cls, text: bytes) -> Change:
        """Return the change that `to_json` wrote.

        Raises:
            ChromaError: what ended the feed, where the object says that.
            ValueError, KeyError, TypeError: it is no such object.
        """
        fields = cast("JsonObject", orjson.loads(text))
        if fields["kind"] == ERROR_KIND:
            raise from_wire(fields["error"], fields["status"], fields["message"])
        if "embeddings" in fields:
            encoded = cast("list[str | None]", fields["embeddings"])
            fields["embeddings"] = [None if item is None else _vector(item) for item in encoded]
        known = {name: fields[name] for name in cls.__slots__ if name in fields}
        return cls(**known)

    @property
    def size_bytes(self) -> int:
        """About how much there is to be encoded."""
        vectors = 0 if self.embeddings is None else sum(item.nbytes for item in self.embeddings if item is not None)
        columns = sum(column is not None for column in (self.documents, self.metadatas, self.uris))
        return vectors + 64 * len(self.ids) * (1 + columns)


def _base64(vector: Vectors) -> str:
    return binascii.b2a_base64(np.ascontiguousarray(vector, dtype="<f4").data.cast("B"), newline=False).decode()


def _vector(text: str) -> Vectors:
    return np.frombuffer(binascii.a2b_base64(text), dtype="<f4")


def error_json(error: ChromaError) -> bytes:
    """Return the object that says why a feed ends."""
    fields = {"kind": ERROR_KIND, "error": error.wire_name, "status": error.status, "message": error.message}
    return orjson.dumps(fields)


class ChangeFeed(Protocol):
    """Changes as they happen. `aclose` ends it; so do the end of the server, and the end of what it is about."""

    @property
    def identity(self) -> str:
        """Of the log."""
        ...

    def __aiter__(self) -> AsyncIterator[Change]: ...

    async def __anext__(self) -> Change: ...

    async def aclose(self) -> None: ...


class Choice(Struct, frozen=True):
    """Which changes are asked for, and what of them. `kinds` None: all."""

    include: frozenset[Included]
    kinds: frozenset[str] | None
    where: Where | None
    missing: Missing
    heartbeat_seconds: float

    def takes(self, kind: str) -> bool:
        return self.kinds is None or kind in self.kinds


class Watching:
    """What the two calls have in common. The fields are their own, as they travel: texts."""

    __slots__ = ()
    after: str | None
    snapshot: Literal["true", "false"] | None
    include: str | None
    kinds: str | None
    where: str | None
    missing: Missing | None
    heartbeat: str | None
    log: str | None

    def choice(self) -> Choice:
        """Return what the fields say.

        Raises:
            InvalidArgumentError: one of them can't be meant so.
        """
        include = _names(self.include, INCLUDED, "include")
        kinds = None if self.kinds is None else frozenset(_names(self.kinds, KINDS, "kinds"))
        return Choice(
            frozenset(cast("Sequence[Included]", include)),
            kinds,
            _where(self.where),
            self.missing or "exclude",
            _seconds(self.heartbeat),
        )

    def check(self) -> None:
        """Check the fields.

        Raises:
            InvalidArgumentError: what is wrong and what is allowed.
        """
        self.choice()
        if self.snapshot == "true" and self.after is not None:
            raise InvalidArgumentError("a snapshot is where a feed begins: leave out `after`, or `snapshot`")


def _names(text: str | None, allowed: Sequence[str], name: str) -> list[str]:
    found = [] if not text else text.split(",")
    for item in found:
        if item not in allowed:
            raise InvalidArgumentError(f"{name} takes some of {', '.join(allowed)}, with commas. got={item[:80]!r}")
    return found


def _where(text: str | None) -> Where | None:
    if text is None:
        return None
    try:
        return parse_where(orjson.loads(text))
    except orjson.JSONDecodeError as error:
        raise InvalidArgumentError(f"where takes a filter as JSON: {error}") from error


def _seconds(text: str | None) -> float:
    if text is None:
        return HEARTBEAT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not HEARTBEAT_SECONDS_MIN <= seconds <= HEARTBEAT_SECONDS_MAX:
        raise InvalidArgumentError(
            f"heartbeat takes {HEARTBEAT_SECONDS_MIN} to {HEARTBEAT_SECONDS_MAX:g} seconds. got={text[:80]!r}"
        )
    return seconds


def parse_lsn(text: str) -> Lsn:
    """Return the position that a feed of a collection goes on after.

    Raises:
        InvalidArgumentError: it is no LSN.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > LSN_MAX:
        raise InvalidArgumentError(f"after takes an LSN, 0 or more. got={text[:80]!r}")
    return Lsn(int(text))


def to_cursor(lsn: Lsn, identity: str) -> str:
    """Return a position in a database's feed. What it is made of is nobody's business but this module's."""
    return f"{lsn:x}-{identity}"


def parse_cursor(text: str) -> tuple[Lsn, str | None]:
    """Return the position, and the log that it is one of; None where that was not said.

    Raises:
        InvalidArgumentError: it is no cursor.
    """
    if text == "0":
        return Lsn(0), None
    number, dash, identity = text.partition("-")
    if not dash or not identity or not 0 < len(number) <= 16 or set(number) - set("0123456789abcdef"):
        raise InvalidArgumentError(f"after takes 0, or a cursor as a feed gave it. got={text[:80]!r}")
    return Lsn(min(int(number, 16), LSN_MAX)), identity


QUERY: Final = ("after", "snapshot", "include", "kinds", "where", "missing", "heartbeat", "log")


class WatchCollection(Watching, RecordsCall[ChangeFeed], frozen=True, kw_only=True):
    """Changes of a collection, as they happen: after an LSN, from the oldest kept one (0), from a snapshot, or from now."""

    route: ClassVar = Route("GET", COLLECTION + "/changes", query=QUERY)
    safe_to_repeat: ClassVar = True
    after: str | None = None
    snapshot: Literal["true", "false"] | None = None
    include: str | None = None
    kinds: str | None = None
    where: str | None = None
    missing: Missing | None = None
    heartbeat: str | None = None
    log: str | None = None

    def validate(self) -> None:
        super().validate()
        self.check()
        if self.after is not None:
            parse_lsn(self.after)


class WatchDatabase(Watching, Call[ChangeFeed], frozen=True, kw_only=True):
    """Changes of all collections of a database, and of which there are: after a cursor, or as those of one collection."""

    route: ClassVar = Route("GET", DATABASE + "/changes", query=QUERY)
    safe_to_repeat: ClassVar = True
    tenant: str
    database: str
    after: str | None = None
    snapshot: Literal["true", "false"] | None = None
    include: str | None = None
    kinds: str | None = None
    where: str | None = None
    missing: Missing | None = None
    heartbeat: str | None = None
    log: str | None = None

    def validate(self) -> None:
        check_database_in_path(self.database)
        self.check()
        if self.after is not None:
            parse_cursor(self.after)


WatchCall = WatchCollection | WatchDatabase


def to_query_text(values: Sequence[str] | None) -> str | None:
    """Return names as one field of the query."""
    return None if values is None else ",".join(values)


def to_where_text(where: Any) -> str | None:
    """Return a filter as one field of the query."""
    return None if where is None else orjson.dumps(where).decode()
