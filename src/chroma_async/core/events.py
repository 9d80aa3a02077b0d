"""What the log says, in the past tense, and the versioned binary form of it.

Layout of an encoded event, integers little-endian:

    u8 version | u8 kind | u32 length of head | head (JSON) | u32 length of body | body (JSON) | vectors (float32)

Spaces may stand behind the JSON of a body, so that vectors begin at a multiple of `ALIGNED_BYTES`.

The head is small and holds all that the catalog folds; a follower that keeps no records never decodes the body. It may name
an `author` besides, where a server knows its callers: no part of the event, so folding passes over it. Ids, times and
choices are decided before an event is made: applying it is a pure function of state and event.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec
import numpy as np
import numpy.typing as npt
import orjson
from msgspec.structs import replace

from chroma_async.errors import LogCorrupt
from chroma_async.model import Collection, CollectionId, HnswConfiguration, JsonObject, MetadataPatch, Vectors

CODEC_VERSION: Final = 1
_PREFIX: Final = struct.Struct("<BBI")
_LENGTH: Final = struct.Struct("<I")

ALIGNED_BYTES: Final = 16
"""Vectors begin at a multiple of this, so that a memtable needs no copy of them (an entry of an older release may not)."""

WriteOperation = Literal["add", "update", "upsert"]


class TenantCreated(msgspec.Struct, frozen=True):
    name: str


class DatabaseCreated(msgspec.Struct, frozen=True):
    id: str
    name: str
    tenant: str


class DatabaseDeleted(msgspec.Struct, frozen=True):
    """Its collections are deleted with it."""

    name: str
    tenant: str


class CollectionCreated(msgspec.Struct, frozen=True):
    id: CollectionId
    name: str
    tenant: str
    database: str
    metadata: JsonObject | None
    hnsw: HnswConfiguration
    embedding_function: JsonObject | None
    schema: JsonObject | None

    def collection(self) -> Collection:
        """Return the collection, as it begins."""
        return Collection(
            id=self.id,
            name=self.name,
            tenant=self.tenant,
            database=self.database,
            metadata=self.metadata,
            hnsw=self.hnsw,
            embedding_function=self.embedding_function,
            schema=self.schema,
        )


class CollectionModified(msgspec.Struct, frozen=True):
    """The collection's new properties, whole."""

    id: CollectionId
    name: str
    metadata: JsonObject | None
    hnsw: HnswConfiguration
    embedding_function: JsonObject | None
    schema: JsonObject | None

    def applied_to(self, old: Collection) -> Collection:
        """Return the collection with these properties instead of the old ones."""
        return replace(
            old,
            name=self.name,
            metadata=self.metadata,
            hnsw=self.hnsw,
            embedding_function=self.embedding_function,
            schema=self.schema,
        )


class CollectionDeleted(msgspec.Struct, frozen=True):
    """The catalog needs the id alone; the rest tells who follows a database what it was. Older releases did not say it."""

    id: CollectionId
    name: str | None = None
    tenant: str | None = None
    database: str | None = None


class EverythingDeleted(msgspec.Struct, frozen=True):
    """A reset: only the default tenant and database exist afterwards."""

    database_id: str


class PurgeAsked(msgspec.Struct, frozen=True):
    """Every trace of the collection's deleted and replaced records is to leave the disk."""

    id: CollectionId


class RecordsHead(msgspec.Struct, frozen=True):
    """What the catalog learns from a write."""

    collection: CollectionId
    operation: WriteOperation
    count: int
    dimension: int | None
    fields: dict[str, tuple[str, ...]]


class RecordsWritten(msgspec.Struct, frozen=True, eq=False):
    """One accepted batch of an add, update or upsert.

    `vectors` has shape (k, ndim), float32; `rows` says to which of the ids they belong, shape (k,), None for all.
    Columns that the call did not carry are None. Of an event to be folded, metadata is still JSON: most of it is never
    looked at here, and dictionaries are objects that a search for cycles has to visit.
    """

    head: RecordsHead
    ids: list[str]
    vectors: Vectors
    rows: npt.NDArray[np.int64] | None
    documents: list[str | None] | None
    metadatas: list[MetadataPatch | None] | None
    uris: list[str | None] | None
    metadatas_json: list[str] | None = None


class RecordsDeleted(msgspec.Struct, frozen=True):
    """The ids that were decided on; those that do not exist have no effect."""

    collection: CollectionId
    ids: list[str]


