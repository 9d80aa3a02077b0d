"""How commands end: with a table, or with one line that says what is wrong."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from chroma_async.errors import BackupError, ChromaError, ExchangeError, FormatError, LogError, StorageCorrupt

if TYPE_CHECKING:
    from rich.table import Table

R = TypeVar("R")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_WIDTH_UNBOUND = 240


def print_table(table: Table) -> None:
    """Print a table: it fits a terminal, in a file or pipe nothing is cut off."""
    from rich.console import Console

    Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_UNBOUND).print(table)


@contextmanager
def progress_bar() -> Generator[Callable[[str, int, int], None]]:
    """Show how far a job is, on a terminal: told what is being done, how much of it is done, and how much there is."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_interactive:
        yield lambda what, done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def format_bytes(size: int) -> str:
    """A size for people: `1.5 MiB`."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


class Number(click.FloatRange):
    """A number in a range; neither infinite nor `nan`, which click's own lets pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"must be a finite number. got={value!r}", param, ctx)
        return number


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
    except (BackupError, ExchangeError, LogError, StorageCorrupt) as error:
        fail(str(error), EXIT_FAILED)
    except OSError as error:
        fail(f"{error.strerror or error}. path={error.filename!r}" if error.filename else str(error))


def in_loop(work: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Run a command's work in an event loop; what a person can do something about ends it with one line."""
    import asyncio

    with one_line_errors():
        try:
            return asyncio.run(work())
        except ValueError as error:
            fail(str(error))
