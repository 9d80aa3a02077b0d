"""Add, update, upsert and delete: what is written, what is ignored, what is refused."""

from __future__ import annotations

from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.errors import ChromaError, InvalidArgumentError
from tests.compat.wire import Wire, WireCollection, to_base64

EVERYTHING = ["embeddings", "documents", "metadatas", "uris"]


def record(collection: WireCollection, record_id: str) -> dict[str, Any]:
    """All columns of one record."""
    body = collection.get(ids=[record_id], include=EVERYTHING)
    assert body["ids"] == [record_id]
    return {column: body[column][0] for column in EVERYTHING}


# --- add ---


def test_write_routes_answer_an_empty_object_and_add_answers_created(collection: WireCollection) -> None:
    body = {"ids": ["a"], "embeddings": [[1, 2]]}
    answers = [collection.post(verb, body) for verb in ("add", "upsert", "update")]
    assert [(answer.status, answer.text) for answer in answers] == [(201, "{}"), (200, "{}"), (200, "{}")]


def test_added_records_come_back_whole(docs: chromadb.Collection) -> None:
    docs.add(
        ids=["a", "b"],
        embeddings=np.array([[0.1, -2.5], [3e-8, 1e30]], dtype=np.float32),
        metadatas=[{"n": 1}, {"n": 2}],
        documents=["text", None],
        uris=[None, "file:///b"],
    )
    found = docs.get(include=["embeddings", "documents", "metadatas", "uris"])
    assert found["ids"] == ["a", "b"]
    assert found["embeddings"] is not None
    np.testing.assert_array_equal(
        np.asarray(found["embeddings"], dtype=np.float32), np.array([[0.1, -2.5], [3e-8, 1e30]], dtype=np.float32)
    )
    assert found["metadatas"] == [{"n": 1}, {"n": 2}]
    assert found["documents"] == ["text", None]
    assert found["uris"] == [None, "file:///b"]


def test_embeddings_are_printed_as_the_shortest_float32(collection: WireCollection) -> None:
    collection.add(ids=["a"], embeddings=[[0.1, 19.21, 1, 1e-7]])
    answer = collection.post("get", {"include": ["embeddings"]})
    assert '"embeddings":[[0.1,19.21,1.0,1e-7]]' in answer.text


def test_adding_an_existing_id_keeps_the_first_record(docs: chromadb.Collection) -> None:
    docs.add(ids=["a"], embeddings=[[1.0]], documents=["first"], metadatas=[{"v": 1}])
    docs.add(ids=["a", "b"], embeddings=[[2.0], [3.0]], documents=["second", "other"], metadatas=[{"w": 2}, {"w": 3}])
    found = docs.get(include=["embeddings", "documents", "metadatas"])
    assert found["ids"] == ["a", "b"]
    assert found["embeddings"] is not None
    assert np.asarray(found["embeddings"]).tolist() == [[1.0], [3.0]]
    assert found["documents"] == ["first", "other"]
    assert found["metadatas"] == [{"v": 1}, {"w": 3}]


def test_repeated_id_in_one_add_keeps_the_first(collection: WireCollection) -> None:
    collection.add(ids=["a", "b", "a"], embeddings=[[1], [2], [3]], documents=["first", None, "second"])
    assert collection.ids() == ["a", "b"]
    assert record(collection, "a")["documents"] == "first"
    assert record(collection, "a")["embeddings"] == [1.0]


def test_empty_batch_is_accepted(collection: WireCollection) -> None:
    assert collection.post("add", {"ids": [], "embeddings": []}).status == 201
    assert collection.post("upsert", {"ids": [], "embeddings": []}).status == 200
    assert collection.post("update", {"ids": []}).status == 200
    assert collection.count() == 0


def test_batch_of_six_thousand_is_accepted(collection: WireCollection) -> None:
    ids = [f"id-{number:05}" for number in range(6000)]
    vectors = np.random.default_rng(6000).standard_normal((6000, 8)).astype(np.float32)
    metadatas = [{"n": number} for number in range(6000)]
    collection.add(ids=ids, embeddings=[to_base64(vector) for vector in vectors], metadatas=metadatas)
    assert collection.count() == 6000
    assert collection.ids() == ids
    assert collection.ids(where={"n": {"$gte": 5990}}) == ids[5990:]
    assert collection.query(vectors[4321].tolist(), n_results=1, include=[])["ids"] == [[ids[4321]]]