CatalogEvent: TypeAlias = (
    TenantCreated
    | DatabaseCreated
    | DatabaseDeleted
    | CollectionCreated
    | CollectionModified
    | CollectionDeleted
    | EverythingDeleted
    | PurgeAsked
)
RecordsEvent: TypeAlias = RecordsWritten | RecordsDeleted
Event: TypeAlias = CatalogEvent | RecordsEvent

_KINDS: Final[dict[int, type[Any]]] = {
    1: TenantCreated,
    2: DatabaseCreated,
    3: DatabaseDeleted,
    4: CollectionCreated,
    5: CollectionModified,
    6: CollectionDeleted,
    7: EverythingDeleted,
    8: PurgeAsked,
    16: RecordsWritten,
    17: RecordsDeleted,
}
_NUMBERS: Final = {kind: number for number, kind in _KINDS.items()}


def encode(event: Event) -> bytes:
    """Return the bytes of an event.

    Raises:
        LogCorrupt: the catalog could not read them again: in the log they would keep the directory from being opened.
    """
    number = _NUMBERS[type(event)]
    if isinstance(event, RecordsWritten):
        return _join(number, orjson.dumps(_as_json(event.head)), _records_body(event), event.vectors)
    head = orjson.dumps(_as_json(event))
    if not isinstance(event, RecordsDeleted):
        _convert(head, type(event))
    return _join(number, head, b"", None)


def _as_json(value: msgspec.Struct) -> object:
    return msgspec.to_builtins(value)


def _records_body(event: RecordsWritten) -> bytes:
    columns: dict[str, object] = {"ids": event.ids}
    if event.rows is not None:
        columns["rows"] = event.rows.tolist()
    for name in ("documents", "metadatas", "uris"):
        value = getattr(event, name)
        if value is not None:
            columns[name] = value
    return orjson.dumps(columns)


def _join(number: int, head: bytes, body: bytes, vectors: Vectors | None) -> bytes:
    """Put an event together; spaces behind the JSON of the body let the vectors begin where they can be used as they lie."""
    raw = b"" if vectors is None or not vectors.size else np.ascontiguousarray(vectors, dtype="<f4").data.cast("B")
    spaces = _spaces(_PREFIX.size + len(head) + _LENGTH.size + len(body)) if len(raw) else b""
    length = _LENGTH.pack(len(body) + len(spaces))
    return b"".join((_PREFIX.pack(CODEC_VERSION, number, len(head)), head, length, body, spaces, raw))


def _spaces(size: int) -> bytes:
    """As many as make a multiple of `ALIGNED_BYTES` of so many bytes."""
    return b" " * (-size % ALIGNED_BYTES)


