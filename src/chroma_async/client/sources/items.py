"""Iterables, async or not, of dictionaries, lines, or runs and batches of lines."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import numpy as np

from chroma_async.client.lines import Lines
from chroma_async.client.mapping import Shape, lines_of
from chroma_async.client.sources.options import SourceOptions
from chroma_async.client.sources.tables import is_batch, runs_of_batches
from chroma_async.protocol.ingest import Line


def is_iterable(source: object) -> bool:
    """Whether a value is an iterable of lines, rather than one line or a vector."""
    return hasattr(source, "__iter__") and not isinstance(source, Mapping | bytes | np.ndarray)


def runs_of(source: Any, options: SourceOptions, skip: int) -> Iterator[Lines]:
    for item in source:
        for lines in _as_runs(item, options):
            yield from _after(lines, skip)
            skip = max(0, skip - len(lines))


async def runs_of_async(source: Any, options: SourceOptions, skip: int) -> Any:
    items = aiter(source)
    try:
        async for item in items:
            for lines in _as_runs(item, options):
                for rest in _after(lines, skip):
                    yield rest
                skip = max(0, skip - len(lines))
    finally:
        if inspect.isasyncgen(items):
            await items.aclose()


def _after(lines: Lines, skip: int) -> Iterator[Lines]:
    """The lines behind the first `skip`, if there are any."""
    if skip < len(lines):
        yield lines.between(skip, len(lines)) if skip else lines


def _as_runs(item: Any, options: SourceOptions) -> Iterator[Lines]:
    """What an iterable gave, as lines: a table in runs of some, since making all of them takes long."""
    if is_batch(item):
        return runs_of_batches((item,), options, 0)
    return iter((_as_lines(item, options),))


def _as_lines(item: Any, options: SourceOptions) -> Lines:
    """Return the line, or the lines, that an iterable gave."""
    if isinstance(item, Line):
        return _line(item)
    if isinstance(item, Mapping):
        fields = cast("Mapping[str, Any]", item)
        shape = options.mapping.shape(map(str, fields), strict=False)
        return lines_of({str(name): (value,) for name, value in fields.items()}, 1, shape, options.operation)
    if isinstance(item, Lines):
        return item
    return Lines([""], faults={0: f"a line is a dictionary, or a Line. got={type(item).__name__}"})


def _line(line: Line) -> Lines:
    fields = {name: (getattr(line, name),) for name in line.__struct_fields__}
    return lines_of(fields, 1, _LINE_SHAPE, line.op)


_LINE_SHAPE: Final = Shape("id", "op", "embedding", "document", "metadata", "uri", ())
