"""Bodies, content types, paths, methods and query strings."""

from __future__ import annotations

from typing import Final

import pytest
from tests.compat.differential.exchange import Pair, Request
from tests.compat.differential.values import QUERY_VALUES, deep, raw
from tests.compat.wire import ABSENT_UUID, TENANT

NO_JSON: Final = (
    *(
        b"",
        b" ",
        b"{",
        b"{}x",
        b"nope",
        b"[]",
        b"1",
        b'"x"',
        b"null",
        b"{'a':1}",
        b"{a:1}",
        b"\xff",
        b"{} // no",
        b"[" * 300,
    ),
    *(
        b'{"limit":%b}' % text
        for text in (b"NaN", b"Infinity", b"01", b"+1", b"1.", b".5", b"1,", b"1e0", b"1e400", b'"\n"')
    ),
    *(
        b'{"limit":1}{}',
        b'{"limit":1,"limit":2}',
        b"\xef\xbb\xbf{}",
        b'{"ids":["\xff"]}',
        b'{"where":%b}' % b'{"$and":[' * 200,
    ),
)
KINDS: Final = (
    """
    application/json|application/json; charset=utf-8|APPLICATION/JSON|application/json;|text/json|text/plain|json||*/*
    application/x-www-form-urlencoded|application/octet-stream|application/vnd.api+json|application/jsonx
    application/ld+json; x=y|application/json, text/plain|multipart/form-data
""".replace("\n    ", "|")
    .strip("|\n")
    .split("|")
)
HARMLESS_METHODS: Final = ("GET", "PUT", "PATCH", "OPTIONS", "HEAD")
PATHS: Final = f"""
    / /api /api/v2 /api/v2/ /api/v3 /api/v2/nope /api/v2/heartbeat /api/v2/heartbeat/ /api/v2/version /api/v2/Version
    /api/v2/healthcheck /api/v2/auth/identity /api/v2/tenants {TENANT} {TENANT}/databases/default_database
    {TENANT}/databases/default_database/nope /collections/ /collections/docs/ /collections/{{docs}}/nope
    /collections/{{docs}}/count /collections/{{docs}}/get/ /collections/by-id/{{docs}} /collections/by-id/
    /collections/by-id/nope /collections/docs/count //collections
""".split()
NO_IDS: Final = (ABSENT_UUID[:-1], ABSENT_UUID + "0", ABSENT_UUID.replace("0", "g"), "x", "0", "docs", "%20", "..%2f")


@pytest.mark.parametrize("verb", ["get", "add", "query", "delete"])
def test_bodies_that_are_no_json(docs: Pair, verb: str) -> None:
    docs.agree_on_reads(raw("docs", verb, content) for content in NO_JSON)


@pytest.mark.parametrize("verb", ["get", "query", "delete"])
def test_deeply_nested_bodies(docs: Pair, verb: str) -> None:
    needed = {"query_embeddings": [[1, 2]]} if verb == "query" else {"ids": []}
    bodies = [{**needed, "where": deep(levels)} for levels in (30, 61, 62, 63, 65)]
    docs.agree_on_reads(Request("POST", f"/collections/{{docs}}/{verb}", body) for body in bodies)


def test_content_types(docs: Pair) -> None:
    docs.agree_on_reads(raw("docs", "get", content, kind) for content in (b"{}", b"nope") for kind in KINDS)


def test_methods_and_paths(docs: Pair) -> None:
    docs.agree_on_reads(Request(method, path) for path in PATHS for method in HARMLESS_METHODS)


def test_ids_of_collections_in_every_form(docs: Pair) -> None:
    for form in ("{docs}", "{docs:upper}", "{docs:hex}", "{docs:braces}", "{docs:urn}", ABSENT_UUID, *NO_IDS):
        docs.agree(Request("GET", f"/collections/{form}/count"))
        docs.agree(Request("GET", f"/collections/by-id/{form}"))
        docs.agree(Request("PUT", f"/collections/{form}", {}))
        docs.agree_on_reads(Request("POST", f"/collections/{form}/{verb}", {}) for verb in ("get", "query", "delete", "add"))


def test_query_strings(docs: Pair) -> None:
    queries = [f"{name}={value}" for name in ("limit", "offset", "Limit", "nope") for value in QUERY_VALUES]
    queries += ["limit=1&offset=0", "limit", "limit=", "&", "limit=1&", "=1", "limit=1;offset=2"]
    docs.agree_on_reads(Request("GET", f"/collections?{query}") for query in queries)
    vectors = {"query_embeddings": [[1, 1]]}
    docs.agree_on_reads(Request("POST", f"/collections/{{docs}}/query?{query}", vectors) for query in queries)
    levels = ["index_and_wal", "index_and_bounded_wal", "nope", "", "INDEX_ONLY"]  # index_only: documented beside the table
    docs.agree_on_reads(Request("GET", f"/collections/{{docs}}/count?read_level={level}") for level in levels)