def rewritten(payload: bytes, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    """Return an event of the next codec version, with the head that `change` makes of its head: what an up-caster does.

    Raises:
        LogCorrupt: the bytes are no event.
    """
    version, number, length = _unpacked(payload)
    start = _PREFIX.size
    try:
        head = orjson.dumps(change(orjson.loads(payload[start : start + length])))
    except (ValueError, KeyError, TypeError) as error:
        raise LogCorrupt(f"entry has a damaged head. version={version} kind={number} reason={error}") from error
    return _PREFIX.pack(version + 1, number, len(head)) + head + payload[start + length :]


def signed(payload: bytes, author: str) -> bytes:
    """Return an encoded event whose head says who wrote it."""
    version, number, length = _unpacked(payload)
    start, end = _PREFIX.size, _PREFIX.size + length
    addition = b',"author":' + orjson.dumps(author)
    addition += _spaces(len(addition))  # vectors stay where they can be used
    prefix = _PREFIX.pack(version, number, length + len(addition))
    return b"".join((prefix, memoryview(payload)[start : end - 1], addition, memoryview(payload)[end - 1 :]))


class _Signature(msgspec.Struct, frozen=True):
    author: str | None = None


def author_of(payload: bytes) -> str | None:
    """Return who wrote an encoded event; None where nobody was known.

    Raises:
        LogCorrupt: as `decode_head`.
    """
    _, head, _ = _split(_current(payload))
    return cast("_Signature", _convert(head, _Signature)).author


UPCASTERS: Final[dict[int, Callable[[bytes], bytes]]] = {}
"""From a codec version to the next one: bytes to bytes, mostly by `rewritten`. There is one for each version before
`CODEC_VERSION`, for ever: entries wait in logs, and in backups of logs, for longer than a release lives."""


def _current(payload: bytes) -> bytes:
    """The event as this release would have encoded it."""
    while payload and payload[0] in UPCASTERS and payload[0] < CODEC_VERSION:
        payload = UPCASTERS[payload[0]](payload)
    return payload


def decode_head(payload: bytes) -> CatalogEvent | RecordsHead | RecordsDeleted:
    """Return what the catalog needs of an event, without looking at the records.

    Raises:
        LogCorrupt: the version or kind is unknown (a newer release wrote it), or the bytes are no event.
    """
    kind, head, _ = _split(_current(payload))
    shape = RecordsHead if kind is RecordsWritten else kind
    return cast("CatalogEvent | RecordsHead | RecordsDeleted", _convert(head, shape))


def decode(payload: bytes, *, to_fold: bool = False) -> Event:
    """Return the event; vectors are a view of the payload. `to_fold`: leave metadata as JSON.

    Raises:
        LogCorrupt: as `decode_head`.
    """
    payload = _current(payload)
    kind, head, offset = _split(payload)
    if kind is not RecordsWritten:
        return cast("Event", _convert(head, kind))
    try:
        return _decode_records(payload, _convert(head, RecordsHead), offset, to_fold=to_fold)
    except (struct.error, ValueError, msgspec.DecodeError, OverflowError, RecursionError) as error:
        raise LogCorrupt(f"entry has damaged records. bytes={len(payload)} reason={error}") from error


def _unpacked(payload: bytes) -> tuple[int, int, int]:
    try:
        return cast("tuple[int, int, int]", _PREFIX.unpack_from(payload))
    except struct.error as error:
        raise LogCorrupt(f"entry is too short to be an event. bytes={len(payload)}") from error


def _split(payload: bytes) -> tuple[type[Any], bytes, int]:
    version, number, length = _unpacked(payload)
    if version != CODEC_VERSION or number not in _KINDS:
        raise LogCorrupt(
            "entry was written by a release that this one does not know; upgrade before opening the directory. "
            f"version={version} kind={number}"
        )
    start = _PREFIX.size
    return _KINDS[number], payload[start : start + length], start + length


# Made before there are threads: msgspec's first look into a type must not be taken by two at once.
_DECODERS: Final = {kind: msgspec.json.Decoder(kind) for kind in (*_KINDS.values(), RecordsHead, _Signature)}


class _Body(msgspec.Struct, frozen=True):
    """The columns of a write, as `_records_body` encodes them."""

    ids: list[str]
    rows: list[int] | None = None
    documents: list[str | None] | None = None
    metadatas: list[msgspec.Raw] | None = None
    uris: list[str | None] | None = None


_BODY_DECODER: Final = msgspec.json.Decoder(_Body)


def _convert(head: bytes, kind: type[Any]) -> Any:
    try:
        return _DECODERS[kind].decode(head)
    except msgspec.DecodeError as error:
        raise LogCorrupt(f"entry has a damaged head. kind={kind.__name__} reason={error}") from error


def _decode_records(payload: bytes, head: RecordsHead, offset: int, *, to_fold: bool) -> RecordsWritten:
    (length,) = _LENGTH.unpack_from(payload, offset)
    start = offset + _LENGTH.size
    body = _BODY_DECODER.decode(memoryview(payload)[start : start + length])
    flat = np.frombuffer(payload, dtype="<f4", offset=start + length)
    if flat.size != (head.dimension or 0) * len(body.ids if body.rows is None else body.rows):
        raise ValueError(f"vectors do not belong to the ids. numbers={flat.size}")
    texts = None if body.metadatas is None else [bytes(raw).decode() for raw in body.metadatas]
    if texts and not all(text[0] == "{" or text == "null" for text in texts):
        raise ValueError("metadata is no object")
    if any(column is not None and len(column) != len(body.ids) for column in (body.documents, texts, body.uris)):
        raise ValueError("columns are not as long as the ids")
    return RecordsWritten(
        head=head,
        ids=body.ids,
        vectors=flat.reshape(-1, head.dimension) if head.dimension else np.empty((0, 0), dtype=np.float32),
        rows=None if body.rows is None else np.asarray(body.rows, dtype=np.int64),
        documents=body.documents,
        metadatas=None if to_fold or texts is None else orjson.loads(f"[{','.join(texts)}]"),
        uris=body.uris,
        metadatas_json=texts if to_fold else None,
    )
