"""The first API, `/api/v1`, by raw HTTP: the envelopes that old clients parse. Chroma 1.x answers it with 410."""

from __future__ import annotations

from typing import Any

import pytest
from tests.compat.wire import ABSENT_UUID, Answer, Wire, unique_name

V1 = "/api/v1"
REQUESTS = {"user-agent": "python-requests/2.31.0"}
HTTPX = {"user-agent": "python-httpx/0.27.0"}
DEFAULT_PLACE = {"tenant": "default_tenant", "database": "default_database"}

pytestmark = pytest.mark.reference_differs


def create(wire: Wire, agent: dict[str, str] = REQUESTS, **fields: Any) -> dict[str, Any]:
    body = {"name": unique_name(), "metadata": None, "get_or_create": False, **fields}
    answer = wire.call("POST", V1 + "/collections", body, headers=agent, params=DEFAULT_PLACE)
    assert answer.status == 200, answer.text
    created: dict[str, Any] = answer.body
    return created


@pytest.fixture
def path(wire: Wire) -> str:
    """The records of a fresh collection with three of them."""
    path = f"{V1}/collections/{create(wire)['id']}"
    body = {
        "ids": ["a", "b", "c"],
        "embeddings": [[1, 0], [0, 1], [1, 1]],
        "metadatas": [{"n": 1}, {"n": 2}, None],
        "documents": ["x", "y", None],
        "uris": None,
    }
    answer = wire.call("POST", path + "/add", body)
    assert (answer.status, answer.body) == (201, True)
    return path


def post(wire: Wire, path: str, body: Any, agent: dict[str, str] = REQUESTS) -> Answer:
    return wire.call("POST", path, body, headers=agent)


@pytest.mark.parametrize("path", ["", "/", "/heartbeat", "/heartbeat/"])
def test_root_and_heartbeat_tell_the_time(wire: Wire, path: str) -> None:
    assert wire.call("GET", V1 + path).body["nanosecond heartbeat"] > 0


def test_limits_are_told_without_newer_abilities(wire: Wire) -> None:
    assert wire.call("GET", V1 + "/pre-flight-checks").body == {"max_batch_size": 41666}
    assert isinstance(wire.call("GET", V1 + "/version").body, str)


def test_list_has_the_fields_that_each_generation_can_parse(wire: Wire) -> None:
    name = create(wire)["name"]

    def fields(agent: dict[str, str], **place: str) -> set[str]:
        listed = wire.call("GET", V1 + "/collections", headers=agent, params=place).body
        return set(next(item for item in listed if item["name"] == name))

    strict = {"id", "name", "metadata"}
    assert fields(REQUESTS) == strict
    assert fields(REQUESTS, **DEFAULT_PLACE) == strict
    known = {"dimension", "tenant", "database", "version"}
    assert fields({"user-agent": "node"}, **DEFAULT_PLACE) == strict | known
    assert fields(HTTPX, **DEFAULT_PLACE) == strict | known | {"configuration_json"}


def test_configuration_has_its_old_form(wire: Wire) -> None:
    old = {"_type": "HNSWConfigurationInternal", "space": "ip", "M": 7}
    created = create(wire, HTTPX, configuration={"_type": "CollectionConfigurationInternal", "hnsw_configuration": old})
    answered = created["configuration_json"]
    assert answered["_type"] == "CollectionConfigurationInternal"
    assert answered["hnsw_configuration"]["_type"] == "HNSWConfigurationInternal"
    assert (answered["hnsw_configuration"]["space"], answered["hnsw_configuration"]["M"]) == ("ip", 7)


def test_space_in_the_metadata_beats_the_configuration_that_clients_always_send(wire: Wire) -> None:
    old = {"_type": "HNSWConfigurationInternal", "space": "l2"}
    configuration = {"_type": "CollectionConfigurationInternal", "hnsw_configuration": old}
    created = create(wire, HTTPX, configuration=configuration, metadata={"hnsw:space": "cosine"})
    assert created["configuration_json"]["hnsw_configuration"]["space"] == "cosine"


def test_empty_filters_are_no_filters(wire: Wire, path: str) -> None:
    body = {"ids": None, "where": {}, "where_document": {}, "include": ["metadatas", "data"]}
    answer = post(wire, path + "/get", body).body
    assert answer["ids"] == ["a", "b", "c"]
    assert answer["metadatas"] == [{"n": 1}, {"n": 2}, None]
    assert answer["data"] is None
    assert set(answer) == {"ids", "embeddings", "metadatas", "documents", "data", "uris", "included"}
    found = post(wire, path + "/query", {"query_embeddings": [[1, 0]], "n_results": 1, "where": {}, "where_document": {}})
    assert found.body["ids"] == [["a"]]
    assert found.body["data"] is None


@pytest.mark.parametrize("agent", [REQUESTS, HTTPX], ids=str)
def test_clients_are_told_what_is_included(wire: Wire, path: str, agent: dict[str, str]) -> None:
    """Those from 0.5.1 to 0.5.3 send the same headers as their elders, and fail without it."""
    assert post(wire, path + "/get", {"include": ["documents"]}, agent).body["included"] == ["documents"]
    body = {"query_embeddings": [[1, 0]], "include": ["distances", "data"]}
    assert post(wire, path + "/query", body, agent).body["included"] == ["distances"]


