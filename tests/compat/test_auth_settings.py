"""Servers that are told by Chroma's own variables, of 0.4 and of 0.5, and clients that are told by Chroma's settings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chromadb
import httpx
import pytest
from chromadb.config import Settings as ChromaSettings
from tests.compat.servers import our_server
from tests.unit.test_server_start import assert_one_line

import chroma_async
from chroma_async import errors
from chroma_async.server.auth.basic import htpasswd_line
from chroma_async.server.auth.chroma import parse_chroma_roles, parse_chroma_tokens, settings_from_environment
from chroma_async.server.auth.lines import token_line
from chroma_async.server.auth.provider import AuthConfigError

USERS = """\
users:
  - id: admin
    role: admin
    tenant: default_tenant
    databases: ["*"]
    tokens: ["test-token-admin", "test-token-admin-2"]
  - id: viewer
    role: viewer
    tenant: default_tenant
    databases: ["default_database"]
    tokens:
      - token: "test-token-viewer"
  - id: stranger
    role: admin
    tenant: elsewhere
    tokens: ["test-token-stranger"]
"""
ROLES = (
    """\
roles_mapping:
  admin:
    actions:
      ["db:create_collection", "db:get_or_create_collection", "db:list_collections", "db:count_collections",
       "collection:get_collection", "collection:delete_collection", "collection:update_collection", "collection:add",
       "collection:get", "collection:count", "collection:query", "collection:delete", "collection:update",
       "collection:upsert", "tenant:create_tenant", "tenant:get_tenant", "db:create_database", "db:get_database",
       "system:reset"]
  viewer:
    actions: ["tenant:get_tenant", "db:get_database", "db:list_collections", "collection:get_collection",
              "collection:get", "collection:count", "collection:query"]
