"""Records: bodies good and bad, order, ties, texts, many at once."""

from __future__ import annotations

import itertools
import json
from typing import Final

import chromadb
import numpy as np
import pytest
from tests.compat.differential.exchange import Json, Pair, Request, create, describe, post
from tests.compat.differential.values import (
    ANYTHING,
    FEW,
    GOOD_RECORDS,
    SPARSE,
    everything,
    ids,
    mutations,
    nearest,
    raw,
    records,
)
from tests.compat.wire import to_base64, unique_name


@pytest.mark.parametrize("verb", ["add", "upsert", "update"])
def test_every_part_of_a_write_replaced_by_anything(pair: Pair, verb: str) -> None:
    pair.fresh().agree(create("docs"))
    pair.agree(post("docs", "add", GOOD_RECORDS))
    for body in mutations(GOOD_RECORDS, FEW):
        written = pair.agree(post("docs", verb, body))
        if written.status < 300:
            pair.agree(everything("docs"))


@pytest.mark.parametrize("verb", ["add", "upsert", "update"])
def test_metadata_of_every_type(pair: Pair, verb: str) -> None:
    pair.fresh().agree(create("docs"))
    pair.agree(post("docs", "add", {"ids": ["a"], "embeddings": [[1]], "metadatas": [{"kept": 1, "v": "old"}]}))
    for number, value in enumerate(ANYTHING):
        record_id = "a" if verb != "add" else f"r{number}"
        pair.agree(post("docs", verb, {"ids": [record_id], "embeddings": [[1]], "metadatas": [{"v": value}]}))
        if verb != "add":
            pair.agree(post("docs", "get", {"include": ["metadatas"]}))
    pair.agree(everything("docs"))
    pair.agree(describe("docs"))


@pytest.mark.parametrize("key", ["", "#", "#x", "$x", "$eq", "x#", " ", "chroma", "_", "日本", "\0"])
def test_metadata_keys(pair: Pair, key: str) -> None:
    pair.fresh().agree(create("docs"))
    for verb in ("add", "upsert", "update"):
        pair.agree(post("docs", verb, {"ids": [verb], "embeddings": [[1]], "metadatas": [{key: 1, "v": 2}]}))
        pair.agree(post("docs", verb, {"ids": [verb], "embeddings": [[1]], "metadatas": [{key: None}]}))
    pair.agree(everything("docs"))


SPARSE_VECTORS: Final = (
    SPARSE,
    {"indices": [1], "values": [1.0]},
    {**SPARSE, "indices": [3, 1]},
    {**SPARSE, "indices": [1, 1]},
    {**SPARSE, "values": [1.0]},
    {**SPARSE, "tokens": ["a", "b"]},
    {**SPARSE, "indices": []},
    {**SPARSE, "indices": [-1, 2]},
    {**SPARSE, "#type": "dense_vector"},
)


@pytest.mark.parametrize("vector", SPARSE_VECTORS, ids=json.dumps)
def test_sparse_vectors(pair: Pair, vector: Json) -> None:
    pair.fresh().agree(create("docs"))
    for verb in ("add", "upsert", "update"):
        pair.agree(post("docs", verb, {"ids": ["a"], "embeddings": [[1]], "metadatas": [{"v": vector}]}))
    pair.agree(everything("docs"))


VECTORS: Final = (
    *([], [1], [1, 2, 3], [1.0, "x"], [1.0, None], [True, False], [1e39, 0], [-1e39, 0], [1e-46, 0], [2**24 + 1, 0.1]),
    *([1, [2]], "", "AAAA", "!!!!", "AACAPwAAAEA=", "AACAPwAAAEA", "AADAfwAAgD8=", "AACAfwAAgD8=", 1, None, {}),
)


@pytest.mark.parametrize("verb", ["add", "upsert", "update"])
def test_vectors_of_every_form(pair: Pair, verb: str) -> None:
    pair.fresh().agree(create("docs"))
    pair.agree(post("docs", "add", {"ids": ["a", "b"], "embeddings": [[1, 2], [3, 4]]}))
    for vector in VECTORS:
        for embeddings in ([vector, [5, 6]], [[5, 6], vector], [vector, vector], [vector, to_base64([7, 8])]):
            pair.agree(post("docs", verb, {"ids": ["a", "c"], "embeddings": embeddings}))
    pair.agree(everything("docs"))


def test_query_vectors_of_every_form(pair: Pair) -> None:
    pair.fresh().agree(create("docs"))
    pair.agree(nearest("docs", [1, 2, 3], []))
    pair.agree(post("docs", "add", {"ids": ["a", "b"], "embeddings": [[1, 2], [3, 4]]}))
    queries = [[vector] for vector in VECTORS] + [[[1, 2], vector] for vector in VECTORS] + [[], None, "x", {}, 1, [[]]]
    pair.agree_on_reads(post("docs", "query", {"query_embeddings": vectors}) for vectors in queries)


