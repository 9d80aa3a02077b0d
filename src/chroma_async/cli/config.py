"""`config`: what a server that is started like this would use, and where each value comes from."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from chroma_async.cli.auth import auth_settings
from chroma_async.cli.run_options import PREFIX, variable
from chroma_async.settings import SERVED, AuthSettings, ServerSettings

MASKED: Final = "********"

_SECRETS: Final = frozenset({"basic_lines", "token_digests", "chroma_tokens", "chroma_roles"})
"""Values that let somebody in, or help to. Paths of files, and names of headers, are none."""

_USER_IN_URL: Final = re.compile(r"(?<=://)[^/@\s]*@")
_QUERY_IN_URL: Final = re.compile(r"(?<=\?).*")
_SOURCES: Final = {
    ParameterSource.COMMANDLINE: "command line",
    ParameterSource.DEFAULT: "default",
    ParameterSource.DEFAULT_MAP: "default",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One setting: its value as it may be shown, and where it comes from."""

    setting: str
    value: Any
    source: str


def effective(run: click.Command, arguments: list[str], command: str) -> list[Row]:
    """Return what `run` with these arguments, in this environment, would use; a usage error names `command`.

    Raises:
        click.ClickException: an argument or a variable is wrong, as it would be for `run`.
    """
    with run.make_context(command, arguments) as context:
        rows = [_row(context, option) for option in run.params]
        named = {str(option.name) for option in run.params}
        rows += _without_option(named | {"log_retention_bytes", "log_retention_seconds"})
        rows += _from_chroma(auth_settings(context), context.params)
    return rows


def _row(context: click.Context, option: click.Parameter) -> Row:
    name = str(option.name)
    source = context.get_parameter_source(name)
    if source is ParameterSource.ENVIRONMENT:
        told = f"environment {variable(option)}"
    else:
        told = _SOURCES.get(source, "default") if source is not None else "default"
    return Row(option.opts[0].removeprefix("--").replace("-", "_"), shown(name, context.params[name]), told)


def _without_option(known: set[str]) -> Iterator[Row]:
    """Settings that only a program can change."""
    for settings in (SERVED, ServerSettings()):
        for entry in fields(settings):
            if entry.name not in known:
                yield Row(entry.name, shown(entry.name, getattr(settings, entry.name)), "default, no option")


def _from_chroma(found: AuthSettings, options: dict[str, Any]) -> Iterator[Row]:
    """What Chroma's variables have set beside the options."""
    default = AuthSettings()
    for entry in fields(found):
        value = getattr(found, entry.name)
        if value not in (getattr(default, entry.name), options.get(entry.name)):
            yield Row(f"auth {entry.name}", shown(entry.name, value), "environment CHROMA_SERVER_AUTH...")


def shown(name: str, value: Any) -> Any:
    """A value as it may be shown: secrets are masked, also those in URLs."""
    if name in _SECRETS:
        return MASKED if value else value
    if isinstance(value, tuple):
        return [shown(name, item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str):
        return _QUERY_IN_URL.sub(MASKED, _USER_IN_URL.sub(f"{MASKED}@", value)) if "://" in value else value
    return value


def unknown_variables(run: click.Command) -> list[str]:
    """Variables that look like ours and are none, each with the nearest that is."""
    known = [variable(option) for option in run.params]
    found: list[str] = []
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            found.append(f"{name} is no setting" + (f"; did you mean {nearest[0]}?" if nearest else ""))
    return found


def config_command(run: click.Command) -> click.Command:
    """Make the command; it takes the options of `run`, and their variables."""

    @click.command(context_settings={"ignore_unknown_options": True})
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.argument("options", nargs=-1, type=click.UNPROCESSED)
    def config(as_json: bool, options: tuple[str, ...]) -> None:
        """Print the settings that `run OPTIONS` would use.

        Each with where it comes from; secrets are masked.
        """
        from rich.table import Table

        from chroma_async.cli.console import print_table

        rows = effective(run, list(options), click.get_current_context().command_path)
        if as_json:
            found = {row.setting: {"value": row.value, "source": row.source} for row in rows}
            click.echo(json.dumps(found, indent=2, ensure_ascii=True, default=str))
        else:
            table = Table("setting", "value", "source")
            for row in rows:
                table.add_row(row.setting, json.dumps(row.value, default=str), row.source)
            print_table(table)
        for line in unknown_variables(run):
            click.echo(f"chroma-async: {line}", err=True)

    return config
