"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from chroma_async.cli.console import fail
from chroma_async.model import DEFAULT_DATABASE, DEFAULT_TENANT

F = TypeVar("F", bound=Callable[..., Any])


def place_options(command: F) -> F:
    """`--tenant` and `--database`: where a collection is."""
    tenant = click.option("--tenant", default=DEFAULT_TENANT, help="Tenant of the collection.")
    database = click.option("--database", default=DEFAULT_DATABASE, help="Database of the collection.")
    return tenant(database(command))


def server_options(command: F) -> F:
    """`--url` and `--header`: a server, where a data directory could be."""
    url = click.option("--url", help="Server to use, instead of a data directory.")
    return url(header_option(command))


def header_option(command: F) -> F:
    """`--header`, which arrives as a dictionary: name and value of each."""
    return click.option(
        "--header", multiple=True, callback=_headers, help="Header that the server wants, as NAME: VALUE; repeatable."
    )(command)


def _headers(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            fail(f"a header is NAME: VALUE. got={text!r}")
        found[name.strip()] = value.strip()
    return found
