"""The options of `run` about who may call, and `auth`, which makes tokens and users."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar, get_args

import click

from chroma_async.cli.config import PREFIX
from chroma_async.cli.console import Number, fail
from chroma_async.settings import AuthSettings, TokenHeader

F = TypeVar("F", bound=Callable[..., Any])

_DEFAULTS: Final = AuthSettings()
_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "auth_basic_file": {"metavar": "FILE", "help": "Users with passwords: an htpasswd file, as htpasswd -B makes it."},
    "auth_token_file": {"metavar": "FILE", "help": "Tokens: lines that `chroma-async auth token` makes."},
    "auth_token": {"metavar": "TOKEN", "help": "One token; better given as CHROMA_ASYNC_AUTH_TOKEN, as others see options."},
    "auth_token_header": {
        "type": click.Choice(get_args(TokenHeader)),
        "default": _DEFAULTS.token_header,
        "help": "Header of tokens: Authorization (Bearer), X-Chroma-Token, or any of them.",
    },
    "auth_roles_file": {"metavar": "FILE", "help": "What users may do; without it all of them may do everything."},
    "auth_jwt_jwks": {"metavar": "FILE_OR_URL", "help": "Public keys of JWTs (JWKS)."},
    "auth_jwt_issuer": {"metavar": "TEXT", "help": "Issuer that JWTs must name."},
    "auth_jwt_audience": {"metavar": "TEXT", "help": "Audience that JWTs must be for."},
    "auth_jwt_algorithm": {
        "multiple": True,
        "default": _DEFAULTS.jwt_algorithms,
        "help": "Algorithm that JWTs may be signed with; repeatable.",
    },
    "auth_jwt_name_claim": {"default": _DEFAULTS.jwt_name_claim, "help": "Claim of a JWT that names the user."},
    "auth_jwt_groups_claim": {"default": _DEFAULTS.jwt_groups_claim, "help": "Claim of a JWT that names the user's groups."},
    "auth_proxy_header": {"metavar": "NAME", "help": "Header in which a trusted proxy names the user."},
    "audit_log": {
        "metavar": "FILE",
        "help": "Append every accepted write to FILE: who, what, when; needs an --auth- option.",
    },
}


def auth_options(command: F) -> F:
    """The options of a server about who may call; the command takes them as one dictionary by `auth_settings`."""
    for name, details in reversed(list(_OPTIONS.items())):
        command = click.option(f"--{name.replace('_', '-')}", name, **{"default": None, **details})(command)
    return command


def auth_settings(options: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> AuthSettings:
    """Return the settings that options and the variables of Chroma mean; end with one line when they can't be followed."""
    environment = os.environ if environment is None else environment
    looks_like_auth = [name for name in map(str.upper, environment) if name.startswith("CHROMA") and "AUTH" in name]
    if not looks_like_auth and not any(options[name] for name in (*_PROVIDERS, "audit_log")):
        return AuthSettings()  # whoever lets everybody in loads nothing of all this
    from chroma_async.server.auth.chroma import settings_from_environment
    from chroma_async.server.auth.provider import AuthConfigError

    given = _settings(options)
    ours = [PREFIX + name.upper() for name in _OPTIONS]
    try:
        found = settings_from_environment(environment, ours)
    except (AuthConfigError, ValueError) as error:
        fail(str(error))
    if found is None:
        return given
    if any(options[name] for name in _PROVIDERS):
        fail("options of authentication and variables of Chroma (CHROMA_SERVER_AUTH...) are both set: keep one of them")
    return _merged(found, given)


_PROVIDERS: Final = (
    "auth_basic_file",
    "auth_token_file",
    "auth_token",
    "auth_jwt_jwks",
    "auth_proxy_header",
    "auth_roles_file",
)


def _merged(found: AuthSettings, given: AuthSettings) -> AuthSettings:
    from dataclasses import replace

    return replace(found, audit_log=given.audit_log)


def _settings(options: Mapping[str, Any]) -> AuthSettings:
    from chroma_async.server.auth.lines import check_token, digest_of

    token = options["auth_token"]
    digests: tuple[str, ...] = ()
    if token is not None:
        try:
            check_token(token)
        except ValueError as error:
            fail(f"--auth-token: {error}")
        digests = (digest_of(token.encode()).hex(),)
    return AuthSettings(
        basic_file=_absolute(options["auth_basic_file"]),
        token_file=_absolute(options["auth_token_file"]),
        token_digests=digests,
        token_header=options["auth_token_header"],
        roles_file=_absolute(options["auth_roles_file"]),
        jwt_jwks=options["auth_jwt_jwks"],
        jwt_issuer=options["auth_jwt_issuer"],
        jwt_audience=options["auth_jwt_audience"],
        jwt_algorithms=tuple(options["auth_jwt_algorithm"]),
        jwt_name_claim=options["auth_jwt_name_claim"],
        jwt_groups_claim=options["auth_jwt_groups_claim"],
        proxy_header=options["auth_proxy_header"],
        audit_log=_absolute(options["audit_log"]),
    )


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


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
