"""What a client does before its first record: connect, ask who it is, and learn the server's limits."""

from __future__ import annotations

import json
import time

import chromadb
import pytest
from chromadb.api import ClientAPI
from chromadb.errors import NotFoundError
from tests.compat.wire import TENANT, Wire, unique_name


def test_identity_names_the_default_tenant_and_database_and_nothing_unknown_to_clients(wire: Wire) -> None:
    identity = wire.call("GET", "/api/v2/auth/identity").body
    assert identity["tenant"] == "default_tenant"
    assert identity["databases"] == ["default_database"]
    assert set(identity) <= {"user_id", "tenant", "databases", "attributes"}


def test_default_tenant_and_database_exist_at_start(wire: Wire) -> None:
    assert wire.call("GET", TENANT).body == {"name": "default_tenant", "resource_name": None}
    database = wire.call("GET", TENANT + "/databases/default_database").body
    assert set(database) == {"id", "name", "tenant"}
    assert (database["name"], database["tenant"]) == ("default_database", "default_tenant")


def test_http_client_connects_and_reads_its_identity(client: ClientAPI) -> None:
    assert client.get_user_identity().tenant == "default_tenant"
    assert (client.tenant, client.database) == ("default_tenant", "default_database")


@pytest.mark.parametrize("missing", ["tenant", "database"])
def test_connecting_to_what_does_not_exist_is_a_not_found_error(
    missing: str, address: tuple[str, int], settings: chromadb.Settings
) -> None:
    with pytest.raises(NotFoundError, match="not found"):
        chromadb.HttpClient(host=address[0], port=address[1], settings=settings, **{missing: unique_name()})


@pytest.mark.parametrize("path", ["/api/v2", "/api/v2/heartbeat"])
def test_heartbeat_is_the_time_in_nanoseconds_under_a_key_with_a_space(wire: Wire, path: str) -> None:
    body = wire.call("GET", path).body
    assert set(body) == {"nanosecond heartbeat"}
    assert type(body["nanosecond heartbeat"]) is int
    assert abs(body["nanosecond heartbeat"] - time.time_ns()) < 60e9


def test_heartbeat_of_the_client_is_the_time_in_nanoseconds(client: ClientAPI) -> None:
    assert abs(client.heartbeat() - time.time_ns()) < 60e9


def test_version_is_a_json_string(wire: Wire, client: ClientAPI) -> None:
    answer = wire.call("GET", "/api/v2/version")
    assert isinstance(json.loads(answer.text), str)
    assert client.get_version() == answer.body


def test_pre_flight_checks_offer_base64_and_a_batch_at_least_as_large_as_the_reference(
    wire: Wire, client: ClientAPI
) -> None:
    checks = wire.call("GET", "/api/v2/pre-flight-checks").body
    assert checks["supports_base64_encoding"] is True
    assert checks["max_batch_size"] >= 5461
    assert client.get_max_batch_size() == checks["max_batch_size"]


def test_healthcheck_reports_readiness(wire: Wire) -> None:
    answer = wire.call("GET", "/api/v2/healthcheck")
    assert answer.status == 200
    assert answer.body["is_executor_ready"] is True
    assert answer.body["is_log_client_ready"] is True
