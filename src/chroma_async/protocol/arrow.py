"""Lines of an ingest stream from an Arrow IPC stream: one row each, vectors straight from its buffers.

    https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format

pyarrow is an extra, and is imported when the first such stream comes. What it reads may be hostile: every batch is validated
whole, types whose values may overlap are refused, and what a dictionary unfolds to is counted before it is unfolded.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import orjson

from chroma_async.errors import InvalidArgumentError, UnsupportedMediaTypeError
from chroma_async.model import Operation, Vectors
from chroma_async.protocol.embeddings import EMPTY_VECTOR, NO_VECTORS
from chroma_async.protocol.lines import (
    NO_ROWS,
    Decoded,
    Lines,
    Positions,
    Problems,
    checked,
    decode_vectors,
    unlike,
)

Batch: TypeAlias = Any
Column: TypeAlias = Any
Kind: TypeAlias = Any
"""`RecordBatch`, `Array` and `DataType` of pyarrow, which has no types for checkers."""

UNFOLDED_BYTES_MAX: Final = 256 * 2**20
"""Of the texts that the dictionaries of one batch stand for."""

NOT_FINITE: Final = "an embedding has a null, NaN or infinity, or a number beyond float32"

_OPERATIONS: Final[Mapping[str | None, Operation]] = {
    None: "upsert",
    "add": "add",
    "update": "update",
    "upsert": "upsert",
    "delete": "delete",
}


def _arrow() -> Any:
    return importlib.import_module("pyarrow")


def require_arrow() -> None:
    """Make sure that Arrow streams can be read here.

    Raises:
        UnsupportedMediaTypeError: pyarrow is not installed.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise UnsupportedMediaTypeError(
            "this server reads no Arrow streams: send NDJSON, or install pyarrow there: pip install 'chroma-async[arrow]'"
        )


def decode_arrow(content: bytes, first: int, dimension: int | None) -> Decoded:
    """Decode an Arrow IPC stream; arguments and result as of `decode_ndjson`.

    Raises:
        InvalidArgumentError: it is none, or its columns are not those of lines.
    """
    require_arrow()
    pa = _arrow()

    if not content:
        return checked(first, first, _joined([], first), {})
    try:
        return _decode(list(pa.ipc.open_stream(content)), first, dimension)
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        raise InvalidArgumentError(f"this is no Arrow IPC stream, or a damaged one: {error}") from error


def _decode(batches: Sequence[Batch], first: int, dimension: int | None) -> Decoded:
    rows: list[Lines] = []
    problems: dict[int, str] = {}
    beyond = first
    for batch in batches:
        batch.validate(full=True)
        lines, found = _lines(_Columns(batch), beyond, dimension)
        dimension = lines.dimension if dimension is None else dimension
        problems.update({beyond - first + item: message for item, message in found.items()})
        rows.append(lines)
        beyond += batch.num_rows
    return checked(first, beyond, _joined(rows, first), problems)


def _joined(parts: Sequence[Lines], first: int) -> Lines:
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(part) for part in parts)])[:-1].tolist()
    vectors = [part.vectors for part in parts if len(part.vectors)]
    return Lines(
        numbers=range(first, first + sum(len(part) for part in parts)),
        operations=[operation for part in parts for operation in part.operations],
        ids=list(chain.from_iterable(part.ids for part in parts)),
        documents=list(chain.from_iterable(part.documents for part in parts)),
        metadatas=list(chain.from_iterable(part.metadatas for part in parts)),
        uris=list(chain.from_iterable(part.uris for part in parts)),
        vectors=np.concatenate(vectors) if vectors else NO_VECTORS,
        rows=np.concatenate([NO_ROWS, *(part.rows + start for part, start in zip(parts, starts, strict=True))]),
    )


def _lines(columns: _Columns, first: int, dimension: int | None) -> tuple[Lines, Problems]:
    """Return the rows of a batch, bad ones included, and what is wrong with those."""
    ids = columns.texts("id", required=True)
    operations, problems = _operations(columns.texts("op"))
    metadatas, of_metadata = _metadatas(columns)
    vectors, rows, of_vectors = _vectors(columns, dimension)
    problems |= {**of_metadata, **of_vectors}
    problems |= {item: "a line needs an id" for item, name in enumerate(ids) if name is None}
    lines = Lines(
        numbers=range(first, first + len(ids)),
        operations=operations,
        ids=[name or "" for name in ids],
        documents=columns.texts("document"),
        metadatas=metadatas,
        uris=columns.texts("uri"),
        vectors=vectors,
        rows=rows,
    )
    return lines, problems


