"""Every endpoint, asked with no, wrong, and every kind of right credentials, about the own tenant and about another one.

The endpoints are those of the catalogue, of the calls that are always refused, of the first API, and the pages. What is
expected of each is written down here, apart from the table that the server goes by.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from tests.auth.server import COLLECTION, DATABASE, OTHER, OWN, Tenants, tenants_server

from chroma_async.protocol import CALLS
from chroma_async.protocol.unsupported import UNSUPPORTED
from chroma_async.protocol.v1 import LEGACY_ROUTES
from chroma_async.server.auth.rules import PUBLIC_PATHS, RULES

Least = Literal["nobody", "anybody", "read", "write", "admin", "root"]
Target = Literal["own", "other", "smuggled"]

EXPECTED: dict[str, Least] = {
    "Heartbeat": "nobody",
    "GetVersion": "nobody",
    "CheckHealth": "anybody",
    "GetPreflight": "anybody",
    "GetIdentity": "anybody",
    "Reset": "root",
    "CreateTenant": "admin",
    "GetTenant": "read",
    "UpdateTenant": "admin",
    "CreateDatabase": "admin",
    "GetDatabase": "read",
    "ListDatabases": "read",
    "DeleteDatabase": "admin",
    "CreateCollection": "write",
    "GetCollectionById": "read",
    "GetCollection": "read",
    "ListCollections": "read",
    "CountCollections": "read",
    "ModifyCollection": "write",
    "ReindexCollection": "write",
    "PurgeCollection": "write",
    "DeleteCollection": "write",
    "AddRecords": "write",
    "UpsertRecords": "write",
    "UpdateRecords": "write",
    "DeleteRecords": "write",
    "GetRecords": "read",
    "QueryRecords": "read",
    "CountRecords": "read",
    "GetIndexingStatus": "read",
    "FlushCollection": "write",
    "FlushDatabase": "write",
    "WatchCollection": "read",
    "WatchDatabase": "read",
    "Ingest": "write",
    "GetIngestPosition": "write",
    "Search": "read",
    "ForkCollection": "write",
    "CountForks": "read",
    "AttachFunction": "write",
    "DetachFunction": "write",
    "GetFunction": "read",
    "GetCollectionByResourceName": "anybody",
    "GET /api/v1": "nobody",
    "GET /api/v1/heartbeat": "nobody",
    "GET /api/v1/version": "nobody",
    "GET /api/v1/pre-flight-checks": "anybody",
    "POST /api/v1/reset": "root",
    "POST /api/v1/tenants": "admin",
    "GET /api/v1/tenants/{tenant}": "read",
    "POST /api/v1/databases": "admin",
    "GET /api/v1/databases/{database}": "read",
    "GET /api/v1/count_collections": "read",
    "GET /api/v1/collections": "read",
    "POST /api/v1/collections": "write",
    "GET /api/v1/collections/{name}": "read",
    "DELETE /api/v1/collections/{name}": "write",
    "PUT /api/v1/collections/{collection_id}": "write",
    "POST /api/v1/collections/{collection_id}/add": "write",
    "POST /api/v1/collections/{collection_id}/update": "write",
    "POST /api/v1/collections/{collection_id}/upsert": "write",
    "POST /api/v1/collections/{collection_id}/get": "read",
    "POST /api/v1/collections/{collection_id}/query": "read",
    "POST /api/v1/collections/{collection_id}/delete": "write",
    "GET /api/v1/collections/{collection_id}/count": "read",
    "GET /api/v2": "nobody",
    "GET /openapi.json": "anybody",
    "GET /docs": "anybody",
    "GET /docs/": "anybody",
    "GET /metrics": "anybody",
    "GET /nothing/here": "anybody",
    "OPTIONS /api/v2/tenants": "anybody",
    "POST /api/v2/heartbeat": "anybody",
    "GET /api/v2/heartbeat/": "anybody",
    "GET /api/v2/%68eartbeat": "anybody",
}
CREDENTIALS = ("none", "wrong", "read", "write", "admin", "root")
LEVELS = ("read", "write", "admin", "root")
SINGLE_NODE = {"Search", "ForkCollection", "CountForks", "AttachFunction", "DetachFunction", "GetFunction"}


@dataclass(frozen=True)
class Endpoint:
    name: str
    method: str
    path: str
    legacy: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def places(self) -> bool:
        """Whether it is about a tenant, or something in one."""
        return EXPECTED[self.name] in ("read", "write", "admin")

    @property
    def by_id(self) -> bool:
        return "{collection_id}" in self.path


def _endpoints() -> list[Endpoint]:
    found = [Endpoint(call.__name__, call.route.method, call.route.path) for call in (*CALLS, *UNSUPPORTED)]
    routes = [row.route for row in LEGACY_ROUTES]
    found += [Endpoint(f"{route.method} {route.path}", route.method, route.path, legacy=True) for route in routes]
    named = {endpoint.name for endpoint in found}
    pages = [name.split(" ") for name in EXPECTED if " " in name and name not in named]
    return [*found, *(Endpoint(" ".join(page), *page) for page in pages)]


ENDPOINTS = _endpoints()


def _cases() -> Iterator[tuple[Endpoint, str, Target]]:
    for endpoint, who in itertools.product(ENDPOINTS, CREDENTIALS):
        yield endpoint, who, "own"
        if endpoint.places:
            yield endpoint, who, "other"
        if endpoint.by_id and not endpoint.legacy:
            yield endpoint, who, "smuggled"


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    with tenants_server(tmp_path_factory.mktemp("matrix")) as server:
        yield server


def test_no_endpoint_is_missing() -> None:
    assert {endpoint.name for endpoint in ENDPOINTS} == set(EXPECTED)
    assert {call.__name__ for call in (*CALLS, *UNSUPPORTED)} <= {call.__name__ for call in RULES}


def test_public_paths_are_those_and_no_others() -> None:
    paths = {"/api/v2", "/api/v2/heartbeat", "/api/v2/version", "/livez", "/readyz"}
    old = {"/api/v1", "/api/v1/heartbeat", "/api/v1/version"}
    assert {path.decode() for path in PUBLIC_PATHS} == paths | old | {f"{path}/" for path in old}


@pytest.mark.parametrize(("endpoint", "who", "target"), list(_cases()), ids=str)
def test_who_may_do_what(tenants: Tenants, endpoint: Endpoint, who: str, target: Target) -> None:
    tenants.restore()
    response = ask(tenants, endpoint, who, target)
    expected = outcome(endpoint, who, target)
    if response.status_code < 400 and endpoint.method != "GET":
        tenants.changed = True
    if expected == "in":
        assert response.status_code not in (401, 403), response.text
        assert response.status_code < 400 or endpoint.name in EXCUSED, response.text
    elif expected == "unknown":
        assert_unknown(tenants, endpoint, who, response)
    elif expected == "not known":
        assert response.status_code == 401
        assert response.json()["error"] == "AuthorizationError"
        assert response.headers["www-authenticate"] == 'Bearer realm="chroma_async"'
    else:
        assert response.status_code == 403, response.text
        assert response.json()["error"] == "AuthError"


EXCUSED = {
    *SINGLE_NODE,
    "GetCollectionByResourceName",
    "GET /metrics",
    "GET /nothing/here",
    "OPTIONS /api/v2/tenants",
    "POST /api/v2/heartbeat",
    "GET /api/v2/heartbeat/",
    "GET /api/v2/%68eartbeat",
}
"""Those that nobody gets an answer from: they are not offered, or not there."""


def outcome(endpoint: Endpoint, who: str, target: Target) -> str:
    least = EXPECTED[endpoint.name]
    if least == "nobody":
        return "in"
    if who in ("none", "wrong"):
        return "not known"
    if least == "anybody":
        return "in"
    if target == "other" and who != "root":
        return "unknown" if endpoint.legacy and endpoint.by_id else "not allowed"
    if LEVELS.index(who) < LEVELS.index(least):
        return "not allowed"
    return "unknown" if target == "smuggled" and endpoint.name not in SINGLE_NODE else "in"


def ask(tenants: Tenants, endpoint: Endpoint, who: str, target: Target, missing: bool = False) -> Any:
    """Send the request: about the own tenant, about the other one, or about its collection by way of the own one."""
    tenant = OTHER if target == "other" else OWN
    owner = OWN if target == "own" else OTHER
    collection_id = NOBODYS if missing else tenants.ids[owner, DATABASE, COLLECTION]
    new = f"{'own' if tenant == OWN else 'other'}-{next(COUNTER)}"
    name = COLLECTION
    if endpoint.name in ("CreateTenant", "CreateDatabase", "CreateCollection") or endpoint.method == "POST":
        name = new
    fields = {"tenant": tenant, "database": DATABASE, "collection_id": collection_id, "name": name, "crn": "a:b:c"}
    path = endpoint.path.format_map(fields)
    if endpoint.legacy and not endpoint.by_id:
        path += f"?tenant={tenant}&database={DATABASE}"
    if endpoint.name == "GetIngestPosition":
        path += "?stream_id=s"
    body = None
    if endpoint.method in ("POST", "PUT", "PATCH"):
        body = {
            "name": new,
            "resource_name": "any",
            "new_metadata": {"seen": True},
            "max_neighbors": 16 + next(COUNTER) % 8,
            "ids": ["a"],
            "searches": [],
            "function_id": "f",
            "wait": None,
            "output_collection": "out",
        }
        if endpoint.path.endswith("/query"):
            body = {"query_embeddings": [[1.0, 2.0]]}
        if endpoint.path.endswith(("/add", "/upsert", "/update")):
            body["embeddings"] = [[1.0, 2.0]]
        if endpoint.path.endswith("/fork"):
            body["new_name"] = new
    return tenants.request(who, endpoint.method, path, body)


NOBODYS = "00000000-0000-4000-8000-00000000000f"
COUNTER = itertools.count()


def assert_unknown(tenants: Tenants, endpoint: Endpoint, who: str, response: Any) -> None:
    """The answer is the one for a collection that there is not."""
    missing = ask(tenants, endpoint, who, "own", missing=True)
    assert response.status_code == missing.status_code
    assert response.status_code == (400 if endpoint.legacy else 404), response.text
    assert response.json()["error"] == missing.json()["error"]
    words = [text.json()["message"].replace(path_id(text), "ID") for text in (response, missing)]
    assert words[0] == words[1]


def path_id(response: Any) -> str:
    return next(part for part in response.request.url.path.split("/") if part.count("-") == 4)
