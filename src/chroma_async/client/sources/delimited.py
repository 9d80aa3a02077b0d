"""CSV and TSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from io import TextIOWrapper
from itertools import islice
from typing import Final

from chroma_async.client.lines import Lines
from chroma_async.client.mapping import Shape, lines_of
from chroma_async.client.sources.options import FileFormat, SourceOptions, require_id
from chroma_async.client.sources.text import LINE_BYTES_MAX, TextFile, gathered
from chroma_async.model import Operation

DELIMITERS: Final[Mapping[FileFormat, str]] = {"csv": ",", "tsv": "\t"}


def runs_of(text: TextFile, kind: FileFormat, options: SourceOptions, skip: int) -> Iterator[Lines]:
    """CSV with the names of its columns in the first row. An empty cell is none."""
    csv.field_size_limit(max(csv.field_size_limit(), LINE_BYTES_MAX))
    decoded = TextIOWrapper(text.content, encoding="utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(decoded, delimiter=options.delimiter or DELIMITERS[kind], strict=True)
    try:
        names = next(rows, None)
        if names is None:
            return
        shape = options.mapping.shape(names, strict=True)
        require_id(shape, names)
        filled = (row for row in rows if row)  # not the empty lines
        for run in gathered(islice(filled, skip, None), lambda row: sum(map(len, row))):
            lines = _run(names, run, shape, options.operation)
            lines.share = text.share()
            yield lines
    except csv.Error as error:
        raise ValueError(f"this CSV can't be read: {error}. file={str(text.path)!r} line={rows.line_num}") from error
    finally:
        if not decoded.closed:
            decoded.detach()


def _run(names: Sequence[str], rows: Sequence[Sequence[str]], shape: Shape, operation: Operation) -> Lines:
    odd = {
        place: f"the row has {len(row)} cells, and the header {len(names)}"
        for place, row in enumerate(rows)
        if len(row) != len(names)
    }
    cells = [("",) * len(names) if place in odd else row for place, row in enumerate(rows)]
    columns = {name: [cell or None for cell in column] for name, column in zip(names, zip(*cells, strict=True), strict=True)}
    lines = lines_of(columns, len(rows), shape, operation)
    lines.faults.update(odd)
    return lines