class _Columns:
    """The columns of a batch that lines have, by name; others do not matter."""

    def __init__(self, batch: Batch) -> None:
        self.count = batch.num_rows
        self._batch = batch
        self._names = batch.schema.names
        self._unfolded_bytes = 0

    def find(self, name: str) -> Column | None:
        """Return a column, unfolded; None where there is none, or one of nulls."""
        pa = _arrow()

        if name not in self._names:
            return None
        if self._names.count(name) > 1:
            raise InvalidArgumentError(f"two columns of the Arrow stream have one name. name={name!r}")
        column = self._batch.column(name)
        return None if pa.types.is_null(column.type) else self._unfolded(name, column)

    def _unfolded(self, name: str, column: Column) -> Column:
        """Return a column without dictionaries and extension types."""
        pa = _arrow()
        pc: Any = importlib.import_module("pyarrow.compute")

        if isinstance(column, pa.ExtensionArray):
            return self._unfolded(name, column.storage)
        if isinstance(column, pa.DictionaryArray):
            if not _is_text(column.type.value_type):
                raise _wrong_type(name, column.type, "dictionaries of texts")
            sizes = pc.take(pc.binary_length(column.dictionary), column.indices)
            self._unfolded_bytes += int(pc.sum(sizes).as_py() or 0)
            if self._unfolded_bytes > UNFOLDED_BYTES_MAX:
                raise InvalidArgumentError(
                    f"the dictionaries of an Arrow batch unfold to too much. bytes={self._unfolded_bytes}"
                )
            return column.dictionary_decode()
        return column

    def texts(self, name: str, *, required: bool = False) -> list[str | None]:
        column = self.find(name)
        if column is None:
            if required:
                raise InvalidArgumentError(f"an Arrow stream needs a column of this name: {name}")
            return [None] * self.count
        if not _is_text(column.type):
            raise _wrong_type(name, column.type, "string, large_string, or a dictionary of these")
        return cast("list[str | None]", column.to_pylist())

    def fields(self, name: str, column: Column) -> Iterator[tuple[str, list[Any]]]:
        """Yield the fields of a struct: null where the struct is."""
        for field, values in zip(column.type, column.flatten(), strict=True):
            yield field.name, self._unfolded(f"{name}.{field.name}", values).to_pylist()


def _is_text(kind: Kind) -> bool:
    pa = _arrow()

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _wrong_type(name: str, kind: Kind, expected: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"a column of the Arrow stream has the wrong type: {name} is {kind}, expected {expected}")


def _operations(texts: Sequence[str | None]) -> tuple[list[Operation], dict[int, str]]:
    found: list[Operation | None] = [_OPERATIONS.get(text) for text in texts]
    problems = {
        item: f"op is add, update, upsert or delete. got={str(texts[item])[:80]!r}"
        for item, operation in enumerate(found)
        if operation is None
    }
    nothing: Operation = "delete"
    return [operation or nothing for operation in found], problems


# ---- metadata


def _metadatas(columns: _Columns) -> tuple[list[Mapping[str, Any] | None], dict[int, str]]:
    """Return metadata from a struct, of which null fields are left out, or from JSON."""
    pa = _arrow()

    column = columns.find("metadata")
    if column is None:
        return [None] * columns.count, {}
    if isinstance(column, pa.StructArray):
        return _metadatas_of_struct(columns, column), {}
    if not _is_text(column.type):
        raise _wrong_type("metadata", column.type, "a struct, or JSON as a string")
    found: list[Mapping[str, Any] | None] = []
    problems: dict[int, str] = {}
    for item, text in enumerate(column.to_pylist()):
        metadata = None
        if text is not None:
            try:
                metadata = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                problems[item] = f"metadata is not JSON: {error}"
            if not isinstance(metadata, dict | None):
                problems[item] = "metadata is a JSON object, or null"
                metadata = None
        found.append(cast("dict[str, Any] | None", metadata))
    return found, problems


def _metadatas_of_struct(columns: _Columns, column: Column) -> list[Mapping[str, Any] | None]:
    names, values = zip(*columns.fields("metadata", column), strict=True) if len(column.type) else ((), ())
    if len(set(names)) < len(names):
        raise InvalidArgumentError("two fields of the metadata of the Arrow stream have one name")
    if not names:
        return [None] * columns.count
    if not any(None in items for items in values):
        return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
    present = (zip(names, row, strict=True) for row in zip(*values, strict=True))
    return [{name: value for name, value in row if value is not None} or None for row in present]


# ---- vectors


def _vectors(columns: _Columns, dimension: int | None) -> tuple[Vectors, Positions, Problems]:
    pa = _arrow()

    column = columns.find("embedding")
    if column is None:
        return NO_VECTORS, NO_ROWS, {}
    kind = column.type
    if _is_text(kind):
        return decode_vectors(cast("list[str | None]", column.to_pylist()), dimension)
    lists = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not lists or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise _wrong_type("embedding", kind, "a list of float32, of fixed size or not, or base64 as a string")
    rows = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    with np.errstate(over="ignore"):
        numbers = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    if pa.types.is_fixed_size_list(kind):
        lengths = np.full(len(rows), kind.list_size, dtype=np.int64)
    else:
        lengths = column.value_lengths().drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
    return _as_matrix(numbers, lengths, rows, dimension)


def _as_matrix(
    numbers: npt.NDArray[np.float32], lengths: Positions, rows: Positions, dimension: int | None
) -> tuple[Vectors, Positions, Problems]:
    """Return the vectors of the expected dimension, or else of the first one's, that are finite."""
    if not len(rows):
        return NO_VECTORS, NO_ROWS, {}
    problems = dict.fromkeys(rows[lengths == 0].tolist(), EMPTY_VECTOR)
    expected = dimension or next(iter(lengths[lengths > 0].tolist()), 0)
    fits = (lengths == expected) & (lengths > 0)
    if not fits.all():
        for row, length in zip(rows[~fits].tolist(), lengths[~fits].tolist(), strict=True):
            problems.setdefault(row, unlike(expected, length))
        numbers, rows = numbers[np.repeat(fits, lengths)], rows[fits]
    if not len(rows):
        return NO_VECTORS, NO_ROWS, problems
    matrix = numbers.reshape(len(rows), -1)
    if not np.isfinite(matrix.sum(dtype=np.float64)):
        finite = np.isfinite(matrix).all(axis=1)
        problems.update(dict.fromkeys(rows[~finite].tolist(), NOT_FINITE))
        matrix, rows = matrix[finite], rows[finite]
    return matrix, rows, problems
