"""What can be ingested as a whole: files, tables, and iterables of lines, each of them as runs of lines.

Whatever it is, a source has its lines in one order, counted from 0, so that it can be begun anywhere.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import inspect
import os
import sys
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeVar, cast, get_args

import msgspec
import numpy as np

from chroma_async.client.arrow import parquet, pyarrow
from chroma_async.client.cells import BadLine, to_id, to_vector
from chroma_async.client.lines import BLANK, Lines, Vector, VectorColumn, column_of, joined
from chroma_async.client.mapping import NO_ID, ColumnMapping, Shape, lines_of
from chroma_async.model import Operation
from chroma_async.protocol.ingest import Line

T = TypeVar("T")

FileFormat = Literal["ndjson", "csv", "tsv", "parquet", "arrow"]

RUN_LINES: Final = 500
RUN_BYTES: Final = 2**20
LINE_BYTES_MAX: Final = 32 * 2**20

SUFFIXES: Final[Mapping[str, FileFormat]] = {
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "ndjson",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
}
HOW_TO_NAME_FORMATS: Final = (
    f"known: {', '.join(SUFFIXES)}, text with .gz too; a format says it otherwise: {', '.join(get_args(FileFormat))}"
)


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How a source is understood. `operation` is what lines do that don't say it."""

    mapping: ColumnMapping
    operation: Operation = "upsert"
    format: FileFormat | None = None
    delimiter: str | None = None


@contextmanager
def open_source(source: Any, options: SourceOptions, skip: int) -> Generator[Any]:
    """Open a source after its first `skip` lines: an iterator of runs of them, async where the source is.

    Raises:
        ImportError: a package is needed that is not installed; the message says which.
        ValueError: it is none, or its columns don't fit the mapping.
    """
    if _is_path(source):
        with _file(Path(source).expanduser(), options, skip) as opened:
            yield opened
    elif _is_of("pandas", "DataFrame", source):
        yield _frame(source, options, skip)
    elif _is_of("pyarrow", "Table", source):
        yield _batches(source.to_batches(max_chunksize=RUN_LINES), options, skip, source.num_rows)
    elif hasattr(source, "__arrow_c_stream__"):
        yield _batches(pyarrow().RecordBatchReader.from_stream(source), options, skip)
    elif hasattr(source, "__aiter__"):
        yield _async_items(source, options, skip)
    elif _is_iterable(source):
        yield _items(source, options, skip)
    else:
        raise ValueError(
            "a source is a file's path, a pandas DataFrame, an Arrow table or reader, or an iterable, async or not, of "
            f"dictionaries or lines. got={type(source).__name__}"
        )


def _is_path(source: object) -> bool:
    return isinstance(source, str | os.PathLike)


def _is_iterable(source: object) -> bool:
    """Whether a source is one of lines, rather than one line or a vector."""
    return hasattr(source, "__iter__") and not isinstance(source, Mapping | bytes | np.ndarray)


def _is_of(package: str, name: str, value: Any) -> bool:
    """Whether a value is of a class of a package that may not be there."""
    kind = getattr(sys.modules.get(package), name, None)  # it may just be loaded by another thread
    return kind is not None and isinstance(value, kind)


# ---- items, one by one


def _items(source: Any, options: SourceOptions, skip: int) -> Iterator[Lines]:
    for item in source:
        for lines in as_runs(item, options):
            yield from _after(lines, skip)
            skip = max(0, skip - len(lines))


async def _async_items(source: Any, options: SourceOptions, skip: int) -> Any:
    items = aiter(source)
    try:
        async for item in items:
            for lines in as_runs(item, options):
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


def as_runs(item: Any, options: SourceOptions) -> Iterator[Lines]:
    """What an iterable gave, as lines: a table in runs of some, since making all of them takes long."""
    if _is_of("pyarrow", "RecordBatch", item):
        return _batches((item,), options, 0)
    return iter((as_lines(item, options),))


def as_lines(item: Any, options: SourceOptions) -> Lines:
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


# ---- files


@contextmanager
def _file(path: Path, options: SourceOptions, skip: int) -> Generator[Iterator[Lines]]:
    kind = options.format or format_of(path)
    if kind == "parquet":
        with path.open("rb") as file:
            yield _parquet(path, file, options, skip)
    elif kind == "arrow":
        with path.open("rb") as file:
            yield _batches(_arrow_file(path, file), options, skip)
    else:
        with path.open("rb") as raw, _unpacked(path, raw) as file:
            progress = _Share(raw, path.stat().st_size)
            read = _ndjson if kind == "ndjson" else _csv
            yield _unbroken(path, read(path, file, options, skip, progress))