@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
def test_distances_of_special_vectors(pair: Pair, space: str) -> None:
    pair.fresh().agree(create("docs", configuration={"hnsw": {"space": space}}))
    vectors = [[0, 0], [1, 0], [0, 1], [-1, 0], [1, 1], [1e18, 0], [1e-18, 0], [0.1, 0.2], [100, -7.25]]
    vectors += [] if space == "cosine" else [[3e38, 3e38], [1e-30, 0], [-1e19, 3]]
    pair.agree(post("docs", "add", {"ids": ids(len(vectors)), "embeddings": vectors}))
    pair.agree(everything("docs"))
    # Where a distance overflows, the order is arbitrary.
    finite = {
        "ids": [record_id for record_id, vector in zip(ids(12), vectors, strict=False) if max(map(abs, vector)) < 1e17]
    }
    asked = [[0.3, 0.7], [-2.5, 0.125], [7, 5], [0, 0]]
    pair.agree_on_reads(nearest("docs", *asked, n_results=count, **finite) for count in (1, 3, 8, 20))


READS: Final = {
    "get": {"ids": None, "where": None, "where_document": None, "limit": None, "offset": None, "include": ["metadatas"]},
    "query": {
        **{"query_embeddings": [[1, 2]], "n_results": 5, "ids": None, "where": None, "where_document": None},
        "include": ["distances"],
    },
}


@pytest.mark.parametrize("verb", READS)
def test_every_part_of_a_read_replaced_by_anything(pair: Pair, verb: str) -> None:
    pair.fresh().agree(create("docs"))
    pair.agree(post("docs", "add", GOOD_RECORDS))
    pair.agree_on_reads(post("docs", verb, body) for body in mutations(READS[verb], ANYTHING))
    includes = ["documents", "embeddings", "metadatas", "distances", "uris", "data", "Documents", "nope"]
    pairs = [[], *([name] for name in includes), *itertools.permutations(includes[:5], 2), ["uris", "uris"]]
    pair.agree_on_reads(post("docs", verb, {**READS[verb], "include": names}) for names in pairs)
    pair.agree_on_reads(post("docs", verb, body) for body in (*FEW, {"unknown": 1, **READS[verb]}))


def test_every_part_of_a_deletion_replaced_by_anything(pair: Pair) -> None:
    pair.fresh().agree(create("docs"))
    bodies = [
        *mutations({"ids": ["a"], "where": {"k": 1}, "where_document": {"$contains": "x"}, "limit": 1}, FEW[::2]),
        *mutations({"ids": ["a", "b"]}, FEW[1::2]),
        *({"ids": chosen} for chosen in (["a"], ["unknown"], ["a", "unknown", "a"], ["", "a"])),
        *({"where": {"k": {"$ne": 7}}, "limit": limit} for limit in (None, 0, 1, 2, 5, 2**32 - 1, 2**32)),
        *({"ids": ["a"], "limit": limit} for limit in (None, 0, 1)),
        *({}, {"limit": 1}, *FEW),
    ]
    for body in bodies:
        pair.agree(post("docs", "upsert", GOOD_RECORDS))
        pair.agree(post("docs", "delete", body))
        pair.agree(everything("docs"))


def test_the_same_id_twice_in_one_write(pair: Pair) -> None:
    body = {
        "ids": ["a", "b", "a", "a"],
        "embeddings": [[1], [2], [3], [4]],
        "documents": ["one", "two", "three", None],
        "metadatas": [{"p": 1, "q": "x"}, None, {"q": 2}, {"p": 5, "r": [1, 2]}],
        "uris": ["u1", None, None, "u4"],
    }
    for verb, known in itertools.product(("add", "upsert", "update"), ([], ["a"], ["b"], ["a", "b"])):
        pair.fresh().agree(create("docs"))
        if known:
            pair.agree(
                post("docs", "add", {"ids": known, "embeddings": [[9]] * len(known), "metadatas": [{"old": 1}] * len(known)})
            )
        pair.agree(post("docs", verb, body))
        pair.agree(everything("docs"))
        pair.agree(nearest("docs", [0]))


