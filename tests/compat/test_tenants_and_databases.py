"""Tenants and databases, through the admin client and on the wire."""

from __future__ import annotations

from collections.abc import Iterator

import chromadb
import pytest
from chromadb.api import AdminAPI, ClientAPI
from chromadb.errors import ChromaError, InvalidArgumentError, NotFoundError
from tests.compat.wire import TENANT, Wire, unique_name

NAME_RULE = (
    "Expected a name containing 3-512 characters from [a-zA-Z0-9._-], "
    "starting and ending with a character in [a-zA-Z0-9]. Got: "
)


@pytest.fixture
def admin(server_url: str, settings: chromadb.Settings) -> AdminAPI:
    address = server_url.removeprefix("http://").split(":")
    remote = settings.model_copy(
        update={
            "chroma_api_impl": "chromadb.api.fastapi.FastAPI",
            "chroma_server_host": address[0],
            "chroma_server_http_port": int(address[1]),
        }
    )
    return chromadb.AdminClient(remote)


@pytest.fixture
def tenant(admin: AdminAPI) -> str:
    name = unique_name("tenant")
    admin.create_tenant(name)
    return name


def test_created_tenant_can_be_read(admin: AdminAPI, tenant: str) -> None:
    assert admin.get_tenant(tenant)["name"] == tenant


def test_creating_a_tenant_twice_is_a_conflict(admin: AdminAPI, tenant: str, wire: Wire) -> None:
    with pytest.raises(ChromaError, match="already exists"):
        admin.create_tenant(tenant)
    refusal = wire.call("POST", "/api/v2/tenants", {"name": tenant}).refusal
    assert refusal == (409, "ChromaError", f"Tenant [{tenant}] already exists")


def test_missing_tenant_is_not_found(admin: AdminAPI) -> None:
    with pytest.raises(NotFoundError, match=r"Tenant \[.*\] not found"):
        admin.get_tenant(unique_name())


def test_tenant_name_of_two_characters_is_refused(wire: Wire) -> None:
    status, error, message = wire.call("POST", "/api/v2/tenants", {"name": "ab"}).refusal
    assert (status, error) == (400, "InvalidArgumentError")
    assert message.startswith("Validation error: name: ")


def test_tenant_name_may_hold_spaces_and_any_script(wire: Wire) -> None:
    name = unique_name("mieter größe 名")
    assert wire.call("POST", "/api/v2/tenants", {"name": name}).body == {}
    assert wire.call("GET", f"/api/v2/tenants/{name}").body["name"] == name


def test_tenant_without_a_name_is_unprocessable(wire: Wire) -> None:
    status, error, message = wire.call("POST", "/api/v2/tenants", {}).refusal
    assert (status, error) == (422, "ChromaError")
    assert "missing field `name`" in message


def test_tenants_cannot_be_deleted(wire: Wire) -> None:
    answer = wire.call("DELETE", TENANT)
    assert (answer.status, answer.text) == (405, "")


def test_databases_are_created_read_listed_by_name_and_deleted(admin: AdminAPI, tenant: str) -> None:
    for name in ("middle", "Zeta", "alpha"):
        admin.create_database(name, tenant)
    assert admin.get_database("alpha", tenant)["tenant"] == tenant
    assert [database["name"] for database in admin.list_databases(tenant=tenant)] == ["Zeta", "alpha", "middle"]
    page = admin.list_databases(limit=1, offset=1, tenant=tenant)
    assert [database["name"] for database in page] == ["alpha"]
    admin.delete_database("alpha", tenant)
    with pytest.raises(NotFoundError, match=r"Database \[alpha\] not found"):
        admin.get_database("alpha", tenant)


def test_databases_of_a_missing_tenant_are_an_empty_list(wire: Wire) -> None:
    assert wire.call("GET", f"/api/v2/tenants/{unique_name()}/databases").body == []


