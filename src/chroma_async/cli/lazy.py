"""A group of commands that are imported when they are asked for: a server does not wait for the others at each start."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

import click

from chroma_async.cli.console import EXIT_INTERRUPTED, fail


class LazyGroup(click.Group):
    """Besides commands that are added to it, those of `homes`: the name of each, and where it is (`module:attribute`)."""

    def __init__(self, *args: Any, homes: Mapping[str, str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._homes = homes

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Ctrl-C that it does not handle itself ends it with one line."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            fail("interrupted", EXIT_INTERRUPTED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, in order."""
        return sorted({*super().list_commands(ctx), *self._homes})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name, imported now if it was not; None: there is none."""
        if cmd_name in self._homes and cmd_name not in self.commands:
            module, attribute = self._homes[cmd_name].split(":")
            self.add_command(cast("click.Command", getattr(import_module(module), attribute)), cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is asked for; where there is none, any of them may have been meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            for name in self._homes:
                self.get_command(ctx, name)
            return super().resolve_command(ctx, args)