def test_ids_and_documents_of_any_script_survive(docs: chromadb.Collection) -> None:
    ids = ["日本語", "ß/ü?#%20", "👩‍👩‍👧", " leading and trailing ", "new\nline", "e\u0301", "\u00e9", "a" * 1000]
    documents = [f"text of {text} \u0000 \u2028 end" for text in ids]
    docs.add(ids=ids, embeddings=[[float(number)] for number in range(len(ids))], documents=documents)
    found = docs.get(ids=ids)
    assert found["ids"] == ids
    assert found["documents"] == documents


# --- metadata values ---


def test_metadata_values_keep_their_types_exactly(collection: WireCollection) -> None:
    metadata = {
        **{"one": 1, "one_float": 1.0, "true": True, "text": "1", "empty": "", "zero": 0, "minus": -0.5},
        **{"large": 2**53 + 1, "max": 2**63 - 1, "min": -(2**63), "tiny": 5e-324, "third": 1 / 3, "false": False},
    }
    collection.add(ids=["a"], embeddings=[[1]], metadatas=[metadata])
    stored = record(collection, "a")["metadatas"]
    assert stored == metadata
    assert {key: type(value) for key, value in stored.items()} == {key: type(metadata[key]) for key in metadata}


def test_metadata_values_keep_their_types_through_the_client(docs: chromadb.Collection) -> None:
    metadata: dict[str, Any] = {"one": 1, "one_float": 1.0, "true": True, "list": ["x", "y"], "numbers": [1, 2]}
    docs.add(ids=["a"], embeddings=[[1.0]], metadatas=[metadata])
    found = docs.get()["metadatas"]
    assert found is not None
    stored = dict(found[0])
    assert stored == metadata
    assert [type(stored[key]) for key in ("one", "one_float", "true")] == [int, float, bool]


def test_integers_beyond_64_bits_become_floats(collection: WireCollection) -> None:
    collection.add(ids=["a"], embeddings=[[1]], metadatas=[{"n": 2**63, "m": 2**64}])
    stored = record(collection, "a")["metadatas"]
    assert stored == {"n": 2.0**63, "m": 2.0**64}
    assert type(stored["n"]) is float
    collection.add(ids=["b"], embeddings=[[1]], metadatas=[{"list": [1, 2**63], "least": -(2**63), "below": -(2**63) - 1}])
    keys = collection.describe()["schema"]["keys"]
    kinds = {name: list(types) for name, types in keys.items() if not name.startswith("#")}
    assert kinds == {"n": ["float"], "m": ["float"], "list": ["float"], "least": ["int"], "below": ["float"]}


def test_list_values_are_homogeneous_and_empty_ones_are_dropped(collection: WireCollection) -> None:
    metadata = {"ints": [1, 2], "mixed": [1, 2.5], "empty": [], "flags": [True, False], "words": ["x", ""]}
    collection.add(ids=["a"], embeddings=[[1]], metadatas=[metadata])
    stored = record(collection, "a")["metadatas"]
    assert stored == {"ints": [1, 2], "mixed": [1.0, 2.5], "flags": [True, False], "words": ["x", ""]}
    assert [type(value) for value in stored["ints"] + stored["mixed"]] == [int, int, float, float]


def test_empty_metadata_reads_as_null(collection: WireCollection) -> None:
    collection.add(ids=["a", "b"], embeddings=[[1], [2]], metadatas=[{}, None])
    assert collection.get()["metadatas"] == [None, None]


# --- update ---


def test_update_of_an_unknown_id_is_ignored(docs: chromadb.Collection) -> None:
    docs.add(ids=["a"], embeddings=[[1.0]])
    docs.update(ids=["a", "ghost"], documents=["x", "y"], embeddings=[[2.0], [3.0]])
    assert docs.get()["ids"] == ["a"]
    assert docs.get()["documents"] == ["x"]


