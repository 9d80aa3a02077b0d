"""Options of `run` for a place in a network: where it listens, behind which proxies, and how it leaves."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import click

from chroma_async.cli.console import Number, fail
from chroma_async.settings import AccessLogForm, ProxyHeaders, ServerSettings

F = TypeVar("F", bound=Callable[..., Any])

_SERVER = ServerSettings()
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


_OPTIONS: Final = (
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
    click.option(
        "--drain-seconds",
        type=Number(0.0),
        default=_SERVER.drain_seconds,
        help="How long requests are still accepted after a stop was asked for, while /readyz says that it comes.",
    ),
    click.option("--tls-certificate", type=_FILE, help="PEM file of the server's certificate and its chain."),
    click.option("--tls-key", type=_FILE, help="PEM file of its key, without a password."),
    click.option(
        "--tls-client-ca", type=_FILE, help="PEM file of CAs; clients must then show a certificate of one of them."
    ),
    click.option(
        "--body-bytes-max",
        type=click.IntRange(1024),
        default=_SERVER.body_bytes_max,
        help="Bytes of the largest request body; larger ones get status 413.",
    ),
    click.option(
        "--ingest-streams-max",
        type=click.IntRange(1),
        default=_SERVER.ingest_streams_max,
        help="Ingest streams that a worker takes at the same time; more get status 429.",
    ),
    click.option(
        "--ingest-idle-seconds",
        type=Number(0.1),
        default=_SERVER.ingest_idle_seconds,
        help="How long an ingest stream may go without a whole line before it is ended.",
    ),
    click.option(
        "--head-seconds",
        type=Number(0.1),
        default=_SERVER.head_seconds,
        help="How long the head of a request may take to arrive, from its first byte.",
    ),
    click.option(
        "--requests-per-second",
        type=Number(0.001),
        help="Requests that each identity, or else each address, may send to a worker in a second; more get status 429.",
    ),
    click.option(
        "--concurrency",
        type=click.IntRange(1),
        help="Requests of each identity, or else each address, that a worker answers at once; more get status 429.",
    ),
    click.option(
        "--feeds-max",
        type=click.IntRange(0),
        default=_SERVER.feeds_max,
        help="Feeds of changes that a worker has open at once; more get status 429.",
    ),
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


def network_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Return what of all options is for `ServerSettings`; paths as texts, which may travel to child processes."""
    known = {entry.name for entry in fields(ServerSettings)}
    found = {name: value for name, value in values.items() if name in known}
    return {name: str(value) if isinstance(value, Path) else value for name, value in found.items()}