def test_creating_a_database_twice_is_a_conflict(wire: Wire, tenant: str) -> None:
    databases = f"/api/v2/tenants/{tenant}/databases"
    assert wire.call("POST", databases, {"name": "twice"}).body == {}
    refusal = wire.call("POST", databases, {"name": "twice"}).refusal
    assert refusal == (409, "ChromaError", "Database [twice] already exists")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ab", NAME_RULE + "ab"),
        ("a b c", NAME_RULE + "a b c"),
        ("a..b", "Expected a name that does not contains two consecutive periods (..). Got a..b"),
        ("10.0.0.1", "Expected a name that is not a valid ip address. Got 10.0.0.1"),
    ],
)
def test_database_names_follow_the_rules(wire: Wire, tenant: str, name: str, message: str) -> None:
    refusal = wire.call("POST", f"/api/v2/tenants/{tenant}/databases", {"name": name}).refusal
    assert refusal == (400, "InvalidArgumentError", message)


def test_missing_database_is_not_found(wire: Wire) -> None:
    get = wire.call("GET", TENANT + "/databases/nowhere").refusal
    assert get == (404, "NotFoundError", "Database [nowhere] not found. Are you sure it exists?")
    delete = wire.call("DELETE", TENANT + "/databases/nowhere").refusal
    assert delete == (404, "NotFoundError", "Database [nowhere] not found")


def test_database_name_below_three_characters_in_a_path_is_refused(wire: Wire) -> None:
    for path in ("", "/collections", "/collections_count"):
        refusal = wire.call("GET", f"{TENANT}/databases/ab{path}").refusal
        assert refusal == (400, "InvalidArgumentError", "database name must be at least 3 characters")


def test_missing_database_lists_nothing_and_takes_no_collections(wire: Wire) -> None:
    database = TENANT + "/databases/nowhere"
    assert wire.call("GET", database + "/collections").body == []
    assert wire.call("GET", database + "/collections_count").body == 0
    refusal = wire.call("POST", database + "/collections", {"name": "abc"}).refusal
    assert refusal == (400, "InvalidArgumentError", "Database [nowhere] does not exist")


def test_limit_that_is_no_number_is_refused(wire: Wire) -> None:
    refusal = wire.call("GET", TENANT + "/databases", params={"limit": "x"}).refusal
    message = "Failed to deserialize query string: limit: invalid digit found in string"
    assert refusal == (400, "InvalidArgumentError", message)


@pytest.fixture
def elsewhere(admin: AdminAPI, tenant: str, address: tuple[str, int], settings: chromadb.Settings) -> Iterator[ClientAPI]:
    """A client of another tenant and database."""
    admin.create_database("books", tenant)
    with chromadb.HttpClient(host=address[0], port=address[1], settings=settings, tenant=tenant, database="books") as client:
        yield client


def test_collections_of_different_databases_may_share_a_name(client: ClientAPI, elsewhere: ClientAPI) -> None:
    name = unique_name()
    here = client.create_collection(name, embedding_function=None)
    there = elsewhere.create_collection(name, embedding_function=None)
    there.add(ids=["a"], embeddings=[[1.0]])
    assert here.id != there.id
    assert (here.count(), there.count()) == (0, 1)
    assert there.database == "books"


def test_collection_of_another_database_is_not_found_by_id(client: ClientAPI, elsewhere: ClientAPI) -> None:
    there = elsewhere.create_collection("novels", embedding_function=None)
    assert elsewhere.get_collection_by_id(there.id, embedding_function=None).name == "novels"
    with pytest.raises(NotFoundError, match="does not exist"):
        client.get_collection_by_id(there.id, embedding_function=None)


def test_deleting_a_database_deletes_its_collections(admin: AdminAPI, elsewhere: ClientAPI, tenant: str) -> None:
    novels = elsewhere.create_collection("novels", embedding_function=None)
    novels.add(ids=["a"], embeddings=[[1.0]])
    admin.delete_database("books", tenant)
    with pytest.raises(NotFoundError, match="does not exist"):
        novels.count()


def test_set_database_moves_the_client(admin: AdminAPI, elsewhere: ClientAPI, tenant: str) -> None:
    admin.create_database("films", tenant)
    elsewhere.set_database("films")
    assert elsewhere.count_collections() == 0
    with pytest.raises((NotFoundError, InvalidArgumentError, ValueError)):
        elsewhere.set_database("nowhere")