def test_update_merges_metadata_and_null_deletes_a_key(collection: WireCollection) -> None:
    collection.add(ids=["a"], embeddings=[[1]], metadatas=[{"keep": 1, "change": 1, "drop": 1}])
    collection.update(ids=["a"], metadatas=[{"change": "two", "drop": None, "new": True, "never": None}])
    assert record(collection, "a")["metadatas"] == {"keep": 1, "change": "two", "new": True}


def test_update_keeps_what_is_not_given(collection: WireCollection) -> None:
    collection.add(ids=["a"], embeddings=[[1]], documents=["text"], metadatas=[{"k": 1}], uris=["u"])
    before = record(collection, "a")
    collection.update(ids=["a"])
    collection.update(ids=["a"], embeddings=[None], documents=[None], metadatas=[None], uris=[None])
    collection.update(ids=["a"], embeddings=None, documents=None, metadatas=[{}], uris=None)
    assert record(collection, "a") == before
    collection.update(ids=["a"], documents=[""])
    assert record(collection, "a") == {**before, "documents": ""}


def test_metadata_whose_last_key_was_deleted_reads_as_null(collection: WireCollection) -> None:
    collection.add(ids=["a"], embeddings=[[1]], metadatas=[{"k": 1}])
    collection.update(ids=["a"], metadatas=[{"k": None}])
    assert record(collection, "a")["metadatas"] is None


@pytest.mark.parametrize("verb", ["update", "upsert"])
@pytest.mark.parametrize("old", [1, [1, 2]], ids=str)
def test_empty_list_deletes_a_key_as_null_does(collection: WireCollection, verb: str, old: Any) -> None:
    collection.add(ids=["a"], embeddings=[[1]], metadatas=[{"k": old, "keep": 1}])
    collection.post(verb, {"ids": ["a"], "embeddings": [[1]], "metadatas": [{"k": [], "never": []}]})
    assert record(collection, "a")["metadatas"] == {"keep": 1}
    assert collection.ids(where={"k": {"$contains": 1}}) == []
    collection.upsert(ids=["b", "b"], embeddings=[[1], [1]], metadatas=[{"k": old}, {"k": []}])
    assert record(collection, "b")["metadatas"] is None


def test_key_may_change_between_types(collection: WireCollection) -> None:
    collection.add(ids=["a"], embeddings=[[1]], metadatas=[{"k": 1}])
    values: list[Any] = ["text", ["x", "y"], 1.5, [1], True]
    for value in values:
        collection.update(ids=["a"], metadatas=[{"k": value}])
        assert record(collection, "a")["metadatas"] == {"k": value}
    assert collection.ids(where={"k": True}) == ["a"]
    assert collection.ids(where={"k": "text"}) == []
    assert collection.ids(where={"k": {"$contains": "x"}}) == []


def test_update_mixes_nulls_with_either_form_of_embedding(collection: WireCollection) -> None:
    collection.add(ids=["a", "b"], embeddings=[[1], [2]])
    collection.update(ids=["a", "b"], embeddings=[None, [5]])
    collection.update(ids=["a", "b"], embeddings=[to_base64([7]), None])
    assert collection.get(include=["embeddings"])["embeddings"] == [[7.0], [5.0]]


# --- upsert ---


def test_upsert_inserts_and_replaces(docs: chromadb.Collection) -> None:
    docs.add(ids=["a"], embeddings=[[1.0]], documents=["old"], metadatas=[{"p": 1, "q": 1}])
    docs.upsert(ids=["b", "a"], embeddings=[[2.0], [3.0]], documents=["new b", "new a"], metadatas=[{"p": 2}, {"q": 2}])
    found = docs.get(include=["embeddings", "documents", "metadatas"])
    assert found["ids"] == ["a", "b"]
    assert found["embeddings"] is not None
    assert np.asarray(found["embeddings"]).tolist() == [[3.0], [2.0]]
    assert found["documents"] == ["new a", "new b"]
    assert found["metadatas"] == [{"p": 1, "q": 2}, {"p": 2}]


def test_upsert_keeps_a_document_that_is_not_given(collection: WireCollection) -> None:
    collection.add(ids=["a"], embeddings=[[1]], documents=["text"], metadatas=[{"k": 1}], uris=["u"])
    collection.upsert(ids=["a"], embeddings=[[2]])
    assert record(collection, "a") == {"embeddings": [2.0], "documents": "text", "metadatas": {"k": 1}, "uris": "u"}