def format_of(path: Path) -> FileFormat:
    """Return what a file is by its name.

    Raises:
        ValueError: its name doesn't say it.
    """
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    found = SUFFIXES.get(suffix.lower())
    if found is None:
        raise ValueError(f"what kind of file is this? {HOW_TO_NAME_FORMATS}. file={str(path)!r}")
    return found


def _unpacked(path: Path, raw: BinaryIO) -> Any:
    return gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw


def _unbroken(path: Path, lines: Iterator[Lines]) -> Iterator[Lines]:
    """The lines of a file that may be packed.

    Raises:
        ValueError: what is packed is damaged.
    """
    try:
        yield from lines
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"this packed file is damaged, or was cut off: {error}. file={str(path)!r}") from error


def _runs(rows: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
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


class _Share:
    """How much of a file has been read."""

    def __init__(self, raw: BinaryIO, size: int) -> None:
        self._raw = raw
        self._size = size

    def now(self) -> float:
        return min(1.0, self._raw.tell() / self._size) if self._size else 1.0


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    """A line of NDJSON that needs no mapping."""

    id: str
    op: Operation | None = None
    embedding: list[float] | str | None = None
    document: str | None = None
    metadata: msgspec.Raw | None = None
    uri: str | None = None


# Looked into now: msgspec's first look into a type must not be taken by two threads at once.
_RECORD: Final = msgspec.json.Decoder(_Record)
_ANY: Final = msgspec.json.Decoder()


def _ndjson(path: Path, file: BinaryIO, options: SourceOptions, skip: int, progress: _Share) -> Iterator[Lines]:
    """NDJSON, one object on each line. An empty line counts, and says nothing."""
    for raws in _runs(islice(_json_lines(path, file), skip, None), lambda raw: len(raw or b"")):
        yield _json_run(raws, options, progress)


def _json_lines(path: Path, file: BinaryIO) -> Iterator[bytes | None]:
    """The lines, of which the first shows whether they are what they should be.

    Raises:
        ValueError: it is JSON, but not an object on each line, or an export.
    """
    lines = _text_lines(file)
    for first in islice(lines, 1):
        raw = (first or b"").removeprefix(codecs.BOM_UTF8)
        if raw.startswith(b'{"chroma_async_export"'):
            raise ValueError(f"this is an exported collection: `chroma-async import` reads it. file={str(path)!r}")
        if raw.lstrip().startswith(b"["):
            raise ValueError(
                f"this is one JSON list, not an object on each line: jq -c '.[]' makes them. file={str(path)!r}"
            )
        yield None if first is None else raw
    yield from lines


def _text_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines of a file; None for one that is too long."""
    while raw := file.readline(LINE_BYTES_MAX + 1):
        if len(raw) > LINE_BYTES_MAX and not raw.endswith(b"\n"):
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(LINE_BYTES_MAX)
            yield None
        else:
            yield raw


_Plain = tuple[_Record, "Vector | None"]


def _json_run(raws: Sequence[bytes | None], options: SourceOptions, progress: _Share) -> Lines:
    entries = [_json_entry(raw, plain=not options.mapping.is_given) for raw in raws]
    groups = [_json_group(list(group), options) for _, group in groupby(entries, _kind_of_entry)]
    lines = joined(groups)
    lines.share = progress.now()
    return lines


def _json_entry(raw: bytes | None, *, plain: bool) -> _Plain | dict[str, Any] | str:
    """A line as a record that needs no mapping, or as an object, or what is wrong with it."""
    if raw is None:
        return f"the line is longer than {LINE_BYTES_MAX} bytes"
    record = _plain_record(raw) if plain else None
    if record is not None:
        return record
    try:
        found = _ANY.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"the line is no JSON: {error}" if raw.strip() else BLANK
    return cast("dict[str, Any]", found) if isinstance(found, dict) else "a line is a JSON object"


def _plain_record(raw: bytes) -> _Plain | None:
    try:
        record = _RECORD.decode(raw)
        vector = None if record.embedding is None else to_vector(record.embedding)
        to_id(record.id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadLine):
        return None
    if record.metadata is not None and not bytes(record.metadata).lstrip().startswith(b"{"):
        return None
    record.embedding = None
    return record, vector


def _kind_of_entry(entry: _Plain | dict[str, Any] | str) -> object:
    if isinstance(entry, dict):
        return tuple(entry)
    return type(entry)


def _json_group(entries: Sequence[Any], options: SourceOptions) -> Lines:
    """Lines of entries of one kind."""
    if isinstance(entries[0], str):
        return Lines([""] * len(entries), faults=dict(enumerate(entries)))
    if isinstance(entries[0], dict):
        objects = cast("Sequence[dict[str, Any]]", entries)
        columns = {name: [entry[name] for entry in objects] for name in objects[0]}
        shape = options.mapping.shape(columns, strict=False)
        return lines_of(columns, len(entries), shape, options.operation)
    records = [record for record, _ in entries]
    operations: list[Operation] = [record.op or options.operation for record in records]
    return Lines(
        ids=[record.id for record in records],
        operations=operations[0] if len(set(operations)) == 1 else operations,
        vectors=column_of([vector for _, vector in entries]),
        documents=_unless_empty([record.document for record in records]),
        metadatas=_unless_empty([_raw_metadata(record.metadata) for record in records]),
        uris=_unless_empty([record.uri for record in records]),
    )


def _raw_metadata(raw: msgspec.Raw | None) -> bytes | None:
    if raw is None:
        return None
    text = bytes(raw).strip()
    return None if text == b"{}" else text


def _unless_empty(cells: list[T | None]) -> list[T | None] | None:
    return None if all(cell is None for cell in cells) else cells


def _csv(path: Path, file: BinaryIO, options: SourceOptions, skip: int, progress: _Share) -> Iterator[Lines]:
    """CSV with the names of its columns in the first row. An empty cell is none."""
    csv.field_size_limit(max(csv.field_size_limit(), LINE_BYTES_MAX))
    kind = options.format or format_of(path)
    text = TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(text, delimiter=options.delimiter or ("\t" if kind == "tsv" else ","), strict=True)
    try:
        names = next(rows, None)
        if names is None:
            return
        shape = options.mapping.shape(names, strict=True)
        _require_id(shape, names)
        filled = (row for row in rows if row)  # not the empty lines
        for run in _runs(islice(filled, skip, None), lambda row: sum(map(len, row))):
            yield _csv_run(names, run, shape, options.operation, progress)
    except csv.Error as error:
        raise ValueError(f"this CSV can't be read: {error}. file={str(path)!r} line={rows.line_num}") from error
    finally:
        if not text.closed:
            text.detach()


def _csv_run(
    names: Sequence[str], rows: Sequence[Sequence[str]], shape: Shape, operation: Operation, progress: _Share
) -> Lines:
    odd = {
        place: f"the row has {len(row)} cells, and the header {len(names)}"
        for place, row in enumerate(rows)
        if len(row) != len(names)
    }
    cells = [("",) * len(names) if place in odd else row for place, row in enumerate(rows)]
    columns = {name: [cell or None for cell in column] for name, column in zip(names, zip(*cells, strict=True), strict=True)}
    lines = lines_of(columns, len(rows), shape, operation)
    lines.faults.update(odd)
    lines.share = progress.now()
    return lines


def _require_id(shape: Shape, names: Sequence[str]) -> None:
    if shape.id is None or shape.id not in names:
        raise ValueError(f"{NO_ID}. columns={', '.join(names)}")


# ---- tables


def _parquet(path: Path, file: BinaryIO, options: SourceOptions, skip: int) -> Iterator[Lines]:
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
    _require_id(shape, opened.schema_arrow.names)
    batches = opened.iter_batches(batch_size=RUN_LINES, row_groups=groups) if groups else ()
    return _batches(batches, options, skip, total, before - skip)


def _arrow_file(path: Path, file: BinaryIO) -> Iterator[Any]:
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


def _batches(batches: Any, options: SourceOptions, skip: int, total: int | None = None, done: int = 0) -> Iterator[Lines]:
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
    _require_id(shape, names)
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


def _frame(frame: Any, options: SourceOptions, skip: int) -> Iterator[Lines]:
    if frame.index.name is not None and frame.index.name not in frame.columns:
        frame = frame.reset_index()
    names = [str(name) for name in frame.columns]
    shape = options.mapping.shape(names, strict=True)
    _require_id(shape, names)
    total = len(frame)

    def runs() -> Iterator[Lines]:
        for start in range(skip, total, RUN_LINES):
            part = frame.iloc[start : start + RUN_LINES]
            columns = {name: part.iloc[:, place].tolist() for place, name in enumerate(names)}
            lines = lines_of(columns, len(part), shape, options.operation)
            lines.share = min(1.0, (start + len(part)) / total)
            yield lines

    return runs()
