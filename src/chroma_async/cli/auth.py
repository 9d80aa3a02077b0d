"""Who may call a server, by the options of `run`; and `auth`, which makes tokens and users."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from chroma_async.cli.console import Number, fail
from chroma_async.cli.run_options import chosen, variable
from chroma_async.settings import AuthSettings

_PROVIDERS: Final = ("basic_file", "token_file", "token_digests", "jwt_jwks", "proxy_header", "roles_file")


def auth_settings(context: click.Context, environment: Mapping[str, str] | None = None) -> AuthSettings:
    """Return the settings that the options of `run` and the variables of Chroma mean, None for those of this process.

    It ends with one line when they can't be followed.
    """
    environment = os.environ if environment is None else environment
    options = chosen(AuthSettings, context.params)
    looks_like_auth = any(name.startswith("CHROMA") and "AUTH" in name for name in map(str.upper, environment))
    if not looks_like_auth and not any(options[name] is not None for name in (*_PROVIDERS, "audit_log")):
        return AuthSettings()  # whoever lets everybody in loads nothing of all this
    from chroma_async.server.auth.chroma import settings_from_environment
    from chroma_async.server.auth.provider import AuthConfigError

    given = AuthSettings(**{name: value for name, value in options.items() if value is not None})
    try:
        found = settings_from_environment(environment, [variable(option) for option in context.command.params])
    except (AuthConfigError, ValueError) as error:
        fail(str(error))
    if found is None:
        return given
    if any(options[name] is not None for name in _PROVIDERS):
        fail("options of authentication and variables of Chroma (CHROMA_SERVER_AUTH...) are both set: keep one of them")
    return replace(found, audit_log=given.audit_log)


@click.group()
def auth() -> None:
    """Make tokens and users for a server's files."""


@auth.command("token")
@click.argument("name")
@click.option("--role", type=click.Choice(("read", "write", "admin")), required=True, help="What it may do.")
@click.option("--tenant", multiple=True, default=["*"], help="Tenant in which it counts, or a pattern with *; repeatable.")
@click.option("--database", multiple=True, default=["*"], help="Database, likewise.")
@click.option("--collection", multiple=True, default=["*"], help="Collection, likewise.")
@click.option("--days", type=Number(min=0, min_open=True), help="Days after which it expires.")
@click.option("--stdin", is_flag=True, help="Take the token from standard input instead of making one.")
def token(
    name: str,
    role: Any,
    tenant: tuple[str, ...],
    database: tuple[str, ...],
    collection: tuple[str, ...],
    days: float | None,
    stdin: bool,
) -> None:
    """Make a token for NAME, and its line for the token file.

    The line goes to standard output, the token itself to standard error.
    `chroma-async auth token ingest --role write >> tokens.jsonl` shows the token once; it is kept nowhere.
    """
    from chroma_async.server.auth.lines import TOKEN_LENGTH_MIN, make_token, token_line

    value = sys.stdin.readline().strip() if stdin else make_token()
    if stdin and len(value) < TOKEN_LENGTH_MIN:
        fail(f"a token needs {TOKEN_LENGTH_MIN} characters at least: shorter ones can be guessed")
    expires = None if days is None else datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    try:
        line = token_line(name, value, role, tenants=tenant, databases=database, collections=collection, expires=expires)
    except ValueError as error:
        fail(str(error))
    if not stdin:
        click.echo(value, err=True)
    click.echo(line)


@auth.command("user")
@click.argument("name")
@click.option("--stdin", is_flag=True, help="Take the password from standard input instead of asking for it twice.")
@click.option(
    "--cost", type=click.IntRange(5, 17), default=12, show_default=True, help="Cost of bcrypt: each step doubles it."
)
def user(name: str, stdin: bool, cost: int) -> None:
    """Print the line of NAME for an htpasswd file.

    `htpasswd -nB NAME` prints the same.
    """
    from chroma_async.server.auth.basic import htpasswd_line

    if stdin:
        password = sys.stdin.readline().rstrip("\n")
    elif not sys.stdin.isatty():
        fail("there is no terminal to ask for the password; --stdin reads it from standard input")
    else:
        password = str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    try:
        click.echo(htpasswd_line(name, password, cost))
    except ValueError as error:
        fail(str(error))