def test_updates_merge_replace_and_keep(pair: Pair) -> None:
    pair.fresh().agree(create("docs"))
    pair.agree(post("docs", "add", {**GOOD_RECORDS, "metadatas": [{"s": "x", "n": 1, "l": [1, 2]}, {"s": "y"}]}))
    patches: list[dict[str, Json]] = [
        {"metadatas": [{"n": None}, {"s": None}]},
        {"metadatas": [{"n": 1.5}, {"n": 1}]},
        {"metadatas": [{"n": "text"}, {"n": True}]},
        {"metadatas": [{"n": ["text"]}, {"n": [True]}]},
        {"metadatas": [{"n": []}, {"l": [1.5]}]},
        {"metadatas": [{"l": None}, {}]},
        {"metadatas": [None, {"l": None, "n": None}]},
        {"documents": [None, "new"], "uris": ["new", None]},
        {"documents": ["", ""], "uris": ["", ""]},
        {"embeddings": [None, [9, 9]]},
        {"embeddings": None},
        {},
    ]
    for patch in patches:
        pair.agree(post("docs", "update", {"ids": ["a", "b"], **patch}))
        pair.agree(everything("docs"))
        if "embeddings" not in patch:
            pair.agree(post("docs", "upsert", {"ids": ["a", "c"], "embeddings": [[1, 1], [2, 2]], **patch}))
            pair.agree(everything("docs"))


# ---- order, paging, ties


def test_order_and_pages_through_changes(pair: Pair) -> None:
    pair.fresh().agree(create("docs"))
    pair.agree(post("docs", "add", records(12, metadatas=[{"even": n % 2 == 0, "n": n} for n in range(12)])))
    changes = [
        post("docs", "update", {"ids": ["r3"], "metadatas": [{"n": 30}]}),
        post("docs", "upsert", {"ids": ["r5", "new"], "embeddings": [[50], [51]]}),
        post("docs", "delete", {"ids": ["r0", "r7"]}),
        post("docs", "add", {"ids": ["r7", "r1"], "embeddings": [[70], [10]]}),
        post("docs", "delete", {"where": {"even": True}, "limit": 2}),
    ]
    for change in changes:
        pair.agree(change)
        pages = [(limit, offset) for limit in (None, 0, 1, 3, 100) for offset in (None, 0, 1, 5, 11, 12, 100, 2**32 - 1)]
        pair.agree_on_reads(post("docs", "get", {"limit": limit, "offset": offset}) for limit, offset in pages)
        bodies = [{"ids": ["r9", "r2", "new", "r7", "r2"]}, {"where": {"even": True}}, {"where": {"n": {"$gte": 4}}}]
        pair.agree_on_reads(post("docs", "get", {**body, "limit": 2, "offset": n}) for body in bodies for n in range(4))


def test_ties_hold_the_same_records(pair: Pair) -> None:
    pair.fresh().agree(create("docs"))
    vectors = [[n % 4, 0] for n in range(60)]
    pair.agree(post("docs", "add", {"ids": ids(60), "embeddings": vectors, "documents": ids(60, "document ")}))
    include = ["distances", "documents", "embeddings"]
    pair.agree_on_reads(
        nearest("docs", [0, 0], [3, 0], n_results=n, include=include) for n in (1, 14, 15, 16, 30, 59, 60, 61)
    )


# ---- many


def test_batches_beyond_the_size_that_chroma_advises(pair: Pair) -> None:
    count = 6_000
    vectors = [to_base64(vector) for vector in np.random.default_rng(0).normal(size=(count, 4))]
    body = {"ids": ids(count), "embeddings": vectors, "metadatas": [{"n": number} for number in range(count)]}
    pair.fresh().agree(create("docs"))
    pair.agree(post("docs", "add", body))
    pair.agree(Request("GET", "/collections/{docs}/count"))
    reads: list[dict[str, Json]] = [
        {},
        {"include": ["embeddings", "metadatas"], "limit": 50, "offset": count - 50},
        {"where": {"n": {"$gte": count - 3}}},
        {"where": {"n": {"$in": list(range(5_500))}}, "include": []},
        {"ids": ids(count)[::-1], "include": []},
    ]
    pair.agree_on_reads(post("docs", "get", wanted) for wanted in reads)
    pair.agree(post("docs", "upsert", {**body, "metadatas": [{"m": number % 2} for number in range(count)]}))
    pair.agree(post("docs", "update", {"ids": body["ids"], "documents": ids(count, "document ")}))
    pair.agree(post("docs", "get", {"limit": 5, "offset": 5_460}))
    pair.agree(post("docs", "delete", {"ids": ids(count)[5:5_600]}))
    pair.agree(post("docs", "delete", {"where": {"n": {"$gte": 10}}}))
    pair.agree(everything("docs"))


def test_one_batch_of_many(pair: Pair) -> None:
    pair.fresh().agree(create("docs"))
    pair.agree(post("docs", "add", {"ids": ids(12_000), "embeddings": [[number % 7] for number in range(12_000)]}))
    pair.agree(post("docs", "get", {"include": ["embeddings"], "offset": 11_990}))
    pair.agree(Request("GET", "/collections/{docs}/count"))


