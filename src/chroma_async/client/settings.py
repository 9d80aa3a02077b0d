"""What a client may be told beside its constructor's arguments, under Chroma's names."""

from __future__ import annotations

import base64
import difflib
from dataclasses import dataclass, field, fields
from typing import Any, Final

from chroma_async.settings import setting

API_PATH: Final = "/api/v2"

WITHOUT_EFFECT: Final = frozenset(
    {
        "anonymized_telemetry",
        "chroma_async_rate_limit_enforcer_impl",
        "chroma_client_auth_credentials_provider",
        "chroma_client_auth_protocol_adapter",
        "chroma_collection_assignment_policy_impl",
        "chroma_consumer_impl",
        "chroma_coordinator_host",
        "chroma_executor_impl",
        "chroma_logservice_host",
        "chroma_logservice_port",
        "chroma_logservice_request_timeout_seconds",
        "chroma_memberlist_provider_impl",
        "chroma_memory_limit_bytes",
        "chroma_otel_collection_endpoint",
        "chroma_otel_collection_headers",
        "chroma_otel_granularity",
        "chroma_otel_service_name",
        "chroma_producer_impl",
        "chroma_product_telemetry_impl",
        "chroma_query_replication_factor",
        "chroma_query_request_timeout_seconds",
        "chroma_quota_enforcer_impl",
        "chroma_quota_provider_impl",
        "chroma_rate_limit_enforcer_impl",
        "chroma_rate_limiting_provider_impl",
        "chroma_segment_cache_policy",
        "chroma_segment_directory_impl",
        "chroma_segment_directory_routing_mode",
        "chroma_segment_manager_impl",
        "chroma_server_auth_ignore_paths",
        "chroma_server_authn_credentials",
        "chroma_server_authn_credentials_file",
        "chroma_server_authn_provider",
        "chroma_server_authz_config",
        "chroma_server_authz_config_file",
        "chroma_server_authz_provider",
        "chroma_server_cors_allow_origins",
        "chroma_server_grpc_port",
        "chroma_server_nofile",
        "chroma_server_thread_pool_size",
        "chroma_sysdb_impl",
        "chroma_sysdb_request_timeout_seconds",
        "chroma_telemetry_impl",
        "environment",
        "migrations",
        "migrations_hash_algorithm",
        "tenant_id",
        "topic_namespace",
        "worker_memberlist_name",
    }
)
"""Settings of Chroma that are accepted, so that code for Chroma runs, and change nothing here; those of its server too."""

TOKEN_PROVIDERS: Final = (
    "token",
    "chromadb.auth.token_authn.TokenAuthClientProvider",
    "chromadb.auth.token.TokenAuthClientProvider",
)
BASIC_PROVIDERS: Final = (
    "basic",
    "chromadb.auth.basic_authn.BasicAuthClientProvider",
    "chromadb.auth.basic.BasicAuthClientProvider",
)
"""Short names, and Chroma's class paths: of today, and of 0.4."""

OLD_NAMES: Final = {"chroma_client_auth_token_transport_header": "chroma_auth_token_transport_header"}
"""What Chroma 0.4 called a setting, and what it is called today."""


def _no_headers() -> dict[str, str]:
    return {}


@dataclass
class _Fields:
    chroma_server_host: str | None = setting(None, "host of the server, as in `HttpClient(host=...)`")
    chroma_server_http_port: int | None = setting(None, "port of the server")
    chroma_server_ssl_enabled: bool = setting(False, "whether to speak https")
    chroma_server_ssl_verify: bool | str | None = setting(None, "false: accept any certificate; a path: trust that CA")
    chroma_server_headers: dict[str, str] | None = field(
        default_factory=_no_headers, metadata={"help": "headers sent with every request"}
    )
    chroma_server_api_default_path: str = setting(API_PATH, "path of the API; only /api/v2 is spoken")
    chroma_http_keepalive_secs: float | None = setting(40.0, "seconds for which an idle connection is kept")
    chroma_http_max_connections: int | None = setting(None, "connections to the server at once")
    chroma_http_max_keepalive_connections: int | None = setting(None, "idle connections that are kept")
    chroma_client_auth_provider: str | None = setting(None, "'token' or 'basic', or Chroma's class path of these")
    chroma_client_auth_credentials: str | None = setting(None, "the token, or user:password")
    chroma_auth_token_transport_header: str | None = setting(None, "Authorization (default) or X-Chroma-Token")
    chroma_overwrite_singleton_tenant_database_access_from_auth: bool = setting(
        False, "take tenant and database from the server's answer about the user"
    )
    allow_reset: bool = setting(False, "whether reset() of an embedded client is allowed")
    chroma_api_impl: str | None = setting(None, "Chroma's class path of the client; one of HTTP needs chroma_server_host")
    chroma_db_impl: str | None = setting(None, "refused: of Chroma before 0.4")
    is_persistent: bool = setting(False, "whether `Client(settings)` keeps its data in persist_directory")
    persist_directory: str = setting("./chroma", "directory of `Client(settings)` when is_persistent")


