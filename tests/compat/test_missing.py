"""Records without the field that a negative operator names: the request decides, then the server's option, then the API.

What a filter matches is checked for every API that reaches a server (v1, Chroma's client on v2, ours in both colours), for
embedded engines, and under every value of `chroma-async run --missing`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chromadb
import httpx
import pytest
from tests.compat.servers import our_server
from tests.compat.wire import COLLECTIONS, unique_name

import chroma_async
from chroma_async.settings import EngineSettings, Missing

pytestmark = pytest.mark.reference_differs

OPTIONS: tuple[Missing | None, ...] = (None, "include", "exclude")

HIT, OTHER, LACKING = "hit", "other", "lacking"
RECORDS: dict[str, Any] = {
    "ids": [HIT, OTHER, LACKING],
    "embeddings": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
    "metadatas": [{"n": 1, "tags": ["x"]}, {"n": 2, "tags": ["y"]}, None],
    "documents": ["x", "y", None],
}
FILTERS: dict[str, dict[str, Any]] = {
    "$ne": {"where": {"n": {"$ne": 1}}},
    "$nin": {"where": {"n": {"$nin": [1, 7]}}},
    "$not_contains": {"where": {"tags": {"$not_contains": "x"}}},
    "document $not_contains": {"where_document": {"$not_contains": "x"}},
    "document $not_regex": {"where_document": {"$not_regex": "^x"}},
    "#document $not_contains": {"where": {"#document": {"$not_contains": "x"}}},
    "nested": {"where": {"$and": [{"n": {"$ne": 1}}, {"$or": [{"tags": {"$not_contains": "x"}}, {"n": {"$gt": 9}}]}]}},
}
POSITIVE: dict[str, Any] = {"where": {"n": {"$gt": 1}}, "where_document": {"$contains": "y"}}

Find = Callable[[dict[str, Any], str, Missing | None], list[str]]
"""Applies a filter by get, query or delete to `RECORDS`, and returns the ids that it found."""

VERBS = ("get", "query", "delete")


def expected(request: Missing | None, option: Missing | None, default: Missing) -> list[str]:
    """What is left of `RECORDS` by the precedence that docs/client.md and docs/server.md promise."""
    return [OTHER, LACKING] if (request or option or default) == "include" else [OTHER]


def check(find: Find, option: Missing | None, default: Missing) -> None:
    """Hold every filter by every verb to the precedence; positive operators don't care."""
    for request, verb in itertools.product(OPTIONS, VERBS):
        assert find(POSITIVE, verb, request) == [OTHER], (verb, request)
        for name, condition in FILTERS.items():
            found = find(condition, verb, request)
            assert found == expected(request, option, default), (name, verb, request)


@pytest.fixture(scope="module", params=OPTIONS, ids=["server-default", "server-include", "server-exclude"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Missing | None]]:
    """A server's URL, and what its `--missing` is."""
    option: Missing | None = request.param
    options = () if option is None else ("--missing", option)
    with our_server(tmp_path_factory.mktemp("server"), *options, workers=1) as url:
        yield url, option


def remaining(before: list[str], after: list[str]) -> list[str]:
    return [record_id for record_id in before if record_id not in after]


# ---- raw requests


def raw(http: httpx.Client, collections: str) -> Find:
    """Requests of the v1 or the v2 API, with the field `missing` or without."""

    def filled() -> str:
        path = f"{collections}/{http.post(collections, json={'name': unique_name()}).raise_for_status().json()['id']}"
        http.post(path + "/add", json=RECORDS).raise_for_status()
        return path

    kept = filled()

    def find(condition: dict[str, Any], verb: str, request: Missing | None) -> list[str]:
        path = filled() if verb == "delete" else kept
        body = condition if request is None else {**condition, "missing": request}
        if verb == "query":
            body = {**body, "query_embeddings": [[0.0, 1.0]], "n_results": 3}
        answer = http.post(f"{path}/{verb}", json=body).raise_for_status().json()
        if verb == "delete":
            return remaining(RECORDS["ids"], http.post(path + "/get", json={}).json()["ids"])
        return answer["ids"][0] if verb == "query" else answer["ids"]

    return find


def test_v1_leaves_them_out_unless_told_otherwise(server: tuple[str, Missing | None]) -> None:
    url, option = server
    with httpx.Client(base_url=url) as http:
        check(raw(http, "/api/v1/collections"), option, "exclude")


def test_v2_includes_them_unless_told_otherwise(server: tuple[str, Missing | None]) -> None:
    url, option = server
    with httpx.Client(base_url=url) as http:
        check(raw(http, COLLECTIONS), option, "include")


def test_a_word_that_is_neither_is_refused(server: tuple[str, Missing | None]) -> None:
    with httpx.Client(base_url=server[0]) as http:
        path = f"{COLLECTIONS}/{http.post(COLLECTIONS, json={'name': unique_name()}).json()['id']}"
        answer = http.post(path + "/get", json={"where": {"n": {"$ne": 1}}, "missing": "both"})
    assert answer.status_code == 422
    assert "missing" in answer.json()["message"]


