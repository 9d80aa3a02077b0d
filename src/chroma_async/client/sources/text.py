"""Files of text, which may be packed: opened, and read run by run."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from chroma_async.client.lines import Lines
from chroma_async.client.sources.options import RUN_LINES

T = TypeVar("T")

RUN_BYTES: Final = 2**20
LINE_BYTES_MAX: Final = 32 * 2**20


class TextFile:
    """A file that is open: `content` is unpacked, and knows how much of the file it took."""

    def __init__(self, path: Path, raw: BinaryIO, content: Any) -> None:
        self.path = path
        self.content = content
        self._raw = raw
        self._size = path.stat().st_size

    def share(self) -> float:
        """Return how much of the file has been read, 0 to 1."""
        return min(1.0, self._raw.tell() / self._size) if self._size else 1.0


@contextmanager
def open_text(path: Path) -> Generator[TextFile]:
    """Open a file of text."""
    with path.open("rb") as raw, _unpacked(path, raw) as content:
        yield TextFile(path, raw, content)


def _unpacked(path: Path, raw: BinaryIO) -> Any:
    return gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw


def unbroken(path: Path, lines: Iterator[Lines]) -> Iterator[Lines]:
    """The lines of a file that may be packed.

    Raises:
        ValueError: what is packed is damaged.
    """
    try:
        yield from lines
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"this packed file is damaged, or was cut off: {error}. file={str(path)!r}") from error


def gathered(rows: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Gather rows until they are many, or large together."""
    run: list[T] = []
    size = 0
    for row in rows:
        run.append(row)
        size += size_of(row)
        if len(run) >= RUN_LINES or size >= RUN_BYTES:
            yield run
            run, size = [], 0
    if run:
        yield run
