"""What an ingest tells: how far it is, which lines were bad, and what came of it in the end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from chroma_async.protocol.ingest import LineError

if TYPE_CHECKING:
    from rich.progress import Task
    from rich.text import Text

ERRORS_KEPT: Final = 1000

LineErrorCallback: TypeAlias = Callable[[LineError], object]

Report: TypeAlias = Callable[[int, "float | None"], None]
"""Told how many lines are durable, and how much of the source that is, 0 to 1, where it is known."""


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What came of a source that was ingested to its end.

    `position` is how many lines the stream has; those before `began` were there when it began, of an earlier run. `errors`
    are the first 1,000 of the `bad_lines` that were passed over in this run; lines are counted from 0. `lsn` is where the
    last of it stands in the log, None where nothing was written.
    """

    position: int
    began: int
    bad_lines: int
    errors: Sequence[LineError]
    lsn: int | None
    seconds: float

    @property
    def lines(self) -> int:
        """How many lines this run has sent."""
        return self.position - self.began

    @property
    def lines_per_second(self) -> float:
        return self.lines / self.seconds if self.seconds else 0.0


class BadLines:
    """The bad lines of a stream: the first ones and the number of all."""

    def __init__(self, told: LineErrorCallback | None) -> None:
        self._told = told
        self.first: list[LineError] = []
        self.count = 0

    def add(self, errors: Sequence[LineError]) -> None:
        for error in errors:
            self.count += 1
            if len(self.first) < ERRORS_KEPT:
                self.first.append(error)
            if self._told is not None:
                self._told(error)


@contextmanager
def progress_bar(description: str, begun: int, *, wanted: bool) -> Generator[Report | None]:
    """Show a bar on standard error while the context lasts, if it is a terminal. `begun` lines were there before it.

    Raises:
        ImportError: rich is not installed; the message says how.
    """
    if not wanted:
        yield None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.text import Text
    except ModuleNotFoundError as error:
        raise ImportError(f"progress=True needs rich: pip install 'chroma-async[progress]'. missing={error.name}") from error

    class Lines(ProgressColumn):
        def render(self, task: Task) -> Text:
            lines = int(task.fields["lines"])
            rate = (lines - begun) / task.elapsed if task.elapsed else 0.0
            return Text(f"{lines:,} lines  {rate:,.0f}/s")

    console = Console(stderr=True)
    if not console.is_interactive:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), Lines(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=None, lines=begun)

        def report(lines: int, share: float | None) -> None:
            bar.update(task, lines=lines, total=None if share is None else 1.0, completed=share or 0.0)

        yield report