def test_repeated_id_in_one_upsert_is_applied_in_order(collection: WireCollection) -> None:
    collection.upsert(
        ids=["a", "a", "a"],
        embeddings=[[1], [2], [3]],
        documents=["first", "second", None],
        metadatas=[{"p": 1, "r": 1}, {"q": 2}, {"r": None}],
    )
    assert record(collection, "a") == {
        **{"embeddings": [3.0], "documents": "second"},
        **{"metadatas": {"p": 1, "q": 2}, "uris": None},
    }


def test_null_metadata_value_of_a_new_record_is_dropped(collection: WireCollection) -> None:
    collection.upsert(ids=["a", "b"], embeddings=[[1], [2]], metadatas=[{"k": None, "n": 1}, {"k": None}])
    assert collection.get()["metadatas"] == [{"n": 1}, None]


# --- delete ---


@pytest.fixture
def five(collection: WireCollection) -> WireCollection:
    collection.add(
        ids=list("abcde"),
        embeddings=[[number] for number in range(5)],
        metadatas=[{"n": number} for number in range(5)],
        documents=["apple", "apple pie", "pear", None, "apple juice"],
    )
    return collection


@pytest.mark.parametrize(
    ("body", "deleted", "left"),
    [
        ({"ids": ["b", "d"]}, 2, "ace"),
        ({"ids": ["a", "ghost", "a"]}, 3, "bcde"),
        ({"ids": ["ghost"]}, 1, "abcde"),
        ({"where": {"n": {"$gte": 3}}}, 2, "abc"),
        ({"where": {"n": 99}}, 0, "abcde"),
        ({"where_document": {"$contains": "apple"}}, 3, "cd"),
        ({"where_document": {"$not_contains": "apple"}}, 2, "abe"),
        ({"where": {"n": {"$gt": 0}}, "where_document": {"$contains": "apple"}}, 2, "acd"),
        ({"ids": ["a", "b", "ghost"], "where": {"n": {"$gt": 0}}}, 1, "acde"),
        ({"ids": ["a", "c"], "where_document": {"$contains": "apple"}}, 1, "bcde"),
        ({"where": {"n": {"$gte": 0}}, "limit": 2}, 2, "cde"),
        ({"where": {"n": {"$gte": 3}}, "limit": 99}, 2, "abc"),
        ({"where_document": {"$contains": "apple"}, "limit": 1}, 1, "bcde"),
        ({"where": {"n": {"$gte": 0}}, "limit": 0}, 0, "abcde"),
        ({}, 0, "abcde"),
        ({"ids": None, "where": None, "where_document": None}, 0, "abcde"),
    ],
    ids=str,
)
def test_delete_removes_and_counts(five: WireCollection, body: dict[str, Any], deleted: int, left: str) -> None:
    assert five.delete(**body) == deleted
    assert five.ids() == list(left)
    assert five.count() == len(left)
    nearest = five.query([0], n_results=10, include=[])
    assert nearest["ids"] == [list(left)]


def test_client_reports_how_many_were_deleted(docs: chromadb.Collection) -> None:
    docs.add(ids=["a", "b", "c"], embeddings=[[1.0], [2.0], [3.0]], metadatas=[{"n": 1}, {"n": 2}, {"n": 2}])
    assert docs.delete(where={"n": 2}, limit=1) == {"deleted": 1}
    assert docs.delete(ids=["a"]) == {"deleted": 1}
    assert docs.get()["ids"] == ["c"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"ids": []}, "Validation error: ids, where: Either ids or where must be specified"),
        (
            {"ids": ["a"], "limit": 1},
            "Validation error: limit, where: limit can only be specified when a where clause is provided",
        ),
        (
            {"limit": 1},
            "Validation error: limit, where: limit can only be specified when a where clause is provided",
        ),
        ({"where": {}}, "Invalid where clause"),
    ],
    ids=str,
)
def test_bad_delete_is_refused_and_deletes_nothing(five: WireCollection, body: dict[str, Any], message: str) -> None:
    refusal = five.post("delete", body).refusal
    assert refusal[:2] == (400, "InvalidArgumentError")
    assert refusal[2].startswith(message)
    assert five.count() == 5


