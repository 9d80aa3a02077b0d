"""The binary form of events: versioned, checked, and never half understood."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest

from chroma_async.core import events
from chroma_async.core.events import (
    CODEC_VERSION,
    CollectionCreated,
    CollectionDeleted,
    DatabaseDeleted,
    Event,
    EverythingDeleted,
    PurgeAsked,
    RecordsDeleted,
    RecordsHead,
    RecordsWritten,
    TenantCreated,
    author_of,
    decode,
    decode_head,
    encode,
    signed,
)
from chroma_async.errors import LogCorrupt
from chroma_async.model import CollectionId, HnswConfiguration

COLLECTION = CollectionId("00000000-0000-4000-8000-00000000000a")


def written(rows: int, *, vectors: bool = True, some: bool = False) -> RecordsWritten:
    given = list(range(0, rows, 2)) if some else list(range(rows))
    head = RecordsHead(COLLECTION, "update", rows, 3 if vectors else None, {"f": ("int", "str")})
    matrix = np.arange(len(given) * 3, dtype=np.float32).reshape(-1, 3) if vectors else np.empty((0, 0), dtype=np.float32)
    return RecordsWritten(
        head=head,
        ids=[f"é{row}" for row in range(rows)],
        vectors=matrix,
        rows=np.array(given, dtype=np.int64) if some and vectors else None,
        documents=None,
        metadatas=[{"f": row, "g": None} for row in range(rows)],
        uris=None,
    )


EVENTS: list[Event] = [
    TenantCreated("t"),
    DatabaseDeleted("d", "t"),
    CollectionDeleted(COLLECTION),
    EverythingDeleted("d"),
    PurgeAsked(COLLECTION),
    RecordsDeleted(COLLECTION, ["a", "漢字"]),
    written(4),
    written(4, some=True),
    written(4, vectors=False),
]


@pytest.mark.parametrize("event", EVENTS)
def test_whatever_is_cut_off_an_event_is_noticed(event: Event) -> None:
    payload = encode(event)
    for length in range(len(payload) - 1, -1, -1):
        if isinstance(event, RecordsWritten) or length < len(payload) - 4:
            with pytest.raises(LogCorrupt):
                decode(payload[:length])


@pytest.mark.parametrize("event", EVENTS)
def test_versions_and_kinds_that_are_not_known_stop(event: Event) -> None:
    payload = encode(event)
    for prefix in (bytes([CODEC_VERSION + 1, payload[1]]), bytes([CODEC_VERSION, 99]), b"\0\0"):
        for function in (decode, decode_head):
            with pytest.raises(LogCorrupt, match="release"):
                function(prefix + payload[2:])


def test_head_is_read_without_the_records() -> None:
    payload = encode(written(5))
    length = struct.unpack_from("<I", payload, 2)[0]
    head = decode_head(payload[: 6 + length])
    assert head == written(5).head


def test_events_that_lack_a_field_are_refused() -> None:
    head = msgspec.json.encode({"nothing": 1})
    payload = struct.pack("<BBI", CODEC_VERSION, 1, len(head)) + head + struct.pack("<I", 0)
    with pytest.raises(LogCorrupt, match="TenantCreated"):
        decode(payload)


BODIES = {
    "metadata that is a number": b'{"ids":["a"],"metadatas":[5]}',
    "metadata that is a list": b'{"ids":["a"],"metadatas":[[1]]}',
    "metadata that is text": b'{"ids":["a"],"metadatas":["{}"]}',
    "metadata that ends early": b'{"ids":["a"],"metadatas":[{"f":1]}',
    "ever deeper lists": b'{"ids":["a"],"metadatas":[' + b"[" * 5_000 + b"]" * 5_000 + b"]}",
    "too few metadatas": b'{"ids":["a","b"],"metadatas":[{"f":1}]}',
    "too many documents": b'{"ids":["a"],"documents":["x","y"]}',
    "rows beyond all numbers": b'{"ids":["a"],"rows":[99999999999999999999]}',
    "no ids": b'{"metadatas":[{"f":1}]}',
    "ids that are numbers": b'{"ids":[1]}',
    "a list": b"[]",
    "nothing": b"null",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("to_fold", [False, True])
def test_records_that_nobody_encoded_so_are_damage(body: bytes, to_fold: bool) -> None:
    head = msgspec.json.encode(RecordsHead(COLLECTION, "upsert", 1, None, {}))
    payload = struct.pack("<BBI", CODEC_VERSION, 16, len(head)) + head + struct.pack("<I", len(body)) + body
    with pytest.raises(LogCorrupt, match="records"):
        decode(payload, to_fold=to_fold)


@pytest.mark.parametrize("event", [event for event in EVENTS if isinstance(event, RecordsWritten)])
def test_events_that_are_folded_have_the_same_metadata_as_json(event: RecordsWritten) -> None:
    folded = decode(encode(event), to_fold=True)
    assert isinstance(folded, RecordsWritten)
    assert folded.metadatas is None
    assert folded.metadatas_json is not None
    assert [orjson.loads(text) for text in folded.metadatas_json] == event.metadatas


def test_entries_of_older_codecs_are_read_as_if_they_were_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two versions from now a head may have other fields; today's entries still wait in a log or a backup of one."""
    tenant, vectors = encode(TenantCreated("somebody")), encode(RecordsDeleted(CollectionId("c"), ["a", "b"]))

    def with_owner(head: dict[str, Any]) -> dict[str, Any]:
        return {**head, "owner": "nobody"}

    def renamed(head: dict[str, Any]) -> dict[str, Any]:
        assert head.pop("owner") == "nobody"
        return head

    monkeypatch.setattr(events, "CODEC_VERSION", 3)
    monkeypatch.setitem(events.UPCASTERS, 1, lambda payload: events.rewritten(payload, with_owner))
    monkeypatch.setitem(events.UPCASTERS, 2, lambda payload: events.rewritten(payload, renamed))
    assert decode(tenant) == TenantCreated("somebody")
    assert decode_head(vectors) == RecordsDeleted(CollectionId("c"), ["a", "b"])
    with pytest.raises(LogCorrupt, match="upgrade"):
        decode(bytes([4]) + tenant[1:])