KNOWN: Final = WITHOUT_EFFECT | {entry.name for entry in fields(_Fields)}


class Settings(_Fields):
    """Settings under Chroma's names, `Settings(allow_reset=True, chroma_client_auth_provider="token", ...)`.

    Settings of Chroma that concern only its own inside, such as telemetry, are accepted and change nothing; they are read as
    they were given, else as None. The process environment and `.env` files are not read.

    Raises:
        ValueError: a name that neither Chroma nor we know; the message names the nearest known one. Or a database of Chroma
            before 0.4, which would be kept nowhere.
    """

    def __init__(self, **values: Any) -> None:
        super().__init__()
        for name, value in values.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """Change a setting, for clients that are made afterwards.

        Raises:
            ValueError: as for the constructor.
        """
        name = OLD_NAMES.get(name, name)
        if name not in KNOWN:
            nearest = difflib.get_close_matches(name, sorted(KNOWN), n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else "; see chroma_async.Settings for the known ones"
            raise ValueError(f"unknown setting {name}{hint}")
        if name == "chroma_db_impl" and value is not None:
            raise ValueError(
                "chroma_db_impl is of Chroma before 0.4; use PersistentClient(path), or is_persistent with persist_directory"
            )
        self.__dict__[name] = value

    def __getattr__(self, name: str) -> Any:
        if name in OLD_NAMES:
            return getattr(self, OLD_NAMES[name])
        if name in WITHOUT_EFFECT:
            return self.__dict__.get(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getitem__(self, name: str) -> Any:
        """Return a setting by its name, as Chroma's components read them."""
        return getattr(self, name)

    def require(self, name: str) -> Any:
        """Return a setting that must be there.

        Raises:
            ValueError: it is None.
        """
        value = self[name]
        if value is None:
            raise ValueError(f"the setting {name} is needed")
        return value

    @property
    def means_http(self) -> bool:
        """Whether a client of a server is asked for, named or not."""
        return self.chroma_server_host is not None or (self.chroma_api_impl or "").lower().endswith(("fastapi", "rest"))


def request_headers(
    settings: Settings,
    headers: dict[str, str] | None,
    auth: tuple[str, str] | None = None,
    token: str | None = None,
) -> dict[str, str]:
    """Return the headers of every request: the settings', those that authenticate, and the constructor's.

    A header that is given twice is sent once, as it was given last: servers refuse two credentials.

    Raises:
        ValueError: an authentication provider that is not known, one without credentials, credentials that no header can
            carry, or credentials in two places.
    """
    chosen = _authentication(settings, auth, token)
    given = {name.lower() for name in headers or {}}
    if (auth is not None or token is not None) and given & {name.lower() for name in chosen}:
        raise ValueError("credentials are given twice: as auth or token, and in headers; leave one of them out")
    merged: dict[str, tuple[str, str]] = {}
    for source in (settings.chroma_server_headers or {}, chosen, headers or {}):
        merged.update({name.lower(): (name, value) for name, value in source.items()})
    return dict(merged.values())


def _authentication(settings: Settings, auth: tuple[str, str] | None, token: str | None) -> dict[str, str]:
    provider, credentials = settings.chroma_client_auth_provider, settings.chroma_client_auth_credentials
    if (auth is not None) + (token is not None) + (provider is not None) > 1:
        raise ValueError("give one of auth, token, and chroma_client_auth_provider in the settings")
    if auth is not None:
        return _basic(*auth)
    if token is not None:
        return _token_header(settings.chroma_auth_token_transport_header, token)
    if provider is None:
        return {}
    if not credentials:
        raise ValueError("chroma_client_auth_provider needs chroma_client_auth_credentials: a token, or user:password")
    if provider in BASIC_PROVIDERS:
        return _basic(*_user_and_password(credentials))
    if provider in TOKEN_PROVIDERS:
        return _token_header(settings.chroma_auth_token_transport_header, credentials)
    raise ValueError(f"unknown chroma_client_auth_provider; use 'token' or 'basic'. got={provider!r}")


def _user_and_password(credentials: str) -> tuple[str, str]:
    user, colon, password = credentials.partition(":")
    if not colon:
        raise ValueError("chroma_client_auth_credentials must be user:password for the provider 'basic'")
    return user, password


def _basic(user: str, password: str) -> dict[str, str]:
    if ":" in user:
        raise ValueError(f"the user's name must not have a colon (RFC 7617). user={user!r}")
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode('ascii')}"}


def _token_header(header: str | None, token: str) -> dict[str, str]:
    if not token or not all("!" <= character <= "~" for character in token):
        raise ValueError("Invalid token. Must contain only ASCII letters, digits, and punctuation.")
    wanted = "authorization" if header is None else str.__str__(header).lower().replace("_", "-")
    if wanted == "authorization":
        return {"Authorization": f"Bearer {token}"}
    if wanted == "x-chroma-token":
        return {"X-Chroma-Token": token}
    raise ValueError(f"chroma_auth_token_transport_header must be Authorization or X-Chroma-Token. got={header!r}")
