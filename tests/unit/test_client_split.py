"""Writes that are too large for one body."""

from __future__ import annotations

import msgspec
import numpy as np
import orjson

from chroma_async.client.split import encoded_parts
from chroma_async.protocol import GetRecords, UpdateRecords, UpsertRecords
from chroma_async.protocol.embeddings import EmbeddingBatch, decode_embedding_batch

PLACE = {"tenant": "t", "database": "d", "collection_id": "c"}


def upsert(count: int) -> UpsertRecords:
    vectors = np.arange(count * 4, dtype=np.float32).reshape(count, 4)
    return UpsertRecords(
        **PLACE,
        ids=[f"id-{number}" for number in range(count)],
        embeddings=EmbeddingBatch(vectors),
        documents=[f"document {number}" for number in range(count)],
        metadatas=[{"n": number} if number % 2 else None for number in range(count)],
    )


def test_a_small_write_stays_whole() -> None:
    call = upsert(10)
    [(part, request)] = encoded_parts(call)
    assert part is call
    assert request.body == call.encode().body


def test_parts_are_small_enough_and_hold_every_record_once_in_order() -> None:
    call = upsert(101)
    parts = list(encoded_parts(call, body_bytes_max=1500))
    assert len(parts) > 4
    assert all(len(request.body) <= 1500 for _, request in parts)
    sent = [orjson.loads(request.body) for _, request in parts]
    assert [id_ for body in sent for id_ in body["ids"]] == call.ids
    assert [text for body in sent for text in body["documents"]] == call.documents
    assert [item for body in sent for item in body["metadatas"]] == call.metadatas
    vectors = np.concatenate([decode_embedding_batch(body["embeddings"]).vectors for body in sent])
    np.testing.assert_array_equal(vectors, call.embeddings.vectors)


def test_a_record_that_is_too_large_alone_is_left_to_the_server() -> None:
    parts = list(encoded_parts(upsert(2), body_bytes_max=10))
    assert [part.ids for part, _ in parts] == [["id-0"], ["id-1"]]


def test_an_update_without_vectors_is_cut_as_well() -> None:
    call = UpdateRecords(**PLACE, ids=["a", "b"], metadatas=[{"n": 1}, {"n": 2}])
    parts = [part for part, _ in encoded_parts(call, body_bytes_max=10)]
    assert [(part.ids, part.metadatas, part.embeddings) for part in parts] == [
        (["a"], [{"n": 1}], None),
        (["b"], [{"n": 2}], None),
    ]


def test_reads_are_never_cut() -> None:
    call = GetRecords(**PLACE, ids=["a", "b", "c"])
    assert [part for part, _ in encoded_parts(call, body_bytes_max=1)] == [call]


def test_only_the_last_part_waits() -> None:
    call = msgspec.structs.replace(upsert(101), wait="applied", wait_seconds=7.0)
    sent = [orjson.loads(request.body) for _, request in encoded_parts(call, body_bytes_max=1500)]
    assert [body.get("wait") for body in sent] == [None] * (len(sent) - 1) + ["applied"]
    assert sent[-1]["wait_seconds"] == 7.0


def test_parts_have_keys_of_their_own_which_are_the_same_again() -> None:
    call = msgspec.structs.replace(upsert(101), idempotency_key="key")
    keys = [[request.idempotency_key for _, request in encoded_parts(call, body_bytes_max=1500)] for _ in range(2)]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == len(keys[0]) > 4
