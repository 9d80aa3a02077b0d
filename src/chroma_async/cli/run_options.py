"""The options of `run`, in the order in which its help shows them. Each but `--path`, `--log-retention` and
`--auth-token` is a setting, with the default and the help of that.

Each may come from the environment as well, by its own name: `--root-path` from `CHROMA_ASYNC_ROOT_PATH`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import click

from chroma_async.cli.console import Number, fail
from chroma_async.cli.retention import retention_option
from chroma_async.settings import (
    SERVED,
    AccessLogForm,
    AuthSettings,
    Durability,
    EngineSettings,
    HttpServer,
    LogLevel,
    Missing,
    ProxyHeaders,
    ServerSettings,
    TokenHeader,
)

F = TypeVar("F", bound=Callable[..., Any])
Settings = EngineSettings | ServerSettings | AuthSettings
Option = Callable[[F], F]

PREFIX: Final = "CHROMA_ASYNC_"

_PLAIN_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")


def run_options(command: F) -> F:
    """Add the options. Their values arrive under the names of the settings' fields."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def variable(option: click.Parameter) -> str:
    """The variable of an option in the environment."""
    return PREFIX + option.opts[0].removeprefix("--").replace("-", "_").upper()


def name_variables(run: click.Command) -> None:
    """Let each option of a command come from the environment."""
    for option in run.params:
        option.envvar = variable(option)


def chosen(kind: type[Settings], options: dict[str, Any]) -> dict[str, Any]:
    """The options that are settings of this kind."""
    return {entry.name: options[entry.name] for entry in fields(kind) if entry.name in options}


# ---- what values must be


def _root_path(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """A path without a slash at its end."""
    path = value.rstrip("/")
    if path and (not _PLAIN_PATH.fullmatch(path) or {".", ".."} & set(path.split("/"))):
        raise click.BadParameter(f"give a path such as /chroma, of letters, digits and -._~ . got={value!r}")
    return path


def _trusted(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    from chroma_async.server.peers import TrustedPeers

    try:
        TrustedPeers(value)
    except ValueError as error:
        fail(f"--trusted-proxy: {error}")
    return value


def _absolute(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    return None if value is None else os.path.abspath(value)


def _digests(context: click.Context, parameter: click.Parameter, token: str | None) -> tuple[str, ...] | None:
    """What is kept of a token."""
    if token is None:
        return None
    from chroma_async.server.auth.lines import check_token, digest_of

    try:
        check_token(token)
    except ValueError as error:
        fail(f"--auth-token: {error}")
    return (digest_of(token.encode()).hex(),)


# ---- the options


def _option_of(settings: Settings, name: str, flag: str = "", *, also: str = "", **details: Any) -> Option[Any]:
    """The option of a setting; `also` ends its help. Where it has several values, each has an option of its own."""
    help_text = next(entry.metadata["help"] for entry in fields(settings) if entry.name == name)
    default = getattr(settings, name)
    several = isinstance(default, tuple)
    told = "; ".join(filter(None, [help_text[0].upper() + help_text[1:], also, "repeatable" if several else ""]))
    flag = flag or f"--{name.replace('_', '-')}"
    given: dict[str, Any] = {"multiple": several, "help": f"{told}.", **details}
    if default is not None:  # click 8.3.0 and 8.3.1 ask for a value of `--access-log` where None is said to be the default
        given["default"] = default
    return click.option(flag, name, **given)


def _engine(name: str, flag: str = "", **details: Any) -> Option[Any]:
    return _option_of(SERVED, name, flag, **details)


def _server(name: str, flag: str = "", **details: Any) -> Option[Any]:
    return _option_of(ServerSettings(), name, flag, **details)


def _auth(name: str, flag: str = "", **details: Any) -> Option[Any]:
    return _option_of(AuthSettings(), name, flag or f"--auth-{name.replace('_', '-')}", **details)


_FILE: Final[dict[str, Any]] = {"metavar": "FILE", "callback": _absolute}

_OPTIONS: Final[tuple[Option[Any], ...]] = (
    click.option(
        "--path",
        type=click.Path(path_type=Path),
        default=Path("./chroma"),
        help="Data directory; created if it is not there.",
    ),
    _server("host"),
    _server("port", type=click.IntRange(0, 65535)),
    _server("workers", type=click.IntRange(1)),
    _server("http_server", "--server", type=click.Choice(get_args(HttpServer))),
    _engine("allow_reset", is_flag=True),
    _engine("allow_network_file_system", is_flag=True),
    _engine("durability", type=click.Choice(get_args(Durability))),
    _engine("sync_interval_seconds", "--sync-interval", type=Number(0.0, min_open=True)),
    retention_option,
    _engine("missing", type=click.Choice(get_args(Missing))),
    _auth("basic_file", **_FILE),
    _auth("token_file", **_FILE),
    click.option(
        "--auth-token",
        "token_digests",
        metavar="TOKEN",
        callback=_digests,
        help="One token; better given as CHROMA_ASYNC_AUTH_TOKEN, as others see options.",
    ),
    _auth("token_header", type=click.Choice(get_args(TokenHeader))),
    _auth("roles_file", **_FILE),
    _auth("jwt_jwks", metavar="FILE_OR_URL"),
    _auth("jwt_issuer"),
    _auth("jwt_audience"),
    _auth("jwt_algorithms", "--auth-jwt-algorithm"),
    _auth("jwt_name_claim"),
    _auth("jwt_groups_claim"),
    _auth("proxy_header", metavar="NAME"),
    _auth("audit_log", "--audit-log", **_FILE),
    _server("cors_origins", "--cors-origin"),
    _server("graceful_seconds", type=Number(0.0)),
    _server("unix_socket", type=click.Path()),
    _server("root_path", callback=_root_path),
    _server("trusted_proxies", "--trusted-proxy", callback=_trusted),
    _server("proxy_headers", type=click.Choice(get_args(ProxyHeaders))),
    _server("drain_seconds", type=Number(0.0)),
    _server("tls_certificate", type=click.Path()),
    _server("tls_key", type=click.Path()),
    _server("tls_client_ca", type=click.Path()),
    _server("body_bytes_max", type=click.IntRange(1024)),
    _server("body_timeout_seconds", type=Number(0.1)),
    _server("keep_alive_seconds", type=Number(0.1)),
    _server("ingest_streams_max", type=click.IntRange(1)),
    _server("ingest_idle_seconds", type=Number(0.1)),
    _server("head_seconds", type=Number(0.1)),
    _server("requests_per_second", type=Number(0.001)),
    _server("concurrency", type=click.IntRange(1)),
    _server("feeds_max", type=click.IntRange(0)),
    _server("metrics", "--metrics/--no-metrics"),
    _server("request_ids", "--request-ids/--no-request-ids"),
    _server(
        "access_log",
        is_flag=False,
        flag_value="text",
        type=click.Choice(get_args(AccessLogForm)),
        also="the option alone means text",
    ),
    _server("log_level", type=click.Choice(get_args(LogLevel))),
)