@pytest.mark.parametrize("include", [True, 5, "documents", {}, {"documents": 1}])
def test_an_include_that_is_no_list_is_refused(wire: Wire, path: str, include: object) -> None:
    assert post(wire, path + "/get", {"include": include}).status in (400, 422)
    assert post(wire, path + "/query", {"query_embeddings": [[1, 0]], "include": include}).status in (400, 422)


def test_negative_operators_leave_out_records_that_lack_the_field(wire: Wire, path: str) -> None:
    assert post(wire, path + "/get", {"where": {"n": {"$ne": 1}}}).body["ids"] == ["b"]
    assert post(wire, path + "/get", {"where": {"n": {"$ne": 1}}, "missing": "include"}).body["ids"] == ["b", "c"]


def test_null_among_the_metadata_of_a_new_record_is_left_out(wire: Wire, path: str) -> None:
    """Clients for JavaScript send it; up to 1.8.1 they don't raise when such an addition is refused."""
    metadatas = [{"n": 4, "gone": None}, {"gone": None}, {}, None]
    body = {"ids": ["d", "e", "f", "g"], "embeddings": [[1, 0]] * 4, "metadatas": metadatas}
    assert post(wire, path + "/add", body).body is True
    found = post(wire, path + "/get", {"ids": ["d", "e", "f", "g"], "include": ["metadatas"]}).body
    assert found["metadatas"] == [{"n": 4}, None, None, None]


@pytest.mark.parametrize("metadatas", [{}, "x", [1], [[]]], ids=str)
def test_metadata_that_is_none_is_refused_as_ever(wire: Wire, path: str, metadatas: Any) -> None:
    answer = post(wire, path + "/add", {"ids": ["d"], "embeddings": [[1, 0]], "metadatas": metadatas})
    assert (answer.status, answer.refusal[1]) == (422, "ChromaError")
    assert wire.call("GET", path + "/count").body == 3


@pytest.mark.parametrize("verb", ["update", "upsert", "delete"])
def test_writes_are_answered_by_null(wire: Wire, path: str, verb: str) -> None:
    body = {"ids": ["a"], "where": {}, "where_document": {}, "embeddings": [[2, 2]]}
    answer = post(wire, f"{path}/{verb}/", body)
    assert (answer.status, answer.body) == (200, None)
    assert wire.call("GET", path + "/count").body == (2 if verb == "delete" else 3)


@pytest.mark.parametrize(
    "body", [{}, {"where": {}, "where_document": {}}, {"ids": None, "where": None}, {"ids": [], "where": {}}], ids=str
)
def test_deletion_of_nothing_in_particular_is_refused(wire: Wire, path: str, body: dict[str, Any]) -> None:
    status, error, message = post(wire, path + "/delete", body).refusal
    assert (status, error) == (400, "InvalidArgumentError")
    assert message.startswith("You must provide either ids, where, or where_document to delete.")
    assert wire.call("GET", path + "/count").body == 3


@pytest.mark.parametrize("unknown", ["/nowhere", "/collections/a/b/c", "/heartbeat/now"])
def test_unknown_route_is_told_as_it_was_then(wire: Wire, unknown: str) -> None:
    for method in ("GET", "POST"):
        answer = wire.call(method, V1 + unknown)
        assert (answer.status, answer.body) == (404, {"detail": "Not Found"})


def test_tenants_and_databases_stand_in_the_query_string(wire: Wire) -> None:
    tenant, database = unique_name("tenant"), unique_name("database")
    assert wire.call("POST", V1 + "/tenants", {"name": tenant}).body is None
    assert wire.call("GET", f"{V1}/tenants/{tenant}").body == {"name": tenant}
    assert wire.call("POST", V1 + "/databases", {"name": database}, params={"tenant": tenant}).body is None
    found = wire.call("GET", f"{V1}/databases/{database}", params={"tenant": tenant}).body
    assert (found["name"], found["tenant"]) == (database, tenant)
    place = {"tenant": tenant, "database": database}
    wire.call("POST", V1 + "/collections", {"name": "abc"}, params=place)
    assert wire.call("GET", V1 + "/count_collections", params=place).body == 1
    assert wire.call("GET", V1 + "/collections/abc", params=place).body["database"] == database
    assert wire.call("DELETE", V1 + "/collections/abc", params=place).body is None
    assert wire.call("GET", V1 + "/count_collections", params=place).body == 0


def test_refusals_bear_the_names_that_old_clients_know(wire: Wire, path: str) -> None:
    name = create(wire)["name"]
    again = wire.call("POST", V1 + "/collections", {"name": name}).refusal
    assert again == (409, "UniqueConstraintError", f"Collection [{name}] already exists")
    missing = wire.call("GET", V1 + "/collections/nowhere").refusal
    assert missing == (400, "InvalidCollection", "Collection [nowhere] does not exist")
    absent = wire.call("GET", f"{V1}/collections/{ABSENT_UUID}/count").refusal
    assert absent[:2] == (400, "InvalidCollection")
    assert post(wire, path + "/query", {"query_embeddings": [[1]]}).refusal[:2] == (400, "InvalidDimension")
    no_uuid = wire.call("GET", f"{V1}/collections/nowhere/count").refusal
    assert no_uuid == (400, "InvalidUUID", "Could not parse nowhere as a UUID")
    assert wire.call("GET", V1 + "/tenants/nowhere").refusal[:2] == (404, "NotFoundError")
