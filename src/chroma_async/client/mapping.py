"""Which column of a source is which field of a line.

Columns named `id`, `op`, `embedding`, `document`, `metadata` and `uri` are these fields. `metadata` is an object, or JSON;
every other column is a field of the metadata. A mapping says otherwise, field by field:

    {"id": "article", "document": "text", "metadata": ["year:int", "language"]}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from chroma_async.client.cells import (
    CELL_TYPES,
    BadLine,
    is_missing,
    parser,
    to_id,
    to_metadata,
    to_object,
    to_operation,
    to_plain,
    to_text,
    to_vector,
)
from chroma_async.client.lines import Lines, Vector, VectorColumn, column_of
from chroma_async.model import Operation

T = TypeVar("T")

FIELDS: Final = ("id", "op", "embedding", "document", "metadata", "uri")

HOW_TO_MAP: Final = 'mapping={"id": "column", "document": "column", "metadata": ["column", "column:int"]}'

NO_ID: Final = f"no column is the id; say which: {HOW_TO_MAP}"


@dataclass(frozen=True, slots=True)
class MetadataColumn:
    """A column that is a field of the metadata; `kind` is the type that its cells are brought to, None for their own."""

    field: str
    column: str
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """Where the fields of a line are in a source with certain columns. `embedding` may be one number in each column."""

    id: str | None
    op: str | None
    embedding: str | tuple[str, ...] | None
    document: str | None
    metadata: str | None
    uri: str | None
    fields: tuple[MetadataColumn, ...]


class ColumnMapping:
    """What the user said, in a form that can be asked about any set of columns."""

    def __init__(self, given: Mapping[str, Any] | None) -> None:
        """Understand a mapping.

        Raises:
            ValueError: it names no field of ours, or gives one no column.
        """
        given = given or {}
        self.is_given = bool(given)
        unknown = [name for name in given if name not in FIELDS]
        if unknown:
            raise ValueError(f"mapping: unknown field {unknown[0]!r}; the fields of a line are {', '.join(FIELDS)}")
        self._given = {name: _columns_of(name, value) for name, value in given.items() if name != "metadata"}
        self._object, self._fields = _metadata_of(given["metadata"]) if "metadata" in given else (None, None)
        self._shapes: dict[tuple[str, ...], Shape] = {}

    def shape(self, columns: Iterable[str], *, strict: bool) -> Shape:
        """Return where the fields are among these columns.

        Raises:
            ValueError: `strict`, and a column that the mapping names is not there, or two have one name.
        """
        key = tuple(columns)
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shape(key, strict)
            if len(self._shapes) < 1024:
                self._shapes[key] = shape
        return shape

    def _shape(self, columns: tuple[str, ...], strict: bool) -> Shape:
        if strict:
            self._require(columns)
        places = {name: self._column(name, columns) for name in FIELDS if name != "metadata"}
        whole = self._object
        if whole is None and self._fields is None and "metadata" in columns:
            whole = "metadata"
        used = {whole, *places.values(), *(places["embedding"] if isinstance(places["embedding"], tuple) else ())}
        fields = self._fields
        if fields is None and self._object is None:
            fields = tuple(MetadataColumn(name, name) for name in columns if name not in used)
        return Shape(
            id=cast("str | None", places["id"]),
            op=cast("str | None", places["op"]),
            embedding=places["embedding"],
            document=cast("str | None", places["document"]),
            metadata=whole,
            uri=cast("str | None", places["uri"]),
            fields=fields or (),
        )

    def _column(self, name: str, columns: tuple[str, ...]) -> str | tuple[str, ...] | None:
        if name in self._given:
            return self._given[name]
        return name if name in columns and not self._is_taken(name) else None

    def _is_taken(self, column: str) -> bool:
        """Whether the mapping uses a column that has the name of a field for something else."""
        others = (other for given in self._given.values() for other in ((given,) if isinstance(given, str) else given))
        return column in others or any(field.column == column for field in self._fields or ()) or column == self._object

    def _require(self, columns: tuple[str, ...]) -> None:
        repeated = next((name for place, name in enumerate(columns) if name in columns[:place]), None)
        if repeated is not None:
            raise ValueError(f"two columns have one name. name={repeated!r}")
        wanted = [
            *(column for given in self._given.values() for column in ((given,) if isinstance(given, str) else given)),
            *(field.column for field in self._fields or ()),
            *((self._object,) if self._object is not None else ()),
        ]
        missing = [column for column in wanted if column not in columns]
        if missing:
            raise ValueError(f"mapping: there is no column {missing[0]!r}. columns={', '.join(columns)}")


def _columns_of(name: str, value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str) and value:
        return value
    if name == "embedding" and isinstance(value, list | tuple):
        names = cast("Sequence[Any]", value)
        if names and all(isinstance(item, str) and item for item in names):
            return tuple(cast("Sequence[str]", names))
    several = ", or a list of columns with a number each" if name == "embedding" else ""
    raise ValueError(f"mapping[{name!r}] must name a column{several}. got={value!r}")


def _metadata_of(value: Any) -> tuple[str | None, tuple[MetadataColumn, ...] | None]:
    """Return the column of the whole object, or those of its fields."""
    if isinstance(value, str) and value:
        return value, None
    if isinstance(value, list | tuple):
        names = cast("Sequence[Any]", value)
        return None, tuple(_metadata_column(None, name) for name in names)
    if isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value)
        return None, tuple(_metadata_column(str(field), name) for field, name in entries.items())
    raise ValueError(
        "mapping['metadata'] must name the column of an object, list the columns that are its fields, or be a dict of field "
        f"and column. got={value!r}"
    )


def _metadata_column(field: str | None, text: Any) -> MetadataColumn:
    if not isinstance(text, str) or not text:
        raise ValueError(f"mapping['metadata']: a column is a text, such as 'year' or 'year:int'. got={text!r}")
    column, _, kind = text.rpartition(":")
    if not column or kind not in CELL_TYPES:
        return MetadataColumn(field or text, text)
    return MetadataColumn(field or column, column, kind)


# ---- columns to lines


def lines_of(
    columns: Mapping[str, Sequence[Any]],
    count: int,
    shape: Shape,
    operation: Operation,
    vectors: tuple[VectorColumn, Mapping[int, str]] | None = None,
) -> Lines:
    """Return `count` lines of columns, each of which has as many cells.

    `vectors` are those of the lines, and what is wrong with some, where they were read in another way.
    """
    faults: dict[int, str] = {}
    ids = _converted(columns.get(shape.id or ""), count, to_id, "", faults, required=True)
    documents = _converted(columns.get(shape.document or ""), count, lambda value: to_text(value, "document"), None, faults)
    uris = _converted(columns.get(shape.uri or ""), count, lambda value: to_text(value, "uri"), None, faults)
    operations = _converted(columns.get(shape.op or ""), count, to_operation, operation, faults)
    if vectors is None:
        vectors = _vectors(columns, count, shape, faults), {}
    metadatas = _metadatas(columns, count, shape, faults)
    for place, fault in vectors[1].items():
        faults.setdefault(place, fault)
    return Lines(
        ids=cast("list[str]", ids),
        operations=operation if operations is None else cast("list[Operation]", operations),
        vectors=vectors[0],
        documents=cast("list[str | None] | None", documents),
        metadatas=metadatas,
        uris=cast("list[str | None] | None", uris),
        faults=faults,
    )


def _converted(
    cells: Sequence[Any] | None,
    count: int,
    convert: Callable[[Any], T],
    otherwise: Any,
    faults: dict[int, str],
    *,
    required: bool = False,
) -> list[Any] | None:
    if cells is None:
        if required:
            faults.update((place, "there is no id") for place in range(count))
            return [otherwise] * count
        return None
    found: list[Any] = []
    for place, cell in enumerate(cells):
        if not required and is_missing(cell):
            found.append(otherwise)
            continue
        try:
            found.append(convert(cell))
        except BadLine as error:
            faults.setdefault(place, str(error))
            found.append(otherwise)
    return found


def _vectors(columns: Mapping[str, Sequence[Any]], count: int, shape: Shape, faults: dict[int, str]) -> VectorColumn:
    if isinstance(shape.embedding, tuple):
        cells: Sequence[Any] = [
            None if all(map(is_missing, numbers)) else numbers
            for numbers in zip(*(_numbers(columns[name]) for name in shape.embedding), strict=True)
        ]
    elif shape.embedding is not None and shape.embedding in columns:
        cells = columns[shape.embedding]
    else:
        return None
    return column_of(cast("list[Vector | None]", _converted(cells, count, to_vector, None, faults)))


def _numbers(cells: Sequence[Any]) -> Sequence[Any]:
    """Cells of text as numbers where they are; others are told apart later."""
    return [_number(cell) if isinstance(cell, str) else cell for cell in cells]


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _metadatas(
    columns: Mapping[str, Sequence[Any]], count: int, shape: Shape, faults: dict[int, str]
) -> list[bytes | None] | None:
    whole = columns.get(shape.metadata or "")
    fields = [(field, columns[field.column]) for field in shape.fields if field.column in columns]
    if whole is None and not fields:
        return None
    found: list[bytes | None] = []
    for place in range(count):
        try:
            found.append(_metadata(None if whole is None else whole[place], fields, place))
        except BadLine as error:
            faults.setdefault(place, str(error))
            found.append(None)
    return found


def _metadata(whole: Any, fields: list[tuple[MetadataColumn, Sequence[Any]]], place: int) -> bytes | None:
    if is_missing(whole):
        whole = None
    if not fields:
        return to_metadata(whole)
    together: dict[str, Any] = {}
    for field, cells in fields:
        cell = cells[place]
        if not is_missing(cell):
            together[field.field] = to_plain(cell) if field.kind is None else parser(field.kind)(field.column, cell)
    if whole is None:
        return to_metadata(together)
    whole = to_object(whole)
    if not isinstance(whole, Mapping):
        raise BadLine(f"metadata must be an object. got={type(whole).__name__}")
    return to_metadata({**together, **cast("Mapping[str, Any]", whole)})
