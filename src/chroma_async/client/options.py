"""From constructor arguments to what transports are made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chroma_async.client.address import API_PATHS, DEFAULT_HOST, DEFAULT_PORT, Address, parse_address
from chroma_async.client.checks import checked_name
from chroma_async.client.settings import Settings
from chroma_async.settings import EngineSettings

if TYPE_CHECKING:  # httpx is loaded when a client is made, not when it is imported
    from ssl import SSLContext

    import httpx

ANSWER_SECONDS: Final = 60.0
CONNECT_SECONDS: Final = 10.0
"""Seconds: 10 for a connection; 60 for each read and write, which slow embeddings or deletions of much data may need."""

MAX_CONNECTIONS: Final = 100
MAX_KEEPALIVE_CONNECTIONS: Final = 20


def server_address(host: str, port: int | str, ssl: bool, settings: Settings) -> Address:
    """Return the server's address; the settings count where an argument was left at its default.

    Raises:
        ValueError: a host that can't be understood, or an API path that we don't speak.
    """
    if settings.chroma_server_api_default_path not in API_PATHS[:1]:
        raise ValueError(
            "only the API at /api/v2 is spoken; a path prefix belongs into host, as in https://example.org/prefix. "
            f"chroma_server_api_default_path={settings.chroma_server_api_default_path!r}"
        )
    chosen_host = settings.chroma_server_host if host == DEFAULT_HOST and settings.chroma_server_host else host
    chosen_port = settings.chroma_server_http_port if int(port) == DEFAULT_PORT else port
    return parse_address(checked_name(chosen_host, "host"), chosen_port or port, ssl or settings.chroma_server_ssl_enabled)


def chosen_timeout(timeout: float | httpx.Timeout | None) -> httpx.Timeout:
    """Return the timeouts that a number of seconds means; None is the default, `httpx.Timeout(None)` waits forever."""
    import httpx

    if timeout is None:
        return httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    return timeout if isinstance(timeout, httpx.Timeout) else httpx.Timeout(timeout)


def chosen_limits(limits: httpx.Limits | None, settings: Settings) -> httpx.Limits:
    """Return how many connections there may be, and how long an idle one is kept."""
    import httpx

    if limits is not None:
        return limits
    return httpx.Limits(
        max_connections=settings.chroma_http_max_connections or MAX_CONNECTIONS,
        max_keepalive_connections=settings.chroma_http_max_keepalive_connections or MAX_KEEPALIVE_CONNECTIONS,
        keepalive_expiry=settings.chroma_http_keepalive_secs,
    )


def verification(settings: Settings) -> bool | SSLContext:
    """Return what httpx takes as `verify`.

    Raises:
        ValueError: `chroma_server_ssl_verify` is a path without certificates.
    """
    chosen = settings.chroma_server_ssl_verify
    if not isinstance(chosen, str):
        return chosen is not False
    from ssl import create_default_context

    try:
        return create_default_context(capath=chosen) if Path(chosen).is_dir() else create_default_context(cafile=chosen)
    except OSError as error:  # ssl.SSLError, too
        raise ValueError(f"no certificates there. chroma_server_ssl_verify={chosen!r} ({error})") from error


def engine_settings(settings: Settings, given: EngineSettings | None) -> EngineSettings:
    """Return the engine's settings; `allow_reset` counts wherever it is set."""
    engine = given or EngineSettings()
    return replace(engine, allow_reset=engine.allow_reset or settings.allow_reset)


def data_directory(path: str | Path) -> Path:
    """Return the directory of an embedded client, absolute, so that a later chdir changes nothing."""
    return Path(path).expanduser().absolute()