# --- encodings ---


def test_base64_and_lists_store_the_same_vector(collection: WireCollection) -> None:
    vector = [0.1, -1e-20, 3.4e38]
    collection.add(ids=["list"], embeddings=[vector])
    collection.add(ids=["base64"], embeddings=[to_base64(vector)])
    first, second = collection.get(include=["embeddings"])["embeddings"]
    assert first == second
    assert np.float32(first).tolist() == np.float32(vector).tolist()


@pytest.mark.parametrize("verb", ["add", "upsert", "update"])
def test_one_list_must_not_mix_the_two_forms(collection: WireCollection, verb: str) -> None:
    answer = collection.post(verb, {"ids": ["a", "b"], "embeddings": [to_base64([1]), [1]]})
    status, error, message = answer.refusal
    assert (status, error) == (422, "ChromaError")
    payload = "UpdateEmbeddingsPayload" if verb == "update" else "EmbeddingsPayload"
    assert f"embeddings: data did not match any variant of untagged enum {payload}" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("AACAPw!=", "Invalid base64 string: Invalid symbol 33, offset 6."),
        ("AAAA", "Invalid byte length: 3 bytes cannot be converted to f32 values (must be divisible by 4)"),
        ("AADAfw==", "Non-finite float value at embedding index 0: NaN"),
        ("AACAPwAAgH8=", "Non-finite float value at embedding index 1: inf"),
    ],
)
def test_bad_base64_is_refused(collection: WireCollection, text: str, message: str) -> None:
    status, error, answered = collection.post("add", {"ids": ["a"], "embeddings": [text]}).refusal
    assert (status, error) == (400, "InvalidArgumentError")
    assert answered.startswith(message)


# --- refusals ---


@pytest.fixture(scope="module")
def still_empty(wire: Wire) -> WireCollection:
    """One collection for all batches that must leave no trace."""
    return wire.create()


INCONSISTENT = "Inconsistent number of IDs, embeddings, documents, URIs and metadatas"
NOT_FINITE = "Validation error: embeddings: Embeddings must not contain NaN or Infinity values"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"ids": [""], "embeddings": [[1]]}, 400, "Empty ID, ID must have at least one character"),
        ({"ids": ["a", "b"], "embeddings": [[1]]}, 400, INCONSISTENT),
        ({"ids": ["a"], "embeddings": [[1], [2]]}, 400, INCONSISTENT),
        ({"ids": ["a"], "embeddings": [[1]], "documents": []}, 400, INCONSISTENT),
        ({"ids": ["a"], "embeddings": [[1]], "uris": ["x", "y"]}, 400, INCONSISTENT),
        ({"ids": ["a"], "embeddings": [[1]], "metadatas": [None, None]}, 400, INCONSISTENT),
        ({"ids": ["a"], "embeddings": [[]]}, 400, "Validation error: embeddings: Each embedding must have at least 1 dim"),
        ({"ids": ["a"], "embeddings": [[1e39]]}, 400, NOT_FINITE),
        ({"ids": ["a", "b"], "embeddings": [[1], [1, 2]]}, 400, "Inconsistent dimensions in provided embeddings"),
        ({"ids": ["a"], "embeddings": [[1]], "metadatas": [{"#k": 1}]}, 400, "metadatas: Invalid metadata at index 0"),
        ({"ids": ["a"], "embeddings": [[1]], "metadatas": [{"$k": 1}]}, 400, "metadatas: Invalid metadata at index 0"),
        ({"ids": ["a"], "embeddings": [[1]], "metadatas": [{"": 1}]}, 400, "metadatas: Invalid metadata at index 0"),
        ({"ids": [1], "embeddings": [[1]]}, 422, "ids[0]: invalid type: integer `1`, expected a string"),
        ({"ids": "a", "embeddings": [[1]]}, 422, "ids: invalid type"),
        ({"ids": ["a"]}, 422, "missing field `embeddings`"),
        ({"embeddings": [[1]]}, 422, "missing field `ids`"),
        ({"ids": ["a"], "embeddings": None}, 422, "data did not match any variant of untagged enum EmbeddingsPayload"),
        ({"ids": ["a"], "embeddings": [["1"]]}, 422, "data did not match any variant of untagged enum EmbeddingsPayload"),
        ({"ids": ["a"], "embeddings": [[True]]}, 422, "data did not match any variant of untagged enum EmbeddingsPayload"),
        ({"ids": ["a"], "embeddings": [None]}, 422, "data did not match any variant of untagged enum EmbeddingsPayload"),
        ({"ids": ["a"], "embeddings": [[1]], "documents": [1]}, 422, "documents[0]: invalid type: integer `1`"),
        ({"ids": ["a"], "embeddings": [[1]], "metadatas": [{"k": {"n": 1}}]}, 422, "metadatas[0].k: data did not match"),
        ({"ids": ["a"], "embeddings": [[1]], "metadatas": [{"k": [1, "x"]}]}, 422, "metadatas[0].k: data did not match"),
        ({"ids": ["a"], "embeddings": [[1]], "metadatas": [{"k": [None]}]}, 422, "metadatas[0].k: data did not match"),
    ],
    ids=str,
)
@pytest.mark.parametrize("verb", ["add", "upsert"])
def test_bad_batch_is_refused_whole(
    still_empty: WireCollection, verb: str, body: dict[str, Any], status: int, message: str
) -> None:
    refusal = still_empty.post(verb, body).refusal
    assert refusal[:2] == (status, "InvalidArgumentError" if status == 400 else "ChromaError")
    assert message in refusal[2]
    assert still_empty.count() == 0


