"""How commands end: with a table, or with one line that says what is wrong."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console

from chroma_async.errors import ChromaError, FormatError

EXIT_FAILED = 1
EXIT_USAGE = 2

_WIDTH_UNBOUND = 240

console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_UNBOUND)
"""Tables fit a terminal; in a file or pipe nothing is cut off."""


def fail(message: str, code: int = EXIT_USAGE) -> NoReturn:
    """Print one line to standard error, and end."""
    typer.echo(f"chroma-async: {message}", err=True)
    raise typer.Exit(code)


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
