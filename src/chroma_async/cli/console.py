"""How commands end: with a table, or with one line that says what is wrong."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import click

from chroma_async.errors import ChromaError, FormatError

if TYPE_CHECKING:
    from rich.table import Table

EXIT_FAILED = 1
EXIT_USAGE = 2

_WIDTH_UNBOUND = 240


def print_table(table: Table) -> None:
    """Print a table: it fits a terminal, in a file or pipe nothing is cut off."""
    from rich.console import Console

    Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_UNBOUND).print(table)


def fail(message: str, code: int = EXIT_USAGE) -> NoReturn:
    """Print one line to standard error, and end."""
    click.echo(f"chroma-async: {message}", err=True)
    sys.exit(code)


@contextmanager
def one_line_errors() -> Generator[None]:
    """Turn the errors that a person can do something about into one line and an exit code."""
    try:
        yield
    except ChromaError as error:
        fail(error.message, EXIT_FAILED)
    except FormatError as error:
        fail(f"can't use the data directory: {error}")
    except OSError as error:
        fail(f"{error.strerror or error}. path={error.filename!r}" if error.filename else str(error))