@pytest.mark.reference_differs
@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"ids": ["a", ""], "embeddings": [[1], [2]]}, "place=ids[1]"),
        ({"ids": ["a"], "embeddings": [[1]], "documents": ["x", "y"]}, "ids=1 documents=2 embeddings=1"),
        ({"ids": ["a"], "embeddings": [[1], [2, 3]]}, "numbers: embeddings[0]=1 embeddings[1]=2"),
        ({"ids": ["a", "b"], "embeddings": [[1], [1e39]]}, "place=embeddings[1][0] float32=inf"),
        ({"ids": ["a"], "embeddings": [[1]], "metadatas": [{"k": [[1]]}]}, "got a list with a list in it"),
        ({"ids": ["a"], "embeddings": [[1]], "metadatas": [{"k": [1, "x"]}]}, "got a list of mixed types"),
        ({"ids": ["a"], "embeddings": [[1]], "metadatas": [{"k": [None]}]}, "got a list with null in it"),
        ({"ids": ["a"], "embeddings": [[1]], "metadatas": [{"k": ["x", 1.5]}]}, "got a list of mixed types"),
        ({"ids": ["a"], "embeddings": [[1]], "metadatas": [{"k": [None, 1.5]}]}, "got a list with null in it"),
        ({"ids": ["a"], "embeddings": [[1]], "metadatas": [{"k": [[1], 1.5]}]}, "got a list with a list in it"),
    ],
    ids=str,
)
def test_refusal_ends_with_place_and_reason(still_empty: WireCollection, body: dict[str, Any], detail: str) -> None:
    assert still_empty.post("add", body).refusal[2].endswith(detail)


SPARSE = {"#type": "sparse_vector", "indices": [1], "values": [1.0]}


@pytest.mark.parametrize(
    ("metadatas", "status"),
    [
        ([{"$k": 1, "n": {"m": 1}}], 422),
        ([{"$k": 1}, {"n": {"m": 1}}], 422),
        ([{"v": SPARSE}, {"n": {"m": 1}}], 422),
        ([{"v": SPARSE}, {"$k": 1}], 400),
        ([{"v": SPARSE, "": 1}, None], 400),
    ],
    ids=str,
)
def test_of_several_faults_in_metadata_the_worst_is_reported(
    still_empty: WireCollection, metadatas: list[Any], status: int
) -> None:
    ids = [f"r{number}" for number in range(len(metadatas))]
    body = {"ids": ids, "embeddings": [[1]] * len(ids), "metadatas": metadatas}
    assert still_empty.post("add", body).status == status
    assert still_empty.count() == 0