def test_as_many_results_as_there_are_records(pair: Pair) -> None:
    """Chroma gets a graph so dense that it reaches every record: with its defaults it misses one in one of 700 runs."""
    pair.fresh().agree(create("docs", configuration={"hnsw": {"max_neighbors": 100}}))
    vectors = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32).tolist()
    pair.agree(post("docs", "add", {"ids": ids(600), "embeddings": vectors}))
    pair.agree_on_reads(nearest("docs", vectors[7], n_results=n) for n in (None, 1, 10, 100, 600, 601, 2**32 - 1))


def test_the_client_of_chroma_refuses_what_is_beyond_the_advice_of_either(pair: Pair) -> None:
    """Nothing is sent then; the sizes are a row of the page. One record less is accepted."""
    for side, advised in ((pair.chroma, 5_461), (pair.ours, 41_666)):
        client = chromadb.HttpClient(
            host=side.http.base_url.host, port=side.http.base_url.port or 80, settings=chromadb.Settings()
        )
        docs = client.create_collection(unique_name(), embedding_function=None)
        vectors = np.zeros((advised + 1, 1), np.float32)
        with pytest.raises(ValueError, match=r"Batch size \d+ exceeds maximum batch size"):
            docs.add(ids(advised + 1), embeddings=vectors)
        assert docs.count() == 0
        docs.add(ids(advised), embeddings=vectors[1:])
        assert docs.count() == advised
        client.close()


def test_large_values(pair: Pair) -> None:
    pair.fresh().agree(create("docs", metadata={"long": "x" * 100_000}))
    body = {"ids": ["i" * 10_000], "embeddings": [[1] * 4_000], "documents": ["d" * 1_000_000], "uris": ["u" * 50_000]}
    pair.agree(post("docs", "add", {**body, "metadatas": [{"k" * 5_000: "v" * 200_000, "l": ["x"] * 3_000}]}))
    pair.agree(everything("docs"))
    pair.agree(post("docs", "get", {"where_document": {"$contains": "d" * 70_000}, "include": []}))
    pair.agree(post("docs", "get", {"where": {"l": {"$contains": "x"}}, "include": []}))
    pair.agree(post("docs", "delete", {"ids": body["ids"]}))


def test_texts_of_every_script(pair: Pair) -> None:
    texts = [
        *(
            "日本語",
            "한국어",
            "العربية",
            "עברית",
            "ไทย",
            "हिन्दी",
            "Ελληνικά",
            "Ðß",
            "İstanbul",
            "ǅ",
            "ﬁ",
            "ſ",
            "K",
            "Å",
            "A\u030a",
        ),
        *(
            "😀",
            "👩‍👩‍👧",
            "🇩🇪",
            "\u200b",
            "\ufeff",
            "\u202e",
            "\ufffd",
            "\U0010ffff",
            "\ue000",
            "\u0000",
            "\u001f",
            "\u007f",
            "\u2028",
        ),
        *(" ", "  ", "\t", "\r\n", "\\", '"', "'", "`", "--", ";", "%00", "/", "..", "a/b", "?", "#", "&amp;", "<b>"),
    ]
    pair.fresh().agree(create("docs"))
    columns = {"documents": texts, "uris": texts, "metadatas": [{f"k{text}": text, "list": [text, "x"]} for text in texts]}
    pair.agree(post("docs", "add", {"ids": texts, "embeddings": [[n] for n in range(len(texts))], **columns}))
    pair.agree(everything("docs"))
    pair.agree_on_reads(
        post("docs", "get", body)
        for text in texts
        for body in (
            {"ids": [text]},
            {"where": {f"k{text}": text}},
            {"where": {"list": {"$contains": text}}},
            {"where_document": {"$contains": text}},
            {"where_document": {"$not_contains": text}, "include": []},
        )
    )
    pair.agree(post("docs", "delete", {"ids": texts[::2]}))
    pair.agree(everything("docs"))


HALVES: Final = (r'"\ud800"', r'"\udc00\ud800"', r'"a\ud83d"', r'"\ud83d\ude00"', r'"\u0000"', r'"\x41"', r'"\u12"')


@pytest.mark.parametrize("text", HALVES)
def test_escapes_of_halves_of_characters(pair: Pair, text: str) -> None:
    pair.fresh().agree(create("docs"))
    for body in (
        '{"ids":[%s],"embeddings":[[1]]}',
        '{"ids":["a"],"embeddings":[[1]],"documents":[%s]}',
        '{"ids":["a"],"embeddings":[[1]],"metadatas":[{"k":%s}]}',
        '{"ids":["a"],"embeddings":[[1]],"metadatas":[{%s:1}]}',
    ):
        pair.agree(raw("docs", "upsert", (body % text).encode()))
    pair.agree(raw("docs", "get", b'{"where":{"k":%b}}' % text.encode()))
    pair.agree(everything("docs"))
