"""What can be ingested as a whole: files, tables, and iterables of lines, each of them as runs of lines.

Whatever it is, a source has its lines in one order, counted from 0, so that it can be begun anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chroma_async.client.sources.options import FileFormat, SourceOptions

__all__ = ["FileFormat", "SourceOptions", "open_source"]


@contextmanager
def open_source(source: Any, options: SourceOptions, skip: int) -> Generator[Any]:
    """Open a source after its first `skip` lines: an iterator of runs of them, async where the source is.

    Raises:
        ImportError: a package is needed that is not installed; the message says which.
        ValueError: it is none, or its columns don't fit the mapping.
    """
    from chroma_async.client.sources import files, items, tables  # most clients never open a source

    if _is_path(source):
        with files.runs_of(Path(source).expanduser(), options, skip) as runs:
            yield runs
    elif tables.is_frame(source):
        yield tables.runs_of_frame(source, options, skip)
    elif tables.is_table(source):
        yield tables.runs_of_table(source, options, skip)
    elif hasattr(source, "__arrow_c_stream__"):
        yield tables.runs_of_stream(source, options, skip)
    elif hasattr(source, "__aiter__"):
        yield items.runs_of_async(source, options, skip)
    elif items.is_iterable(source):
        yield items.runs_of(source, options, skip)
    else:
        raise ValueError(
            "a source is a file's path, a pandas DataFrame, an Arrow table or reader, or an iterable, async or not, of "
            f"dictionaries or lines. got={type(source).__name__}"
        )


def _is_path(source: object) -> bool:
    return isinstance(source, str | os.PathLike)
