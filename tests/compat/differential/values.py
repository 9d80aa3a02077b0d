"""Values that requests are made of: good ones, bad ones, and odd ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from tests.compat.differential.exchange import Json, Request, post

STRINGS: Final = ("", "x", "X", "xy", "1", "true", "日本", "a'b\"c", "\0", "%", "é", "e\u0301")
INTEGERS: Final = (0, 1, -1, 2, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))
TOO_LARGE: Final = (2**63, -(2**63) - 1, 2**64, 10**400)
FLOATS: Final = (0.0, -0.0, 1.0, 2.0, 1.5, -0.5, 1e300, 5e-324)
SCALARS: Final = (*STRINGS, *INTEGERS, *FLOATS, True, False)
GOOD_LISTS: Final = (["x"], ["x", "y"], [""], [1], [1, 2], [1.5], [1.5, 2], [True], [False, True])
BAD_LISTS: Final = ([], [1, 1.5], ["x", 1], [True, 1], [1, True], [None], [1, None], [[1]], [{}])
OBJECTS: Final = ({}, {"a": 1}, {"$eq": 1}, {"#type": "sparse_vector"})
ANYTHING: Final = (None, *SCALARS, *TOO_LARGE, *GOOD_LISTS, *BAD_LISTS, *OBJECTS)
FEW: Final = (None, "x", "", 1, -1, 2**32, 2**64, 1.5, True, [], ["x"], [1], [[1]], [None], {}, {"a": 1})

SPARSE: Final = {"#type": "sparse_vector", "indices": [1, 3], "values": [0.5, 1.5]}

QUERY_VALUES: Final = ("", "0", "1", "+1", "-1", "01", "1.0", "1e1", "x", "4294967295", "4294967296", "%20", "null", "٣")

COMPARISONS: Final = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte")
FIELD_OPERATORS: Final = (*COMPARISONS, "$in", "$nin", "$contains", "$not_contains")
DOCUMENT_OPERATORS: Final = ("$contains", "$not_contains", "$regex", "$not_regex")
NO_OPERATORS: Final = ("$regex", "$not_regex", "$foo", "$EQ", "eq", "", "#document")

DOCUMENTS: Final = (
    *("", "x", "X", "red fox", "Red Fox", "ref", "100%", "a_b", "a\\b", "line\nbreak", "日本語", "日", "straße", "STRASSE"),
    *("e\u0301", "é", "\0", "tab\there", "😀 smile", "a" * 300, None),
)
NEEDLES: Final = (
    *("", "x", "X", "re", "red", "Red", "fox", "d f", "%", "_", "\\", "\n", "日", "本", "日本", "本語", "ß", "SS", "é", "e"),
    *("\u0301", "\0", "\t", "😀", "a" * 299, "a" * 301, "nowhere", "'", '"', "*", "x*", "NEAR", "AND"),
)
PATTERNS: Final = (
    *("", "x", "^x$", "(?i)x", "fox$", "^", "$", "^$", ".", "r.d", "(?s)e.b", "e.b", r"\d+", r"\bfox\b", "x|日", r"\p{Han}"),
    *(r"[[:alpha:]]+", r"(?<n>red)", r"\x41", r"a{299}", r"\w+", r"\s", "ß", "(?i)STRASSE", "é", r"\z", r"[^x]", r"a+b*?"),
    *(
        "(",
        ")",
        "[",
        "a{2,1}",
        "*",
        "(?=x)",
        r"(x)\1",
        r"\Z",
        "(?<n>",
        r"\p{Nope}",
        "a{,2}",
        "[a&&b]",
        "a{1001}",
        "(?P<n>x)",
    ),
)


def everything(name: str) -> Request:
    return post(name, "get", {"include": ["documents", "embeddings", "metadatas", "uris"]})


def nearest(name: str, *vectors: Json, **body: Json) -> Request:
    return post(name, "query", {"query_embeddings": list(vectors), "include": ["distances"], **body})


def raw(name: str, verb: str, content: bytes, kind: str | None = "application/json") -> Request:
    headers = {} if kind is None else {"content-type": kind}
    return Request("POST", f"/collections/{{{name}}}/{verb}", content=content, headers=headers)


def ids(count: int, prefix: str = "r") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def records(count: int, **columns: Json) -> dict[str, Json]:
    """Records on a line: the vector of the n-th is [n]."""
    return {"ids": ids(count), "embeddings": [[number] for number in range(count)], **columns}


def deep(levels: int, name: str = "$and") -> Json:
    """A filter within a filter within a filter."""
    where: Json = {"v": 1}
    for _ in range(levels):
        where = {name: [where, {"v": {"$ne": 2}}]}
    return where


GOOD_RECORDS: Final = {
    "ids": ["a", "b"],
    "embeddings": [[1.0, 2.0], [3.0, 4.5]],
    "documents": ["x", None],
    "metadatas": [{"k": 1}, None],
    "uris": [None, "file://b"],
}


def mutations(body: dict[str, Json], values: Iterable[Json]) -> Iterator[dict[str, Json]]:
    """The body without a field, with a value in its place, or in the place of its first item."""
    values = list(values)
    for name, column in body.items():
        yield {key: value for key, value in body.items() if key != name}
        for value in values:
            yield {**body, name: value}
            if isinstance(column, list):
                yield {**body, name: [value, *column[1:]]}
        if isinstance(column, list):
            yield {**body, name: column[:1]}
            yield {**body, name: [*column, column[0]]}