# ---- clients


def blocking(client: Any) -> Find:
    """A client of ours or of Chroma's, sync."""

    def filled() -> Any:
        docs = client.create_collection(unique_name(), embedding_function=None)
        docs.add(**RECORDS)
        return docs

    kept = filled()

    def find(condition: dict[str, Any], verb: str, request: Missing | None) -> list[str]:
        docs = filled() if verb == "delete" else kept
        options = {} if request is None else {"missing": request}
        if verb == "get":
            return list(docs.get(**condition, **options)["ids"])
        if verb == "query":
            return list(docs.query(query_embeddings=[[0.0, 1.0]], n_results=3, **condition, **options)["ids"][0])
        docs.delete(**condition, **options)
        return remaining(RECORDS["ids"], docs.get()["ids"])

    return find


def test_chromas_client_gets_what_chroma_does_unless_the_server_was_told(
    server: tuple[str, Missing | None],
) -> None:
    url, option = server
    address, settings = httpx.URL(url), chromadb.Settings(anonymized_telemetry=False)
    client = chromadb.HttpClient(host=address.host, port=address.port or 80, settings=settings)
    find = blocking(client)
    for condition, verb in itertools.product(FILTERS.values(), VERBS):
        assert find(condition, verb, None) == expected(None, option, "include"), (condition, verb)
    client.close()


def awaited(runner: asyncio.Runner, client: Any) -> Find:
    """A client of ours, async."""

    async def filled() -> Any:
        docs = await client.create_collection(unique_name(), embedding_function=None)
        await docs.add(**RECORDS)
        return docs

    kept = runner.run(filled())

    async def find(condition: dict[str, Any], verb: str, options: dict[str, Any]) -> list[str]:
        docs = await filled() if verb == "delete" else kept
        if verb == "get":
            return (await docs.get(**condition, **options))["ids"]
        if verb == "query":
            return (await docs.query(query_embeddings=[[0.0, 1.0]], n_results=3, **condition, **options))["ids"][0]
        await docs.delete(**condition, **options)
        return remaining(RECORDS["ids"], (await docs.get())["ids"])

    return lambda condition, verb, request: runner.run(
        find(condition, verb, {} if request is None else {"missing": request})
    )


@contextlib.contextmanager
def connected(runner: asyncio.Runner, client: Any) -> Iterator[Any]:
    runner.run(client.__aenter__())
    try:
        yield client
    finally:
        runner.run(client.aclose())


def test_our_client_leaves_them_out_unless_told_otherwise(server: tuple[str, Missing | None]) -> None:
    url, option = server
    with chroma_async.HttpClient(url) as client:
        check(blocking(client), option, "exclude")


def test_our_async_client_leaves_them_out_unless_told_otherwise(server: tuple[str, Missing | None]) -> None:
    url, option = server
    with asyncio.Runner() as runner, connected(runner, chroma_async.AsyncHttpClient(url)) as client:
        check(awaited(runner, client), option, "exclude")


@pytest.mark.parametrize("of_client", ["include", "exclude"])
def test_the_choice_of_our_client_beats_the_server_and_yields_to_a_call(
    server: tuple[str, Missing | None], of_client: Missing
) -> None:
    with chroma_async.HttpClient(server[0], missing=of_client) as client:
        check(blocking(client), None, of_client)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_embedded_client_obeys_the_setting_of_its_engine(option: Missing | None, tmp_path: Path) -> None:
    engine = EngineSettings(durability="off", missing=option)
    with chroma_async.PersistentClient(tmp_path, engine=engine) as client:
        check(blocking(client), option, "exclude")


@pytest.mark.parametrize("option", OPTIONS)
def test_an_embedded_async_client_obeys_the_setting_of_its_engine(option: Missing | None) -> None:
    engine = EngineSettings(missing=option)
    with asyncio.Runner() as runner, connected(runner, chroma_async.AsyncEphemeralClient(engine=engine)) as client:
        check(awaited(runner, client), option, "exclude")


@pytest.mark.parametrize("of_client", ["include", "exclude"])
@pytest.mark.parametrize("of_engine", OPTIONS)
def test_the_choice_of_an_embedded_client_beats_its_engine(of_client: Missing, of_engine: Missing | None) -> None:
    engine = EngineSettings(missing=of_engine)
    with chroma_async.EphemeralClient(engine=engine, missing=of_client) as client:
        find = blocking(client)
        assert find(FILTERS["$ne"], "get", None) == expected(of_client, None, "exclude")


def test_a_client_refuses_another_word_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match=r"missing must be 'include' or 'exclude'.*got='both'"):
        chroma_async.EphemeralClient(missing="both")  # type: ignore[arg-type]
    with chroma_async.EphemeralClient() as client:
        docs = client.create_collection("docs", embedding_function=None)
        with pytest.raises(ValueError, match="missing must be"):
            docs.get(where={"n": {"$ne": 1}}, missing="both")
