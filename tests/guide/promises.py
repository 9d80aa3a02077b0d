"""What Chroma's own usage guide says, call by call: each function is a scenario, run in every colour by `test_promises`.

They are written sync; `client` holds nothing at their beginning.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from chroma_async import ClientAPI, errors


def words(texts: list[str]) -> list[list[float]]:
    """An embedding function: how often two letters occur."""
    return [[float(text.count("a")), float(text.count("e")), 1.0] for text in texts]


def other_words(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 0.0, 0.0] for text in texts]


# ---- the client


def heartbeat_is_in_nanoseconds(client: ClientAPI) -> None:
    assert abs(client.heartbeat() - time.time_ns()) < 60 * 10**9


def reset_empties_the_database(client: ClientAPI) -> None:
    client.create_collection(name="my_collection", embedding_function=None)
    client.reset()
    assert client.list_collections() == []
    assert client.count_collections() == 0


# ---- collections


def a_name_by_the_rules_is_taken(client: ClientAPI) -> None:
    for name in ["abc", "a" * 63, "0-9", "a.b_c-d", "x__y.z"]:
        assert client.create_collection(name=name, embedding_function=None).name == name


def a_name_against_the_rules_is_refused(client: ClientAPI) -> None:
    for name in ["", "ab", "a" * 513, "-abc", "abc-", ".abc", "a b c", "a/b", "ünder", "a..b", "192.168.0.1"]:
        with pytest.raises((errors.InvalidArgumentError, ValueError)):
            client.create_collection(name=name, embedding_function=None)


def a_collection_is_created_and_got_with_its_embedding_function(client: ClientAPI) -> None:
    emb_fn = words
    collection = client.create_collection(name="my_collection", embedding_function=emb_fn)
    collection.add(ids=["id1"], documents=["banana"])
    collection = client.get_collection(name="my_collection", embedding_function=emb_fn)
    assert collection.query(query_texts=["banana"])["distances"] == [[0.0]]


def a_collection_that_is_missing_raises_or_is_created(client: ClientAPI) -> None:
    with pytest.raises(errors.NotFoundError):
        client.get_collection(name="test")
    made = client.get_or_create_collection(name="test")
    again = client.get_or_create_collection(name="test")
    collection = client.get_collection(name="test")
    assert made.id == again.id == collection.id


def a_deleted_collection_is_gone_with_its_records(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=None)
    collection.add(ids=["id1"], embeddings=[[1.0]])
    client.delete_collection(name="my_collection")
    with pytest.raises(errors.NotFoundError):
        client.get_collection(name="my_collection")
    with pytest.raises(errors.NotFoundError):
        collection.count()
    collection = client.create_collection(name="my_collection", embedding_function=None)
    assert collection.count() == 0


def peek_returns_the_first_ten_and_count_counts(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=None)
    collection.add(ids=[f"id{i}" for i in range(15)], embeddings=[[float(i), 0.0] for i in range(15)])
    first = collection.peek()
    assert first["ids"] == [f"id{i}" for i in range(10)]
    assert first["embeddings"].tolist() == [[float(i), 0.0] for i in range(10)]
    assert collection.count() == 15


def modify_renames(client: ClientAPI) -> None:
    collection = client.create_collection(name="old_name", embedding_function=None)
    collection.modify(name="new_name")
    assert collection.name == "new_name"
    with pytest.raises(errors.NotFoundError):
        client.get_collection(name="old_name")
    collection = client.get_collection(name="new_name")
    assert collection.name == "new_name"


# ---- distances


def the_space_in_the_metadata_decides_the_distance(client: ClientAPI) -> None:
    a, b = np.asarray([3.0, 4.0]), np.asarray([1.0, 2.0])
    expected = {
        "l2": ((a - b) ** 2).sum(),
        "ip": 1.0 - (a * b).sum(),
        "cosine": 1.0 - (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()),
    }
    for space, distance in expected.items():
        collection = client.create_collection(name=f"by-{space}", metadata={"hnsw:space": space}, embedding_function=None)
        collection.add(ids=["a"], embeddings=[a.tolist()])
        found = collection.query(query_embeddings=[b.tolist()])
        assert found["distances"][0][0] == pytest.approx(distance, abs=1e-6)


def the_default_distance_is_squared_l2(client: ClientAPI) -> None:
    collection = client.create_collection(name="collection_name", embedding_function=None)
    collection.add(ids=["a"], embeddings=[[3.0, 4.0]])
    assert collection.query(query_embeddings=[[0.0, 0.0]])["distances"] == [[25.0]]


def a_space_that_does_not_exist_is_refused(client: ClientAPI) -> None:
    with pytest.raises((errors.InvalidArgumentError, errors.MalformedRequestError, ValueError)):
        client.create_collection(name="collection_name", metadata={"hnsw:space": "manhattan"}, embedding_function=None)


# ---- adding


def documents_are_embedded_and_stored(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=words)
    collection.add(
        documents=["lorem ipsum...", "doc2", "banana"],
        metadatas=[{"chapter": "3", "verse": "16"}, {"chapter": "3", "verse": "5"}, {"chapter": "29", "verse": "11"}],
        ids=["id1", "id2", "id3"],
    )
    stored = collection.get(include=["documents", "metadatas", "embeddings"])
    assert stored["documents"] == ["lorem ipsum...", "doc2", "banana"]
    assert stored["metadatas"][2] == {"chapter": "29", "verse": "11"}
    assert stored["embeddings"].tolist() == [[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [3.0, 0.0, 1.0]]


def adding_an_id_twice_keeps_the_first_value(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=None)
    collection.add(ids=["id1"], embeddings=[[1.0, 2.0]], documents=["first"], metadatas=[{"n": 1}])
    collection.add(ids=["id1"], embeddings=[[8.0, 9.0]], documents=["second"], metadatas=[{"n": 2}])
    stored = collection.get(include=["documents", "metadatas", "embeddings"])
    assert (stored["ids"], stored["documents"], stored["metadatas"]) == (["id1"], ["first"], [{"n": 1}])
    assert stored["embeddings"].tolist() == [[1.0, 2.0]]


def vectors_beside_documents_are_taken_as_they_are(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=words)
    collection.add(
        documents=["doc1", "doc2", "doc3"],
        embeddings=[[1.1, 2.3, 3.2], [4.5, 6.9, 4.4], [1.1, 2.3, 3.2]],
        metadatas=[{"chapter": "3", "verse": "16"}, {"chapter": "3", "verse": "5"}, {"chapter": "29", "verse": "11"}],
        ids=["id1", "id2", "id3"],
    )
    stored = collection.get(include=["documents", "embeddings"])
    assert stored["documents"] == ["doc1", "doc2", "doc3"]
    assert stored["embeddings"].tolist() == np.asarray([[1.1, 2.3, 3.2], [4.5, 6.9, 4.4], [1.1, 2.3, 3.2]], "f4").tolist()


def vectors_and_metadata_are_stored_without_documents(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=None)
    collection.add(
        embeddings=[[1.1, 2.3, 3.2], [4.5, 6.9, 4.4]],
        metadatas=[{"chapter": "3", "verse": "16"}, {"chapter": "3", "verse": "5"}],
        ids=["id1", "id2"],
    )
    assert collection.get()["documents"] == [None, None]


def a_vector_of_another_dimension_raises_everywhere(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=None)
    collection.add(ids=["id1"], embeddings=[[1.0, 2.0]])
    with pytest.raises(errors.InvalidArgumentError, match="dimension"):
        collection.add(ids=["id2"], embeddings=[[1.0, 2.0, 3.0]])
    with pytest.raises(errors.InvalidArgumentError, match="dimension"):
        collection.update(ids=["id1"], embeddings=[[1.0, 2.0, 3.0]])
    with pytest.raises(errors.InvalidArgumentError, match="dimension"):
        collection.upsert(ids=["id1"], embeddings=[[1.0]])
    with pytest.raises(errors.InvalidArgumentError, match="dimension"):
        collection.query(query_embeddings=[[1.0, 2.0, 3.0]])
    assert collection.get(include=["embeddings"])["embeddings"].tolist() == [[1.0, 2.0]]


# ---- querying


def each_query_gets_its_nearest_in_order(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=words)
    collection.add(
        ids=["id1", "id2", "id3"],
        embeddings=[[11.0, 12.0, 13.0], [1.0, 2.0, 3.0], [6.0, 7.0, 8.0]],
        documents=["search_string one", "two", "three search_string"],
        metadatas=[
            {"metadata_field": "is_equal_to_this"},
            {"metadata_field": "other"},
            {"metadata_field": "is_equal_to_this"},
        ],
    )
    queries = [[11.1, 12.1, 13.1], [1.1, 2.3, 3.2]]
    found = collection.query(query_embeddings=queries, n_results=10)
    assert found["ids"] == [["id1", "id3", "id2"], ["id2", "id3", "id1"]]
    assert all(row == sorted(row) for row in found["distances"])
    found = collection.query(query_embeddings=queries, n_results=10, where={"metadata_field": "is_equal_to_this"})
    assert found["ids"] == [["id1", "id3"], ["id3", "id1"]]
    found = collection.query(
        query_embeddings=queries,
        n_results=1,
        where={"metadata_field": "is_equal_to_this"},
        where_document={"$contains": "three"},
    )
    assert found["ids"] == [["id3"], ["id3"]]
    found = collection.query(query_texts=["doc10", "thus spake zarathustra"], n_results=1)
    assert found["ids"] == [["id2"], ["id2"]]


def get_takes_ids_and_a_filter_or_either(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=None)
    collection.add(
        ids=["id1", "id2", "id3"],
        embeddings=[[1.0], [2.0], [3.0]],
        metadatas=[{"style": "style1"}, {"style": "style2"}, {"style": "style1"}],
        documents=["a red one", "a blue one", "a red two"],
    )
    assert collection.get(ids=["id1", "id2"], where={"style": "style1"})["ids"] == ["id1"]
    assert collection.get(ids=["id2", "id3"])["ids"] == ["id2", "id3"]
    assert collection.get(where={"style": "style1"})["ids"] == ["id1", "id3"]
    assert collection.get(where={"style": "style1"}, where_document={"$contains": "two"})["ids"] == ["id3"]
    assert collection.get()["ids"] == ["id1", "id2", "id3"]


def include_decides_what_comes_back(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=None)
    collection.add(ids=["id1"], embeddings=[[1.0]], documents=["doc1"], metadatas=[{"n": 1}])
    parts = {"documents", "metadatas", "embeddings", "uris", "data", "distances"}

    default = collection.get()
    assert {part for part in parts if default.get(part) is not None} == {"documents", "metadatas"}
    default = collection.query(query_embeddings=[[1.0]])
    assert {part for part in parts if default.get(part) is not None} == {"documents", "metadatas", "distances"}
    chosen = collection.get(include=["documents"])
    assert {part for part in parts if chosen.get(part) is not None} == {"documents"}
    chosen = collection.query(query_embeddings=[[1.0]], include=["documents"])
    assert {part for part in parts if chosen.get(part) is not None} == {"documents"}
    assert chosen["ids"] == [["id1"]]
    chosen = collection.query(query_embeddings=[[1.0]], include=["embeddings", "distances"])
    assert {part for part in parts if chosen.get(part) is not None} == {"embeddings", "distances"}


# ---- filters


def comparisons_work_for_texts_and_numbers(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=None)
    collection.add(
        ids=["a", "b", "c"],
        embeddings=[[1.0], [2.0], [3.0]],
        metadatas=[{"s": "x", "i": 1, "f": 0.5}, {"s": "y", "i": 2, "f": 1.5}, {"s": "z", "i": 3, "f": 2.5}],
    )
    expected = {
        ("s", "$eq", "y"): ["b"],
        ("i", "$eq", 2): ["b"],
        ("f", "$eq", 1.5): ["b"],
        ("s", "$ne", "y"): ["a", "c"],
        ("i", "$ne", 2): ["a", "c"],
        ("f", "$ne", 1.5): ["a", "c"],
        ("i", "$gt", 2): ["c"],
        ("i", "$gte", 2): ["b", "c"],
        ("f", "$lt", 1.5): ["a"],
        ("f", "$lte", 1.5): ["a", "b"],
    }
    for (field, operator, operand), ids in expected.items():
        assert collection.get(where={field: {operator: operand}})["ids"] == ids
    assert collection.get(where={"s": "y"}) == collection.get(where={"s": {"$eq": "y"}})


def a_record_without_the_key_is_never_returned(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=None)
    collection.add(
        ids=["one", "two", "none", "bare"],
        embeddings=[[1.0], [2.0], [3.0], [4.0]],
        metadatas=[{"version": 1}, {"version": 2}, {"other": 1}, None],
    )
    assert collection.get(where={"version": {"$ne": 1}})["ids"] == ["two"]
    assert collection.get(where={"version": {"$nin": [1, 3]}})["ids"] == ["two"]
    assert collection.query(query_embeddings=[[4.0]], where={"version": {"$ne": 1}})["ids"] == [["two"]]
    collection.delete(where={"version": {"$ne": 1}})
    assert collection.get()["ids"] == ["one", "none", "bare"]


def documents_are_searched_for_a_string(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=None)
    collection.add(
        ids=["a", "b", "c"],
        embeddings=[[1.0], [2.0], [3.0]],
        documents=["has search_string", "has not", "search_string too"],
    )
    assert collection.get(where_document={"$contains": "search_string"})["ids"] == ["a", "c"]
    assert collection.get(where_document={"$not_contains": "search_string"})["ids"] == ["b"]
    both = {"$and": [{"$contains": "search_string"}, {"$contains": "too"}]}
    assert collection.get(where_document=both)["ids"] == ["c"]
    either = {"$or": [{"$contains": "not"}, {"$contains": "too"}]}
    assert collection.get(where_document=either)["ids"] == ["b", "c"]


def filters_are_combined_by_and_and_or(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=None)
    collection.add(
        ids=["a", "b", "c"],
        embeddings=[[1.0], [2.0], [3.0]],
        metadatas=[{"m": 1, "n": 1}, {"m": 1, "n": 2}, {"m": 2, "n": 2}],
    )
    assert collection.get(where={"$and": [{"m": {"$eq": 1}}, {"n": {"$gt": 1}}]})["ids"] == ["b"]
    assert collection.get(where={"$or": [{"m": {"$eq": 2}}, {"n": {"$lt": 2}}]})["ids"] == ["a", "c"]
    nested = {"$or": [{"$and": [{"m": 1}, {"n": 1}]}, {"$and": [{"m": 2}, {"n": 2}]}]}
    assert collection.get(where=nested)["ids"] == ["a", "c"]


def in_and_nin_take_lists_of_every_type(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=None)
    collection.add(
        ids=["a", "b"],
        embeddings=[[1.0], [2.0]],
        metadatas=[{"s": "value1", "i": 1, "f": 0.5, "b": True}, {"s": "value9", "i": 9, "f": 9.5, "b": False}],
    )
    for field, values in {"s": ["value1", "value2", "value3"], "i": [1, 2], "f": [0.5, 1.5], "b": [True]}.items():
        assert collection.get(where={field: {"$in": values}})["ids"] == ["a"]
        assert collection.get(where={field: {"$nin": values}})["ids"] == ["b"]


# ---- changing


def update_changes_every_property(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=words)
    collection.add(ids=["id1", "id2"], documents=["old1", "old2"], metadatas=[{"chapter": "0"}, {"chapter": "0"}])
    collection.update(
        ids=["id1", "id2"],
        embeddings=[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
        metadatas=[{"chapter": "3", "verse": "16"}, {"chapter": "3", "verse": "5"}],
        documents=["doc1", "doc2"],
    )
    stored = collection.get(include=["documents", "metadatas", "embeddings"])
    assert stored["documents"] == ["doc1", "doc2"]
    assert stored["metadatas"] == [{"chapter": "3", "verse": "16"}, {"chapter": "3", "verse": "5"}]
    assert stored["embeddings"].tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def update_of_documents_embeds_them_anew(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=words)
    collection.add(ids=["id1"], documents=["banana"])
    collection.update(ids=["id1"], documents=["beetle"])
    assert collection.get(include=["embeddings"])["embeddings"].tolist() == [[0.0, 3.0, 1.0]]


def update_of_an_unknown_id_is_ignored(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=None)
    collection.add(ids=["id1"], embeddings=[[1.0]])
    collection.update(ids=["id9", "id1"], embeddings=[[9.0], [2.0]])
    stored = collection.get(include=["embeddings"])
    assert stored["ids"] == ["id1"]
    assert stored["embeddings"].tolist() == [[2.0]]


def upsert_updates_what_is_there_and_adds_what_is_not(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=None)
    collection.add(ids=["id1"], embeddings=[[1.0, 1.0]], documents=["old"], metadatas=[{"chapter": "3", "verse": "1"}])
    collection.upsert(
        ids=["id1", "id2"],
        embeddings=[[1.1, 2.3], [4.5, 6.9]],
        metadatas=[{"verse": "16"}, {"chapter": "29", "verse": "11"}],
        documents=["doc1", "doc2"],
    )
    stored = collection.get()
    assert stored["ids"] == ["id1", "id2"]
    assert stored["documents"] == ["doc1", "doc2"]
    assert stored["metadatas"] == [{"chapter": "3", "verse": "16"}, {"chapter": "29", "verse": "11"}]


def delete_takes_ids_and_a_filter_or_either(client: ClientAPI) -> None:
    collection = client.create_collection(name="my_collection", embedding_function=None)
    collection.add(
        ids=["id1", "id2", "id3", "id4"],
        embeddings=[[1.0], [2.0], [3.0], [4.0]],
        metadatas=[{"chapter": "20"}, {"chapter": "20"}, {"chapter": "3"}, {"chapter": "20"}],
    )
    collection.delete(ids=["id1", "id3"], where={"chapter": "20"})
    assert collection.get()["ids"] == ["id2", "id3", "id4"]
    collection.delete(ids=["id2"])
    collection.delete(where={"chapter": "20"})
    assert collection.get()["ids"] == ["id3"]
    assert collection.query(query_embeddings=[[1.0]])["ids"] == [["id3"]]