def test_every_older_codec_has_an_upcaster() -> None:
    assert sorted(events.UPCASTERS) == list(range(1, events.CODEC_VERSION))


@pytest.mark.parametrize("event", EVENTS)
def test_author_stands_beside_the_event_and_changes_nothing_of_it(event: Event) -> None:
    author = 'm"ü\\\n\U0001f600'
    payload = signed(encode(event), author)
    assert author_of(payload) == author
    assert author_of(encode(event)) is None
    assert decode_head(payload) == decode_head(encode(event))
    if isinstance(event, RecordsWritten):
        found = decode(payload)
        assert isinstance(found, RecordsWritten)
        assert (found.ids, found.metadatas) == (event.ids, event.metadatas)
        np.testing.assert_array_equal(found.vectors, event.vectors)
    else:
        assert decode(payload) == event


@pytest.mark.parametrize("rows", range(1, 20))
@pytest.mark.parametrize("author", [None, "", "somebody", "somebody else"])
def test_vectors_of_an_entry_can_be_used_where_they_lie(rows: int, author: str | None) -> None:
    payload = encode(written(rows))
    event = decode(payload if author is None else signed(payload, author))
    assert isinstance(event, RecordsWritten)
    assert event.vectors.ctypes.data % 16 == 0
    np.testing.assert_array_equal(event.vectors, written(rows).vectors)


def test_entries_without_an_author_are_the_bytes_of_the_first_release() -> None:
    head = b'{"name":"somebody"}'
    assert encode(TenantCreated("somebody")) == struct.pack("<BBI", 1, 1, len(head)) + head + struct.pack("<I", 0)


def test_an_author_that_is_no_name_is_damage() -> None:
    head = b'{"name":"somebody","author":7}'
    with pytest.raises(LogCorrupt, match="head"):
        author_of(struct.pack("<BBI", CODEC_VERSION, 1, len(head)) + head + struct.pack("<I", 0))


def created(hnsw: HnswConfiguration) -> CollectionCreated:
    return CollectionCreated(COLLECTION, "named", "t", "d", None, hnsw, None, None)


def test_a_resize_factor_that_an_older_release_stored_as_null_is_read_as_the_default() -> None:
    payload = encode(created(HnswConfiguration()))
    older = payload.replace(b'"resize_factor":1.2', b'"resize_factor":null')
    assert len(older) == len(payload) + 1
    older = older[:2] + struct.pack("<I", struct.unpack_from("<I", payload, 2)[0] + 1) + older[6:]
    assert decode_head(older) == decode(older) == created(HnswConfiguration())


def test_what_could_not_be_read_again_is_not_encoded() -> None:
    with pytest.raises(LogCorrupt, match="CollectionCreated"):
        encode(created(HnswConfiguration(ef_search=2.5)))  # type: ignore[arg-type]
    with pytest.raises(LogCorrupt, match=r"ef_construction"):
        encode(created(HnswConfiguration(ef_construction=float("nan"))))  # type: ignore[arg-type]
