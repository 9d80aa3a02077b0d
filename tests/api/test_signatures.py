"""Our clients take what Chroma's take, in the same order and with the same defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import chromadb
import pytest
from chromadb.api.async_client import AsyncAdminClient as TheirAsyncAdminClient
from chromadb.api.async_client import AsyncClient as TheirAsyncClient
from chromadb.api.client import AdminClient as TheirAdminClient
from chromadb.api.client import Client as TheirClient
from chromadb.api.models.AsyncCollection import AsyncCollection as TheirAsyncCollection
from chromadb.api.models.Collection import Collection as TheirCollection

import chroma_async

CLIENT = {
    "create_collection": "name schema configuration metadata embedding_function data_loader get_or_create",
    "get_or_create_collection": "name schema configuration metadata embedding_function data_loader",
    "get_collection": "name embedding_function data_loader",
    "get_collection_by_id": "id embedding_function data_loader",
    "list_collections": "limit offset",
    "count_collections": "",
    "delete_collection": "name",
    "reset": "",
    "heartbeat": "",
    "get_version": "",
    "get_settings": "",
    "get_max_batch_size": "",
    "get_user_identity": "",
    "set_tenant": "tenant database",
    "set_database": "database",
    "clear_system_cache": "",
}
ADMIN = {
    "create_tenant": "name",
    "get_tenant": "name",
    "create_database": "name tenant",
    "get_database": "name tenant",
    "delete_database": "name tenant",
    "list_databases": "limit offset tenant",
    "clear_system_cache": "",
}
WRITE = "ids embeddings metadatas documents images uris"
COLLECTION = {
    "add": WRITE,
    "upsert": WRITE,
    "update": WRITE,
    "delete": "ids where where_document limit",
    "get": "ids where limit offset where_document include",
    "peek": "limit",
    "query": "query_embeddings query_texts query_images query_uris ids n_results where where_document include",
    "count": "read_level",
    "modify": "name metadata configuration",
    "get_indexing_status": "",
}
CONSTRUCTORS = {
    "HttpClient": "host port ssl headers settings tenant database",
    "AsyncHttpClient": "host port ssl headers settings tenant database",
    "PersistentClient": "path settings tenant database",
    "EphemeralClient": "settings tenant database",
}
PAIRS: list[tuple[type[Any], type[Any], dict[str, str]]] = [
    (chroma_async.ClientAPI, TheirClient, CLIENT),
    (chroma_async.AsyncClientAPI, TheirAsyncClient, CLIENT),
    (chroma_async.AdminClient, TheirAdminClient, ADMIN),
    (chroma_async.AsyncAdminClient, TheirAsyncAdminClient, ADMIN),
    (chroma_async.Collection, TheirCollection, COLLECTION),
    (chroma_async.AsyncCollection, TheirAsyncCollection, COLLECTION),
]
METHODS = [
    pytest.param(ours, theirs, name, names.split(), id=f"{ours.__name__}.{name}")
    for ours, theirs, table in PAIRS
    for name, names in table.items()
]


def positional(function: Callable[..., Any]) -> dict[str, Any]:
    """Names and defaults of what may be passed by position, without self."""
    parameters = inspect.signature(function).parameters.values()
    return {
        found.name: found.default
        for found in parameters
        if found.name != "self" and found.kind is found.POSITIONAL_OR_KEYWORD
    }


def comparable(default: Any) -> Any:
    """Lists and tuples are the same default; embedding functions have none that could be compared."""
    return list(default) if isinstance(default, list | tuple) else default


@pytest.mark.parametrize(("ours", "theirs", "name", "names"), METHODS)
def test_a_method_takes_what_chromas_takes(ours: type[Any], theirs: type[Any], name: str, names: list[str]) -> None:
    mine, original = positional(getattr(ours, name)), positional(getattr(theirs, name))
    assert list(mine) == names
    assert list(original) == names
    for parameter in set(names) - {"embedding_function"}:
        assert comparable(mine[parameter]) == comparable(original[parameter]), parameter


@pytest.mark.parametrize(("name", "names"), CONSTRUCTORS.items())
def test_a_constructor_takes_what_chromas_takes(name: str, names: str) -> None:
    mine, original = positional(getattr(chroma_async, name)), positional(getattr(chromadb, name))
    assert list(mine) == names.split()
    assert mine == original


@pytest.mark.parametrize(("ours", "theirs", "table"), PAIRS)
def test_async_methods_are_coroutines_where_chromas_are(ours: type[Any], theirs: type[Any], table: dict[str, str]) -> None:
    for name in table:
        mine, original = getattr(ours, name), getattr(theirs, name)
        assert inspect.iscoroutinefunction(mine) == inspect.iscoroutinefunction(original), name


@pytest.mark.parametrize("kind", ["Collection", "AsyncCollection"])
def test_a_collection_has_chromas_properties(kind: str) -> None:
    for name in ["id", "name", "metadata", "tenant", "database", "configuration", "configuration_json", "schema"]:
        assert isinstance(inspect.getattr_static(getattr(chroma_async, kind), name), property)


def test_both_colours_offer_the_same() -> None:
    for ours, twin in (
        (chroma_async.AsyncClientAPI, chroma_async.ClientAPI),
        (chroma_async.AsyncCollection, chroma_async.Collection),
    ):
        public = {name for name in dir(ours) if not name.startswith("_")} - {"aclose"}
        assert public == {name for name in dir(twin) if not name.startswith("_")}
