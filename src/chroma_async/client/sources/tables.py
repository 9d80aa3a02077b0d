"""Tables: pandas' frames, and what Arrow has: its tables, streams, files and batches, and Parquet."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from chroma_async.client.arrow import parquet, pyarrow
from chroma_async.client.cells import BadLine, to_vector
from chroma_async.client.lines import Lines, Vector, VectorColumn, column_of
from chroma_async.client.mapping import lines_of
from chroma_async.client.sources.options import RUN_LINES, SourceOptions, require_id


def _is_of(package: str, name: str, value: Any) -> bool:
    """Whether a value is of a class of a package that may not be there."""
    kind = getattr(sys.modules.get(package), name, None)  # it may just be loaded by another thread
    return kind is not None and isinstance(value, kind)


# ---- pandas


def is_frame(source: object) -> bool:
    return _is_of("pandas", "DataFrame", source)


def runs_of_frame(frame: Any, options: SourceOptions, skip: int) -> Iterator[Lines]:
    if frame.index.name is not None and frame.index.name not in frame.columns:
        frame = frame.reset_index()
    names = [str(name) for name in frame.columns]
    shape = options.mapping.shape(names, strict=True)
    require_id(shape, names)
    total = len(frame)

    def runs() -> Iterator[Lines]:
        for start in range(skip, total, RUN_LINES):
            part = frame.iloc[start : start + RUN_LINES]
            columns = {name: part.iloc[:, place].tolist() for place, name in enumerate(names)}
            lines = lines_of(columns, len(part), shape, options.operation)
            lines.share = min(1.0, (start + len(part)) / total)
            yield lines

    return runs()


# ---- Arrow


def is_table(source: object) -> bool:
    return _is_of("pyarrow", "Table", source)


def is_batch(item: object) -> bool:
    return _is_of("pyarrow", "RecordBatch", item)


def runs_of_table(table: Any, options: SourceOptions, skip: int) -> Iterator[Lines]:
    return runs_of_batches(table.to_batches(max_chunksize=RUN_LINES), options, skip, table.num_rows)


def runs_of_stream(source: Any, options: SourceOptions, skip: int) -> Iterator[Lines]:
    """The lines of whatever has an Arrow stream: readers, and tables of other packages."""
    return runs_of_batches(pyarrow().RecordBatchReader.from_stream(source), options, skip)


def runs_of_parquet(path: Path, file: BinaryIO, options: SourceOptions, skip: int) -> Iterator[Lines]:
    package, invalid = parquet(), pyarrow().ArrowInvalid
    try:
        opened = package.ParquetFile(file)
    except invalid as error:
        raise ValueError(f"this is no whole Parquet file: {error}. file={str(path)!r}") from error
    groups, before = list[int](), skip
    for group in range(opened.metadata.num_row_groups):
        rows = opened.metadata.row_group(group).num_rows
        if not groups and rows <= skip:
            skip -= rows
            continue
        groups.append(group)
    total = int(opened.metadata.num_rows)
    shape = options.mapping.shape(opened.schema_arrow.names, strict=True)
    require_id(shape, opened.schema_arrow.names)
    batches = opened.iter_batches(batch_size=RUN_LINES, row_groups=groups) if groups else ()
    return runs_of_batches(batches, options, skip, total, before - skip)


def runs_of_arrow_file(path: Path, file: BinaryIO, options: SourceOptions, skip: int) -> Iterator[Lines]:
    """The lines of an Arrow file, or of a stream in a file."""
    return runs_of_batches(_batches_of_file(path, file), options, skip)


def _batches_of_file(path: Path, file: BinaryIO) -> Iterator[Any]:
    pa = pyarrow()
    begins_as_file = file.read(6) == b"ARROW1"
    file.seek(0)
    try:
        if begins_as_file:
            opened = pa.ipc.open_file(file)
            for number in range(opened.num_record_batches):
                yield opened.get_batch(number)
        else:
            yield from pa.ipc.open_stream(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"this is no whole Arrow file: {error}. file={str(path)!r}") from error


def runs_of_batches(
    batches: Any, options: SourceOptions, skip: int, total: int | None = None, done: int = 0
) -> Iterator[Lines]:
    """Lines of record batches, of which the first `skip` are passed over; `done` rows stand before them."""
    for batch in batches:
        rows = int(batch.num_rows)
        done += rows
        for start in range(min(skip, rows), rows, RUN_LINES):
            lines = _batch(batch.slice(start, RUN_LINES), options)
            lines.share = (done - rows + start + len(lines)) / total if total else None
            yield lines
        skip = max(0, skip - rows)


def _batch(batch: Any, options: SourceOptions) -> Lines:
    names = cast("list[str]", batch.schema.names)
    shape = options.mapping.shape(names, strict=True)
    require_id(shape, names)
    vectors: tuple[VectorColumn, Mapping[int, str]] | None = None
    used = {shape.id, shape.op, shape.document, shape.metadata, shape.uri, *(field.column for field in shape.fields)}
    if isinstance(shape.embedding, tuple):
        used.update(shape.embedding)
    elif shape.embedding is not None:
        vectors = _arrow_vectors(batch.column(shape.embedding))
    columns = {name: _cells(batch.column(name), is_whole=name == shape.metadata) for name in names if name in used}
    return lines_of(columns, int(batch.num_rows), shape, options.operation, vectors)


def _cells(column: Any, *, is_whole: bool) -> Sequence[Any]:
    """The cells of a column. A struct has all fields in every row: what is null in it is not there."""
    cells = cast("list[Any]", column.to_pylist())
    if not is_whole or not cells or not isinstance(next((cell for cell in cells if cell is not None), None), dict):
        return cells
    objects = cast("list[dict[str, Any] | None]", cells)
    return [None if cell is None else {name: value for name, value in cell.items() if value is not None} for cell in objects]


def _arrow_vectors(column: Any) -> tuple[VectorColumn, Mapping[int, str]]:
    """Vectors of a column of lists, from its buffer; those of other columns one by one."""
    types = pyarrow().types
    kind = column.type
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not is_list or not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        return _vectors_one_by_one(column)
    count = len(column)
    valid = np.asarray(column.is_valid().to_numpy(zero_copy_only=False))
    present = column if valid.all() else column.drop_null()
    numbers = present.flatten()
    if not len(present):
        return None, {}
    lengths = {kind.list_size} if types.is_fixed_size_list(kind) else set(present.value_lengths().to_pylist())
    if len(lengths) > 1 or 0 in lengths or numbers.null_count:
        return _vectors_one_by_one(column)
    with np.errstate(over="ignore"):
        flat = np.asarray(numbers.to_numpy(zero_copy_only=False)).astype(np.float32, copy=False)
    matrix = np.ascontiguousarray(flat).reshape(len(present), -1)
    if len(present) == count:
        return matrix, {}
    spread: list[Vector | None] = [None] * count
    for place, vector in zip(np.flatnonzero(valid).tolist(), matrix, strict=True):
        spread[place] = vector
    return spread, {}


def _vectors_one_by_one(column: Any) -> tuple[VectorColumn, Mapping[int, str]]:
    vectors: list[Vector | None] = []
    faults: dict[int, str] = {}
    for place, cell in enumerate(column.to_pylist()):
        try:
            vectors.append(None if cell is None else to_vector(cell))
        except BadLine as error:
            vectors.append(None)
            faults[place] = str(error)
    return column_of(vectors), faults