"""
    + USERS
)

OLD_BASIC = {
    "CHROMA_SERVER_AUTH_PROVIDER": "chromadb.auth.basic.BasicAuthServerProvider",
    "CHROMA_SERVER_AUTH_CREDENTIALS_PROVIDER": "chromadb.auth.providers.HtpasswdFileServerAuthCredentialsProvider",
    "CHROMA_SERVER_AUTH_CREDENTIALS_FILE": "{users}",
}
NEW_BASIC = {
    "CHROMA_SERVER_AUTHN_PROVIDER": "chromadb.auth.basic_authn.BasicAuthenticationServerProvider",
    "CHROMA_SERVER_AUTHN_CREDENTIALS_FILE": "{users}",
}
OLD_TOKEN = {
    "CHROMA_SERVER_AUTH_PROVIDER": "chromadb.auth.token.TokenAuthServerProvider",
    "CHROMA_SERVER_AUTH_CREDENTIALS_PROVIDER": "chromadb.auth.token.TokenConfigServerAuthCredentialsProvider",
    "CHROMA_SERVER_AUTH_CREDENTIALS": "test-token",
}
NEW_TOKEN = {
    "CHROMA_SERVER_AUTHN_PROVIDER": "chromadb.auth.token_authn.TokenAuthenticationServerProvider",
    "CHROMA_SERVER_AUTHN_CREDENTIALS": "test-token",
}
OLD_USERS = {
    "CHROMA_SERVER_AUTH_PROVIDER": "token",
    "CHROMA_SERVER_AUTH_CREDENTIALS_PROVIDER": "user_token_config",
    "CHROMA_SERVER_AUTH_CREDENTIALS_FILE": "{tokens}",
    "CHROMA_SERVER_AUTHZ_PROVIDER": "chromadb.auth.authz.SimpleRBACAuthorizationProvider",
    "CHROMA_SERVER_AUTHZ_CONFIG_PROVIDER": "chromadb.auth.authz.LocalUserConfigAuthorizationConfigurationProvider",
    "CHROMA_SERVER_AUTHZ_CONFIG_FILE": "{roles}",
}
NEW_USERS = {
    "chroma_server_authn_provider": "chromadb.auth.token_authn.TokenAuthenticationServerProvider",
    "CHROMA_SERVER_AUTHN_CREDENTIALS_FILE": "{tokens}",
    "CHROMA_SERVER_AUTHZ_PROVIDER": "chromadb.auth.simple_rbac_authz.SimpleRBACAuthorizationProvider",
    "CHROMA_SERVER_AUTHZ_CONFIG_FILE": "{roles}",
}


def filled(variables: dict[str, str], directory: Path) -> dict[str, str]:
    files = {
        "users": (directory / "users", htpasswd_line("admin", "admin", 5)),
        "tokens": (directory / "tokens.yaml", USERS),
        "roles": (directory / "roles.yaml", ROLES),
    }
    for path, text in files.values():
        path.write_text(text)
    paths = {name: str(path) for name, (path, _) in files.items()}
    return {name: value.format_map(paths) if value.startswith("{") else value for name, value in variables.items()}


@contextmanager
def server_with(directory: Path, variables: dict[str, str]) -> Iterator[str]:
    with our_server(directory, workers=1, environment=filled(variables, directory)) as url:
        yield url


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def chroma_client(url: str, **settings: Any) -> Any:
    return chromadb.HttpClient(
        host="127.0.0.1", port=port_of(url), settings=ChromaSettings(anonymized_telemetry=False, **settings)
    )


def journey(client: Any) -> None:
    """What every client does first: list, make, write, read."""
    assert client.heartbeat() > 0
    collection = client.get_or_create_collection("journey", embedding_function=None)
    collection.upsert(ids=["a"], embeddings=[[1.0, 2.0]], documents=["one"])
    assert collection.get()["documents"] == ["one"]
    assert [item.name for item in client.list_collections()] == ["journey"]


@pytest.mark.parametrize("variables", [OLD_BASIC, NEW_BASIC], ids=["0.4", "0.5"])
def test_basic_credentials_of_chromas_variables_and_settings(tmp_path: Path, variables: dict[str, str]) -> None:
    basic = "chromadb.auth.basic_authn.BasicAuthClientProvider"
    with server_with(tmp_path, variables) as url:
        journey(chroma_client(url, chroma_client_auth_provider=basic, chroma_client_auth_credentials="admin:admin"))
        with pytest.raises(Exception, match="wrong credentials"):
            chroma_client(url, chroma_client_auth_provider=basic, chroma_client_auth_credentials="admin:no")
        with pytest.raises(Exception, match="no credentials"):
            chroma_client(url)
        for provider in (basic, "chromadb.auth.basic.BasicAuthClientProvider", "basic"):
            settings = chroma_async.Settings(
                chroma_client_auth_provider=provider, chroma_client_auth_credentials="admin:admin"
            )
            with chroma_async.HttpClient("127.0.0.1", port_of(url), settings=settings) as client:
                journey(client)
        with chroma_async.HttpClient("127.0.0.1", port_of(url), auth=("admin", "admin")) as client:
            journey(client)
        with (
            pytest.raises(errors.AuthorizationError, match="wrong credentials"),
            chroma_async.HttpClient("127.0.0.1", port_of(url), auth=("admin", "wrong")) as client,
        ):
            client.list_collections()


@pytest.mark.parametrize("header", [None, "Authorization", "X-Chroma-Token"])
@pytest.mark.parametrize("generation", ["0.4", "0.5"])
def test_one_token_of_chromas_variables_and_settings(tmp_path: Path, generation: str, header: str | None) -> None:
    variables = dict(OLD_TOKEN if generation == "0.4" else NEW_TOKEN)
    if header is not None and generation == "0.4":
        variables["CHROMA_SERVER_AUTH_TOKEN_TRANSPORT_HEADER"] = header.upper().replace("-", "_")
    elif header is not None:
        variables["CHROMA_AUTH_TOKEN_TRANSPORT_HEADER"] = header
    token = {
        "chroma_client_auth_provider": "chromadb.auth.token_authn.TokenAuthClientProvider",
        "chroma_client_auth_credentials": "test-token",
        "chroma_auth_token_transport_header": header,
    }
    with server_with(tmp_path, variables) as url:
        journey(chroma_client(url, **token))
        with chroma_async.HttpClient("127.0.0.1", port_of(url), settings=chroma_async.Settings(**token)) as client:
            journey(client)
        with pytest.raises(Exception, match="wrong credentials"):
            chroma_client(url, **{**token, "chroma_client_auth_credentials": "test-tokem"})
        other = {"X-Chroma-Token": "test-token"} if header != "X-Chroma-Token" else {"Authorization": "Bearer test-token"}
        assert httpx.get(f"{url}/api/v2/auth/identity", headers=other).status_code == 401
        assert httpx.get(f"{url}/api/v1/heartbeat").status_code == 200
        old = httpx.get(f"{url}/api/v1/collections")
        assert (old.status_code, old.json()["error"]) == (401, "AuthorizationError")


@pytest.mark.parametrize("variables", [OLD_USERS, NEW_USERS], ids=["0.4", "0.5"])
def test_users_and_roles_of_chromas_files(tmp_path: Path, variables: dict[str, str]) -> None:
    with server_with(tmp_path, variables) as url:
        admin = chroma_async.HttpClient("127.0.0.1", port_of(url), token="test-token-admin-2")
        journey(admin)
        viewer = chroma_async.HttpClient("127.0.0.1", port_of(url), token="test-token-viewer")
        assert viewer.get_collection("journey").count() == 1
        assert viewer.get_user_identity().user_id == "viewer"
        with pytest.raises(errors.ChromaAuthError, match="collection:upsert"):
            viewer.get_collection("journey").upsert(ids=["b"], embeddings=[[1.0, 2.0]])
        with pytest.raises(errors.ChromaAuthError, match="db:create_collection"):
            viewer.create_collection("mine", embedding_function=None)
        with pytest.raises(errors.ChromaAuthError):
            chroma_async.HttpClient("127.0.0.1", port_of(url), token="test-token-stranger")
        admin.close()
        viewer.close()


def test_clients_take_tenant_and_database_from_who_they_are(tmp_path: Path) -> None:
    token = "a-token-for-one-database"
    tokens = tmp_path / "tokens.jsonl"
    root = token_line("root", "a-token-for-everything-there-is", "admin")
    tokens.write_text(token_line("team", token, "write", tenants=["acme"], databases=["films"]) + "\n" + root)
    with our_server(tmp_path, "--auth-token-file", str(tokens), workers=1) as url:
        as_root = httpx.Client(base_url=url, headers={"X-Chroma-Token": "a-token-for-everything-there-is"})
        as_root.post("/api/v2/tenants", json={"name": "acme"}).raise_for_status()
        as_root.post("/api/v2/tenants/acme/databases", json={"name": "films"}).raise_for_status()
        as_root.close()
        settings = {
            "chroma_client_auth_provider": "chromadb.auth.token_authn.TokenAuthClientProvider",
            "chroma_client_auth_credentials": token,
            "chroma_overwrite_singleton_tenant_database_access_from_auth": True,
        }
        theirs = chroma_client(url, **settings)
        assert (theirs.tenant, theirs.database) == ("acme", "films")
        journey(theirs)
        with chroma_async.HttpClient("127.0.0.1", port_of(url), settings=chroma_async.Settings(**settings)) as ours:
            journey(ours)
            assert (ours.tenant, ours.database) == ("acme", "films")
            identity = ours.get_user_identity()
            assert (identity.user_id, identity.tenant, identity.databases) == ("team", "acme", ["films"])
        with pytest.raises(Exception, match="not allowed"):
            chroma_client(url, **{**settings, "chroma_overwrite_singleton_tenant_database_access_from_auth": False})

        async def asynchronously() -> None:
            async with chroma_async.AsyncHttpClient(
                "127.0.0.1", port_of(url), token=token, tenant="acme", database="films"
            ) as client:
                assert await client.count_collections() == 1
            unconnected = chroma_async.AsyncHttpClient("127.0.0.1", port_of(url), settings=chroma_async.Settings(**settings))
            try:
                assert await unconnected.count_collections() == 1
                assert (unconnected.tenant, unconnected.database) == ("acme", "films")
            finally:
                await unconnected.aclose()

        asyncio.run(asynchronously())


# ---- variables that can't be followed


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"CHROMA_SERVER_AUTHN_PROVIDERS": "x"}, ["CHROMA_SERVER_AUTHN_PROVIDERS", "correct or remove"]),
        ({"chroma_server_authentication": "on"}, ["CHROMA_SERVER_AUTHENTICATION"]),
        ({"CHROMA_ASYNC_AUTH_BASIC_FLIE": "x"}, ["CHROMA_ASYNC_AUTH_BASIC_FLIE"]),
        ({"CHROMA_SERVER_AUTH_CONFIGURATION_FILE": "x"}, ["never had an effect"]),
        ({"CHROMA_SERVER_AUTHN_CREDENTIALS": "tok"}, ["CHROMA_SERVER_AUTHN_PROVIDER is missing"]),
        ({**NEW_TOKEN, "CHROMA_SERVER_AUTH_PROVIDER": "token"}, ["0.4", "0.5"]),
        ({**NEW_TOKEN, "CHROMA_SERVER_AUTHN_PROVIDER": "my.own.Provider"}, ["must be one of", "my.own.Provider"]),
        ({**NEW_TOKEN, "CHROMA_SERVER_AUTHN_CREDENTIALS_FILE": "x"}, ["set one of"]),
        ({**NEW_TOKEN, "CHROMA_SERVER_AUTHN_CREDENTIALS": "tökén"}, ["ASCII"]),
        ({**NEW_TOKEN, "CHROMA_AUTH_TOKEN_TRANSPORT_HEADER": "Cookie"}, ["X-Chroma-Token", "Cookie"]),
        ({**NEW_TOKEN, "CHROMA_SERVER_AUTHZ_CONFIG_FILE": "x"}, ["CHROMA_SERVER_AUTHZ_PROVIDER is missing"]),
        ({**NEW_TOKEN, "CHROMA_SERVER_AUTHZ_PROVIDER": "simple_rbac"}, ["CHROMA_SERVER_AUTHZ_CONFIG_FILE"]),
        ({**OLD_TOKEN, "CHROMA_SERVER_AUTH_CREDENTIALS_PROVIDER": "htpasswd_file"}, ["not for the provider"]),
        ({**OLD_BASIC, "CHROMA_SERVER_AUTH_CREDENTIALS_FILE": ""}, ["CHROMA_SERVER_AUTH_CREDENTIALS_FILE is missing"]),
        ({**OLD_TOKEN, "CHROMA_SERVER_AUTH_IGNORE_PATHS": '{"/api/v1/collections": ["GET"]}'}, ["/api/v1/collections"]),
        ({**OLD_TOKEN, "CHROMA_SERVER_AUTH_IGNORE_PATHS": "x"}, ["JSON"]),
    ],
)
def test_variables_that_cannot_be_followed_are_refused(variables: dict[str, str], words: list[str]) -> None:
    with pytest.raises((AuthConfigError, ValueError)) as caught:
        settings_from_environment(variables, ["CHROMA_ASYNC_AUTH_BASIC_FILE"])
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "test-token" not in str(caught.value)


def test_variables_of_clients_and_of_others_ask_for_nothing() -> None:
    variables = {
        "CHROMA_CLIENT_AUTH_PROVIDER": "token",
        "CHROMA_CLIENT_AUTH_CREDENTIALS": "x",
        "CHROMA_SERVER_HOST": "x",
        "GITHUB_AUTH": "x",
        "CHROMA_SERVER_AUTHN_PROVIDER": "",
        "CHROMA_ASYNC_AUTH_BASIC_FILE": "x",
    }
    assert settings_from_environment(variables, ["CHROMA_ASYNC_AUTH_BASIC_FILE"]) is None


def test_default_public_paths_of_chroma_are_accepted() -> None:
    paths = {"/api/v1": ["GET"], "/api/v1/heartbeat": ["GET"], "/api/v1/version": ["GET"], "/api/v2": ["GET"]}
    assert settings_from_environment({**OLD_TOKEN, "CHROMA_SERVER_AUTH_IGNORE_PATHS": json.dumps(paths)}) is not None


def test_settings_hold_no_token() -> None:
    for variables in (OLD_TOKEN, NEW_TOKEN, {**NEW_TOKEN, "CHROMA_SERVER_AUTHN_CREDENTIALS": USERS}):
        assert "test-token" not in repr(settings_from_environment(variables))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("users:\n  - [", "not YAML"),
        ("users: []\nx: 1", "users"),
        ("users:\n  - tokens: [a]", "id"),
        ("users:\n  - id: a", "tokens"),
        ("users:\n  - id: a\n    tokens: [7]", "quotes"),
        ("users:\n  - id: a\n    tokens: [a b]", "ASCII"),
        ("users:\n  - id: a\n    tokens: [same]\n  - id: b\n    tokens: [same]", "two users"),
        ("users:\n  - id: a\n    tenant: 7\n    tokens: [a]", "tenant"),
        ("two words", "ASCII"),
        ('!!python/object/apply:os.system ["true"]\nx: 1', "not YAML"),
    ],
)
def test_files_of_tokens_that_cannot_be_followed_are_refused(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse_chroma_tokens(text, by_roles=False)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("users: []", "roles_mapping"),
        ("roles_mapping: {r: {actions: [db:fly]}}\nusers: []", "db:fly"),
        ("roles_mapping: {r: {}}\nusers: []", "actions"),
        ("roles_mapping: {r: {actions: []}}\nusers: [{id: a, role: s}]", "not in roles_mapping"),
    ],
)
def test_files_of_roles_that_cannot_be_followed_are_refused(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse_chroma_roles(text)


def test_server_does_not_start_with_what_it_does_not_know(tmp_path: Path) -> None:
    from tests.auth.start import start_server

    result = start_server(tmp_path, environment={"CHROMA_SERVER_AUTHN_PROVIDERS": "x"})
    assert_one_line(result, 2, "CHROMA_SERVER_AUTHN_PROVIDERS")
    assert not (tmp_path / "data").exists()