def test_one_bad_record_refuses_the_whole_batch(collection: WireCollection) -> None:
    body = {"ids": ["a", ""], "embeddings": [[1], [2]]}
    assert collection.post("add", body).status == 400
    assert collection.ids() == []


def test_null_metadata_value_is_refused_only_by_add(collection: WireCollection) -> None:
    body = {"ids": ["a"], "embeddings": [[1]], "metadatas": [{"k": None}]}
    status, error, message = collection.post("add", body).refusal
    assert (status, error) == (422, "ChromaError")
    assert "metadatas[0].k: data did not match any variant of untagged enum MetadataValue" in message
    assert collection.post("upsert", body).status == 200


def test_null_metadata_value_in_add_is_a_chroma_error_in_the_client(docs: chromadb.Collection) -> None:
    with pytest.raises(ChromaError, match="did not match any variant"):
        docs.add(ids=["a"], embeddings=[[1.0]], metadatas=[{"k": None}])


def test_client_refuses_a_batch_beyond_the_advertised_size(docs: chromadb.Collection, wire: Wire) -> None:
    size = wire.call("GET", "/api/v2/pre-flight-checks").body["max_batch_size"] + 1
    with pytest.raises((ValueError, InvalidArgumentError), match="batch size"):
        docs.add(ids=[str(number) for number in range(size)], embeddings=np.zeros((size, 1), dtype=np.float32))


def test_reserved_metadata_keys_are_not_shown(collection: WireCollection) -> None:
    collection.add(ids=["a"], embeddings=[[1]], metadatas=[{"chroma:x": 1, "k": 2}])
    assert collection.get()["metadatas"] == [{"k": 2}]
    assert set(collection.describe()["schema"]["keys"]) == {"#document", "#embedding", "k"}


def test_unknown_fields_in_writes_are_ignored(collection: WireCollection) -> None:
    collection.add(ids=["a"], embeddings=[[1]], colour="blue")
    assert collection.count() == 1


@pytest.mark.reference_differs
def test_sparse_vector_is_echoed_or_said_to_be_unsupported(collection: WireCollection) -> None:
    sparse = {"#type": "sparse_vector", "indices": [1, 5], "values": [0.5, 1.5]}
    answer = collection.post("add", {"ids": ["a"], "embeddings": [[1]], "metadatas": [{"sv": sparse}]})
    if answer.status == 201:
        assert record(collection, "a")["metadatas"] == {"sv": sparse}
    else:
        assert answer.refusal[:2] == (501, "ChromaError")


@pytest.mark.parametrize(
    ("sparse", "status"),
    [
        ({"indices": [5, 1], "values": [1, 2]}, 400),
        ({"indices": [1, 1], "values": [1, 2]}, 400),
        ({"indices": [1], "values": [1, 2]}, 400),
        ({"indices": [1], "values": [1], "tokens": ["x", "y"]}, 400),
        ({"indices": [-1], "values": [1]}, 422),
        ({"indices": [1.5], "values": [1]}, 422),
        ({"indices": [1], "values": [None]}, 422),
        ({"indices": [1], "values": [1], "tokens": [1]}, 422),
        ({"indices": [1], "values": [1], "#type": "other"}, 422),
        ({"indices": [1]}, 422),
        ({"indices": [1], "values": [1], "#type": "sparse_vector", "tokens": ["x"], "more": 1}, 501),
        ({"indices": [], "values": []}, 501),
    ],
    ids=str,
)
@pytest.mark.parametrize("verb", ["add", "upsert", "update"])
def test_sparse_vector_is_looked_at_before_it_is_refused(
    collection: WireCollection, verb: str, sparse: dict[str, Any], status: int
) -> None:
    body = {"ids": ["z", "a"], "embeddings": [[1], [1]], "metadatas": [None, {"sv": sparse}]}
    answered, _, message = collection.post(verb, body).refusal
    assert answered == status
    start = {400: "Validation error: metadatas: Invalid metadata at index 1", 501: "Unimplemented: Sparse vector is not"}
    assert message.startswith(
        start.get(status, "Failed to deserialize the JSON body into the target type: metadatas[1].sv: ")
    )
    assert collection.ids() == []
