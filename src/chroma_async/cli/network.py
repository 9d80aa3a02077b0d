"""Options of `run` for a place in a network: where it listens, behind which proxies, and how it leaves."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import click

from chroma_async.cli.console import Number, fail
from chroma_async.settings import AccessLogForm, ProxyHeaders, ServerSettings, describe

F = TypeVar("F", bound=Callable[..., Any])

_SERVER = ServerSettings()
_HELP: Final = {name: text for name, _, text in describe(_SERVER)}
_FILE: Final = click.Path(path_type=Path)
_ROOT_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")


def _root_path(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """A path without a slash at its end."""
    path = value.rstrip("/")
    if path and (not _ROOT_PATH.fullmatch(path) or {".", ".."} & set(path.split("/"))):
        raise click.BadParameter(f"give a path such as /chroma, of letters, digits and -._~ . got={value!r}")
    return path


def _trusted(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    from chroma_async.server.peers import TrustedPeers

    try:
        TrustedPeers(value)
    except ValueError as error:
        fail(f"--trusted-proxy: {error}")
    return value


def _number(name: str, kind: click.IntRange | Number) -> Callable[[F], F]:
    """The option of a setting whose help is said of the option as well."""
    text = _HELP[name]
    flag, default = f"--{name.replace('_', '-')}", getattr(_SERVER, name)
    return click.option(flag, type=kind, default=default, help=f"{text[0].upper()}{text[1:]}.")


_OPTIONS: Final = (
    _number("graceful_seconds", Number(0.0)),
    click.option(
        "--unix-socket",
        type=click.Path(path_type=Path),
        help="Unix socket to listen on, instead of --host and --port; owner and group may connect.",
    ),
    click.option(
        "--root-path",
        default=_SERVER.root_path,
        callback=_root_path,
        help="Path under which a proxy offers the server, such as /chroma.",
    ),
    click.option(
        "--trusted-proxy",
        "trusted_proxies",
        multiple=True,
        callback=_trusted,
        help="Address or network whose forwarding headers are believed, or unix for every unix socket; repeatable.",
    ),
    click.option(
        "--proxy-headers",
        type=click.Choice(get_args(ProxyHeaders)),
        default=_SERVER.proxy_headers,
        help="Headers that trusted proxies set: X-Forwarded-For and its kin, or Forwarded (RFC 7239).",
    ),
    _number("drain_seconds", Number(0.0)),
    click.option("--tls-certificate", type=_FILE, help="PEM file of the server's certificate and its chain."),
    click.option("--tls-key", type=_FILE, help="PEM file of its key, without a password."),
    click.option(
        "--tls-client-ca", type=_FILE, help="PEM file of CAs; clients must then show a certificate of one of them."
    ),
    _number("body_bytes_max", click.IntRange(1024)),
    _number("body_timeout_seconds", Number(0.1)),
    _number("keep_alive_seconds", Number(0.1)),
    _number("ingest_streams_max", click.IntRange(1)),
    _number("ingest_idle_seconds", Number(0.1)),
    _number("head_seconds", Number(0.1)),
    _number("requests_per_second", Number(0.001)),
    _number("concurrency", click.IntRange(1)),
    _number("feeds_max", click.IntRange(0)),
    click.option(
        "--metrics/--no-metrics",
        default=_SERVER.metrics,
        help="Answer GET /metrics with what all processes have counted, for Prometheus.",
    ),
    click.option(
        "--request-ids/--no-request-ids",
        default=_SERVER.request_ids,
        help="Name every request's id in its answer, X-Request-Id; --access-log does that too.",
    ),
    click.option(
        "--access-log",
        is_flag=False,
        flag_value="text",
        type=click.Choice(get_args(AccessLogForm)),
        help="Log every request, as text if nothing else is said.",
    ),
)


def network_options(command: F) -> F:
    """Add the options. Their values arrive under the names of `ServerSettings`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
