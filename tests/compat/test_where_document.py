"""Document filters: literal, case-sensitive, any length, any script."""

from __future__ import annotations

from typing import Any

import chromadb
import pytest
from tests.compat.wire import Wire, WireCollection

DOCUMENTS: dict[str, str | None] = {
    "a": "Hello, world",
    "b": "hello World 100% sure",
    "c": "snake_case と日本語のテキスト",
    "d": "",
    "e": None,
    "f": "line one\nline two",
    "g": "日本",
    "h": "back\\slash 'single' \"double\"",
    "i": "STRASSE Straße ÄÖÜ 👩‍👩‍👧",
    "j": "snakeXcase 100 percent",
}
ALL = "abcdefghij"

TABLE: list[tuple[dict[str, Any], str]] = [
    ({"$contains": "Hello"}, "a"),
    ({"$contains": "hello"}, "b"),
    ({"$contains": "ello, w"}, "a"),
    ({"$contains": "orld"}, "ab"),
    ({"$contains": "H"}, "a"),
    ({"$contains": "lo"}, "ab"),
    ({"$contains": "e"}, "abcfhij"),
    ({"$contains": " "}, "abcfhij"),
    ({"$contains": "日"}, "cg"),
    ({"$contains": "日本"}, "cg"),
    ({"$contains": "本語の"}, "c"),
    ({"$contains": "100%"}, "b"),
    ({"$contains": "%"}, "b"),
    ({"$contains": "_"}, "c"),
    ({"$contains": "snake_case"}, "c"),
    ({"$contains": "h%o"}, ""),
    ({"$contains": "\\"}, "h"),
    ({"$contains": "back\\slash"}, "h"),
    ({"$contains": "'"}, "h"),
    ({"$contains": '"double"'}, "h"),
    ({"$contains": "\n"}, "f"),
    ({"$contains": "one\nline"}, "f"),
    ({"$contains": "ß"}, "i"),
    ({"$contains": "ä"}, ""),
    ({"$contains": "ÄÖÜ"}, "i"),
    ({"$contains": "👩"}, "i"),
    ({"$contains": "*"}, ""),
    ({"$contains": "lin* OR one"}, ""),
    ({"$contains": "world" * 300}, ""),
    ({"$contains": ""}, "abcdfghij"),
    ({"$not_contains": "e"}, "deg"),
    ({"$not_contains": "日"}, "abdefhij"),
    ({"$not_contains": "Hello"}, "bcdefghij"),
    ({"$not_contains": "_"}, "abdefghij"),
    ({"$not_contains": "nowhere"}, ALL),
    ({"$not_contains": ""}, "e"),
    ({"$and": [{"$contains": "snake"}, {"$contains": "case"}]}, "cj"),
    ({"$and": [{"$contains": "snake"}, {"$not_contains": "_"}]}, "j"),
    ({"$and": [{"$contains": "nowhere"}]}, ""),
    ({"$or": [{"$contains": "Hello"}, {"$contains": "日本"}]}, "acg"),
    ({"$or": [{"$contains": "Hello"}]}, "a"),
    ({"$and": []}, ALL),
    ({"$or": []}, ""),
    ({"$or": [{"$and": [{"$contains": "o"}, {"$contains": "w"}]}, {"$contains": "g"}]}, "afh"),
    ({"$regex": "^Hello"}, "a"),
    ({"$regex": "(?i)hello"}, "ab"),
    ({"$regex": r"\d{3}%?"}, "bj"),
    ({"$regex": r"[日本]{2}$"}, "g"),
    ({"$regex": "one.line"}, ""),
    ({"$regex": "(?s)one.line"}, "f"),
    ({"$regex": "^line two"}, ""),
    ({"$regex": "(?m)^line two"}, "f"),
    ({"$regex": r"\p{Han}"}, "cg"),
    ({"$regex": "snake(_|X)case"}, "cj"),
    ({"$not_regex": "[a-z]"}, "deg"),
]

INVALID: list[Any] = [
    *({}, [], "x", 1, {"$contains": 1}, {"$contains": None}, {"$contains": ["x"]}, {"$foo": "x"}, {"contains": "x"}),
    *({"$contains": "x", "$not_contains": "y"}, {"$and": {}}, {"$or": "x"}, {"$and": [{}]}, {"$or": [{"$foo": "x"}]}),
]


@pytest.fixture(scope="module")
def library(wire: Wire) -> WireCollection:
    collection = wire.create()
    collection.add(
        ids=list(DOCUMENTS), embeddings=[[number] for number in range(len(DOCUMENTS))], documents=list(DOCUMENTS.values())
    )
    return collection


@pytest.mark.parametrize(("where_document", "expected"), TABLE, ids=lambda value: str(value)[:60])
def test_where_document_matches(library: WireCollection, where_document: dict[str, Any], expected: str) -> None:
    assert "".join(library.ids(where_document=where_document)) == expected
    nearest = library.query([0], where_document=where_document, n_results=99, include=[])
    assert "".join(nearest["ids"][0]) == expected


@pytest.mark.parametrize("where_document", INVALID, ids=str)
@pytest.mark.parametrize(("verb", "body"), [("get", {}), ("query", {"query_embeddings": [[0]]}), ("delete", {})])
def test_bad_where_document_is_refused(
    library: WireCollection, verb: str, body: dict[str, Any], where_document: Any
) -> None:
    refusal = library.post(verb, {**body, "where_document": where_document}).refusal
    assert refusal[:2] == (400, "InvalidArgumentError")
    assert refusal[2].startswith("Invalid where document clause")


@pytest.mark.parametrize("pattern", ["a(?=p)", r"(a)\1", "(", "[z-a]"])
def test_bad_pattern_is_refused(library: WireCollection, pattern: str) -> None:
    status, error, _ = library.post("get", {"where_document": {"$regex": pattern}}).refusal
    assert (status, error) == (400, "InvalidArgumentError")


def test_where_takes_the_document_key_too(library: WireCollection) -> None:
    assert library.ids(where={"#document": {"$contains": "Hello"}}) == ["a"]
    assert library.ids(where={"#document": {"$regex": "^snake"}}) == ["c", "j"]
    where = {"$or": [{"#document": {"$contains": "Hello"}}, {"#document": {"$not_contains": "e"}}]}
    assert library.ids(where=where) == ["a", "d", "e", "g"]


def test_document_filters_follow_updates_at_once(collection: WireCollection) -> None:
    collection.add(ids=["a", "b"], embeddings=[[1], [2]], documents=["old text", "old text"])
    collection.update(ids=["a"], documents=["new words"])
    assert collection.ids(where_document={"$contains": "old"}) == ["b"]
    assert collection.ids(where_document={"$contains": "new"}) == ["a"]
    collection.delete(ids=["b"])
    assert collection.ids(where_document={"$contains": "text"}) == []


def test_client_filters_documents(docs: chromadb.Collection) -> None:
    docs.add(ids=["a", "b"], embeddings=[[1.0], [2.0]], documents=["red fox", "blue whale"])
    assert docs.get(where_document={"$contains": "fox"})["ids"] == ["a"]
    either = docs.get(where_document={"$or": [{"$contains": "fox"}, {"$contains": "whale"}]})
    assert either["ids"] == ["a", "b"]
    assert docs.get(where_document={"$not_contains": "fox"})["documents"] == ["blue whale"]
