"""Vectors on the wire: what is decoded, and what each refusal says."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from chroma_async.errors import ChromaError, InvalidArgumentError, MalformedRequestError
from chroma_async.protocol import AddRecords, GetRecords, ListDatabases, QueryRecords, UpdateRecords, WireRequest
from chroma_async.protocol.embeddings import LOOK_FOR_BOOLEANS_MAX, EmbeddingBatch, decode_embedding_batch

PATH = {
    "tenant": "default_tenant",
    "database": "default_database",
    "collection_id": "00000000-0000-4000-8000-000000000000",
}


def body(**fields: object) -> WireRequest:
    return WireRequest(path=PATH, query={}, body=orjson.dumps(fields))


def refusal_of(values: list[object]) -> str:
    refusal = decode_embedding_batch(values).refusal
    assert isinstance(refusal, InvalidArgumentError)
    return refusal.message


def test_base64_round_trip_keeps_every_bit_and_every_gap() -> None:
    vectors = np.asarray([[0.1, -1e-20, 3.4e38, -0.0], [1, 2, 3, 4]], dtype=np.float32)
    texts = EmbeddingBatch(vectors, 3, np.asarray([0, 2])).to_wire()
    back = decode_embedding_batch(texts)
    assert back.refusal is None
    assert back.rows is not None
    assert (back.count, back.rows.tolist()) == (3, [0, 2])
    assert back.vectors.tobytes() == vectors.tobytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("AAC", "Invalid base64 string: Invalid padding"),
        ("AACAPw=", "Invalid base64 string: Invalid padding"),
        ("AACA Pw==", "Invalid base64 string: Invalid symbol 32, offset 4."),
        ("====", "Invalid base64 string: Invalid symbol 61, offset 0."),
        ("A", "Invalid base64 string: Invalid input length: 1"),
        ("é", "Invalid base64 string: Invalid symbol 195, offset 0."),
        ("AACAPw==AACAPw==", "Invalid base64 string: Invalid symbol 61, offset 6."),
        ("AACAPx==", "Invalid base64 string: Invalid last symbol 120, offset 5."),
        ("AACA-_==", "Invalid base64 string: Invalid symbol 45, offset 4."),
        ("AA==", "Invalid byte length: 1 bytes cannot be converted to f32 values (must be divisible by 4)"),
        ("AADAfw==", "Non-finite float value at embedding index 0: NaN"),
        ("AACAPwAAgP8=", "Non-finite float value at embedding index 1: -inf"),
        ("", "Validation error: embeddings: Each embedding must have at least 1 dimension"),
    ],
)
def test_bad_base64_is_described_as_chroma_does_and_placed(text: str, message: str) -> None:
    assert refusal_of(["AACAPw==", text]) == f"{message.rstrip('.')}. place=embeddings[1]"
    assert refusal_of([None, "AACAPw==", None, text]) == f"{message.rstrip('.')}. place=embeddings[3]"


def test_first_bad_text_is_the_one_reported() -> None:
    assert refusal_of(["AADAfw==", "!"]).startswith("Non-finite")
    assert refusal_of(["!", "AADAfw=="]).startswith("Invalid base64")


def test_number_lists_of_unequal_length_are_kept_as_a_refusal() -> None:
    unequal = "Inconsistent dimensions in provided embeddings. numbers: embeddings[0]=1 embeddings[2]=2"
    assert refusal_of([[1], [1], [1, 2]]) == unequal
    assert refusal_of(["AACAPw==", "AACAPw==", "AACAPwAAgD8="]) == unequal
    empty = "Validation error: embeddings: Each embedding must have at least 1 dimension. place=embeddings[1]"
    assert refusal_of([[1], []]) == empty


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([[1], "AACAPw=="], 'embeddings[1] is string "AACAPw=="'),
        (["AACAPw==", [1]], "embeddings[1] is sequence"),
        ([[True]], "embeddings[0][0] is boolean `true`"),
        ([[1], [True]], "embeddings[1][0] is boolean `true`"),
        ([["1"]], 'embeddings[0][0] is string "1"'),
        ([[1, 2], [1, None]], "embeddings[1][1] is null"),
        ([{}], "embeddings[0] is map"),
        ([[1], 2.5], "embeddings[1] is floating point `2.5`"),
        ("x", 'embeddings is string "x"'),
    ],
    ids=str,
)
def test_what_is_no_list_of_vectors_is_refused_at_once(values: object, fault: str) -> None:
    for call, variant in ((AddRecords, "EmbeddingsPayload"), (UpdateRecords, "UpdateEmbeddingsPayload")):
        with pytest.raises(MalformedRequestError, match=f"untagged enum {variant}") as caught:
            call.decode(body(ids=["a"], embeddings=values))
        assert caught.value.message.endswith(f"; {fault}")


def test_gap_in_an_add_is_named() -> None:
    with pytest.raises(MalformedRequestError, match=r"; embeddings\[1\] is null"):
        AddRecords.decode(body(ids=["a", "b"], embeddings=[[1], None]))


def test_number_that_float32_cannot_hold_is_named() -> None:
    call = UpdateRecords.decode(body(ids=["a", "b", "c"], embeddings=[[1, 2], None, [3, 1e39]]))
    with pytest.raises(InvalidArgumentError, match=r"place=embeddings\[2\]\[1\] float32=inf"):
        call.checked_metadatas()


def test_boolean_in_a_large_batch_of_integers_is_refused_too() -> None:
    rows: list[object] = [[1] * LOOK_FOR_BOOLEANS_MAX, [1] * (LOOK_FOR_BOOLEANS_MAX - 1) + [True]]
    with pytest.raises(MalformedRequestError):
        decode_embedding_batch(rows)


def test_integers_beyond_64_bits_are_numbers() -> None:
    assert decode_embedding_batch([[2**70]]).vectors.tolist() == [[float(2**70)]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "query_embeddings: invalid type: null, expected a sequence"),
        ([1], "query_embeddings[0]: invalid type: integer `1`, expected a sequence"),
        (["AACAPw=="], 'query_embeddings[0]: invalid type: string "AACAPw==", expected a sequence'),
        ([[1], [1, True]], "query_embeddings[1][1]: invalid type: boolean `true`, expected f32"),
        ([[1], [[1]]], "query_embeddings[1][0]: invalid type: sequence, expected f32"),
    ],
)
def test_bad_query_vector_is_named(value: object, message: str) -> None:
    with pytest.raises(MalformedRequestError) as caught:
        QueryRecords.decode(body(query_embeddings=value))
    assert caught.value.message.endswith(message)


def test_query_vectors_of_unequal_length_are_refused_when_validated() -> None:
    call = QueryRecords.decode(body(query_embeddings=[[1], [1, 2]]))
    call.validate()
    with pytest.raises(InvalidArgumentError, match=r"numbers: query_embeddings\[0\]=1 query_embeddings\[1\]=2"):
        call.validate_fields()


def test_field_given_twice_is_refused_but_a_repeated_word_is_not() -> None:
    twice = WireRequest(path=PATH, query={}, body=b'{"ids":["a"],"limit":1,"limit":2}')
    with pytest.raises(MalformedRequestError, match="duplicate field `limit`"):
        GetRecords.decode(twice)
    word = GetRecords.decode(body(ids=["limit", "limit"], limit=1, where={"limit": 1}))
    assert word.limit == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "invalid digit found in string"),
        ("-1", "invalid digit found in string"),
        ("1.0", "invalid digit found in string"),
        ("", "cannot parse integer from empty string"),
        ("4294967296", "number too large to fit in target type"),
        ("9" * 5000, "number too large to fit in target type"),
    ],
)
def test_bad_number_in_the_query_string_is_described_as_chroma_does(text: str, message: str) -> None:
    with pytest.raises(ChromaError) as caught:
        ListDatabases.decode(WireRequest(path={"tenant": "t"}, query={"limit": text}))
    assert caught.value.message == f"Failed to deserialize query string: limit: {message}"
