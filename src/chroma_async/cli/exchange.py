"""Collections as files: NDJSON, and Parquet where pyarrow is installed. docs/backup.md describes both.

A file says what collection it was, so that an import makes an equal one, and is written aside and renamed when it is whole.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeVar, cast

import msgspec
import numpy as np
import orjson
from msgspec.structs import replace

from chroma_async.errors import ChromaError, ExchangeError
from chroma_async.model import Collection, JsonObject, Vectors
from chroma_async.protocol import CreateCollection
from chroma_async.protocol.collection_json import LEGACY_KEYS, ConfigurationInput, HnswInput
from chroma_async.protocol.embeddings import EmbeddingBatch, decode_embedding_batch
from chroma_async.protocol.results import Columns, StoredMetadata, metadata_object, spliced
from chroma_async.protocol.schema import shown_schema

T = TypeVar("T")

FORMAT: Final = 1
PARQUET_KEY: Final = b"chroma_async"
_ROWS: Final = 500
_NEED_PYARROW: Final = "Parquet needs pyarrow: pip install 'chroma-async[parquet]', or name a file that ends with .ndjson"


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """A collection without its records: the first line of NDJSON, and a key of Parquet's metadata."""

    chroma_async_export: int = FORMAT
    name: str
    dimension: int | None = None
    metadata: JsonObject | None = None
    hnsw: JsonObject = {}
    embedding_function: JsonObject | None = None
    schema: JsonObject | None = None

    @classmethod
    def of(cls, collection: Collection) -> Definition:
        return cls(
            name=collection.name,
            dimension=collection.dimension,
            metadata=collection.metadata,
            hnsw={name: getattr(collection.hnsw, name) for name in HnswInput.__struct_fields__},
            embedding_function=collection.embedding_function,
            schema=_own_schema(collection),
        )

    def creation(self, tenant: str, database: str, name: str) -> CreateCollection:
        """The call that makes such a collection.

        One whose metadata says how it is indexed was made without a schema, since both are refused: what it has is derived.
        """
        if self.schema is not None and not LEGACY_KEYS.keys() & (self.metadata or {}).keys():
            return CreateCollection(tenant=tenant, database=database, name=name, metadata=self.metadata, schema=self.schema)
        hnsw = msgspec.convert(self.hnsw, HnswInput)
        configuration = ConfigurationInput(hnsw=hnsw, embedding_function=self.embedding_function)
        return CreateCollection(
            tenant=tenant, database=database, name=name, metadata=self.metadata, configuration=configuration
        )

    def differences(self, collection: Collection) -> list[str]:
        """What of a collection that exists keeps these records out, or would answer otherwise with them."""
        other = msgspec.structs.asdict(collection.hnsw)
        found = [
            f"{name}: file={value!r} collection={other[name]!r}"
            for name, value in self.hnsw.items()
            if name == "space" and other[name] != value
        ]
        if None not in (self.dimension, collection.dimension) and self.dimension != collection.dimension:
            found.append(f"dimension: file={self.dimension} collection={collection.dimension}")
        return found


def _own_schema(collection: Collection) -> JsonObject | None:
    """The schema that a collection was made with; None for the one that every collection shows (servers tell no more)."""
    shown = shown_schema(replace(collection, schema=None))
    return None if collection.schema == shown else collection.schema


class Sink(Protocol):
    def write(self, columns: Columns) -> None: ...

    def finish(self, records: int) -> None: ...


class Source(Protocol):
    """An exported file. `pages` says how far it is, as done and total, with each of them."""

    definition: Definition

    def pages(self) -> Iterator[tuple[Columns, int, int]]: ...


def is_parquet(path: Path) -> bool:
    return path.suffix in (".parquet", ".pq")


@contextmanager
def new_file(path: Path, definition: Definition, *, lists: bool) -> Generator[Sink]:
    """Write a file aside, and give it its name when it is whole.

    Raises:
        ExchangeError: it is to be Parquet, and pyarrow is not installed.
    """
    aside = path.with_name(f"{path.name}.partial")
    try:
        if is_parquet(path):
            with _new_parquet(aside, definition) as sink:
                yield sink
        else:
            with aside.open("wb") as file:
                yield _NdjsonSink(file, definition, lists=lists)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def open_file(path: Path) -> Generator[Source]:
    """Open an exported file.

    Raises:
        ExchangeError: it is none, or of a newer release; or it is Parquet, and pyarrow is not installed.
    """
    with path.open("rb") as file:
        yield _ParquetSource(path, file) if is_parquet(path) else _NdjsonSource(path, file)


def _read_definition(raw: bytes, path: Path) -> Definition:
    try:
        definition = msgspec.json.decode(raw, type=Definition)
        if b"chroma_async_export" not in raw:
            raise msgspec.DecodeError("it does not say chroma_async_export")
    except msgspec.DecodeError as error:
        raise ExchangeError(f"this is no exported collection. file={path} reason={error}") from error
    if definition.chroma_async_export > FORMAT:
        raise ExchangeError(
            f"a newer release exported this; upgrade chroma_async to import it. file={path} "
            f"format={definition.chroma_async_export} known={FORMAT}"
        )
    return definition


def missing_in(there: Columns, columns: Columns) -> Columns:
    """The rows of `columns` that `there`, which has every column, has not or has otherwise.

    Where it has fields that a row has not, that row's metadata says None for them: an upsert merges field by field.
    """
    known = {record_id: row for row, record_id in enumerate(there.ids)}
    rows: list[int] = []
    metadatas: list[JsonObject | None] = []
    for row, record_id in enumerate(columns.ids):
        other = known.get(record_id)
        metadata = _cell(columns.metadatas, row)
        before = None if other is None else _cell(there.metadatas, other)
        if other is None or _content(columns, row, metadata) != _content(there, other, before):
            rows.append(row)
            metadatas.append({**dict.fromkeys(before), **(metadata or {})} if before else metadata)
    return Columns(
        ids=[columns.ids[row] for row in rows],
        embeddings=cast("Vectors", columns.embeddings)[rows],
        documents=None if columns.documents is None else [columns.documents[row] for row in rows],
        metadatas=metadatas,
        uris=None if columns.uris is None else [columns.uris[row] for row in rows],
    )


def _cell(metadatas: Sequence[StoredMetadata] | None, row: int) -> JsonObject | None:
    return None if metadatas is None else metadata_object(metadatas[row])


def _content(columns: Columns, row: int, metadata: JsonObject | None) -> tuple[object, ...]:
    vector = cast("Vectors", columns.embeddings)[row].tobytes()
    texts = (None if column is None else column[row] for column in (columns.documents, columns.uris))
    return vector, orjson.dumps(metadata, option=orjson.OPT_SORT_KEYS), *texts


# ---- NDJSON


class _Line(msgspec.Struct, frozen=True):
    id: str
    embedding: msgspec.Raw
    document: str | None = None
    metadata: dict[str, Any] | None = None
    uri: str | None = None


class _End(msgspec.Struct, frozen=True):
    """The last line. Without it a file was cut off."""

    end: int


class _NdjsonSink:
    def __init__(self, file: BinaryIO, definition: Definition, *, lists: bool) -> None:
        self._file = file
        self._lists = lists
        file.write(msgspec.json.encode(definition) + b"\n")

    def write(self, columns: Columns) -> None:
        vectors = columns.embeddings if columns.embeddings is not None else np.empty((0, 0), np.float32)
        embeddings: Sequence[object] = list(vectors) if self._lists else EmbeddingBatch(vectors).to_wire()
        cells = {
            "document": columns.documents or [],
            "metadata": spliced(columns.metadatas) or [],
            "uri": columns.uris or [],
        }
        for row, record_id in enumerate(columns.ids):
            line: JsonObject = {"id": record_id, "embedding": embeddings[row]}
            line.update({name: cell[row] for name, cell in cells.items() if cell[row] is not None})
            self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY))

    def finish(self, records: int) -> None:
        self._file.write(msgspec.json.encode(_End(records)) + b"\n")


class _NdjsonSource:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self.definition = _read_definition(file.readline(), path)

    def pages(self) -> Iterator[tuple[Columns, int, int]]:
        total, lines, number, last, end = self._path.stat().st_size, list[_Line](), 1, 1, None
        count = 0
        for number, raw in enumerate(self._file, 2):
            if end is not None:
                raise ExchangeError(f"there is something after the last line. file={self._path} line={number}")
            if raw.startswith(b'{"end":'):
                end = self._decoded(raw, number, _End).end
            else:
                lines.append(self._decoded(raw, number, _Line))
                last, count = number, count + 1
            if len(lines) == _ROWS:
                yield self._columns(lines, last), self._file.tell(), total
                lines = []
        if end not in (None, count):
            raise ExchangeError(f"the file has not as many records as it says. file={self._path} records={count} said={end}")
        if lines:
            yield self._columns(lines, last), total, total
        if end is None:
            raise ExchangeError(f"the file was cut off: its last line is missing. file={self._path} lines={number}")

    def _decoded(self, raw: bytes, number: int, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.DecodeError as error:
            raise ExchangeError(f"this line is no record. file={self._path} line={number} reason={error}") from error

    def _columns(self, lines: Sequence[_Line], last: int) -> Columns:
        try:
            batch = decode_embedding_batch([msgspec.json.decode(line.embedding) for line in lines], nulls_allowed=False)
            if batch.refusal is not None:
                raise batch.refusal
        except ChromaError as error:
            raise ExchangeError(
                f"a vector can't be read. file={self._path} lines={last - len(lines) + 1}-{last} reason={error}"
            ) from error
        return Columns(
            ids=[line.id for line in lines],
            embeddings=batch.vectors,
            documents=[line.document for line in lines],
            metadatas=[line.metadata for line in lines],
            uris=[line.uri for line in lines],
        )


# ---- Parquet


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ExchangeError(f"{_NEED_PYARROW}. missing={error.name}") from error
    return pyarrow, pyarrow.parquet


class _ParquetSink:
    def __init__(self, writer: Any, schema: Any, dimension: int | None) -> None:
        self._writer = writer
        self._schema = schema
        self._dimension = dimension

    def write(self, columns: Columns) -> None:
        pa, _ = _pyarrow()
        vectors = cast("Vectors", columns.embeddings)
        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1), type=pa.float32())
        metadatas = [_metadata_text(item) for item in columns.metadatas or ()]
        arrays = [
            pa.array(columns.ids, type=pa.string()),
            pa.FixedSizeListArray.from_arrays(flat, self._dimension or vectors.shape[1]),
            pa.array(columns.documents, type=pa.string()),
            pa.array(metadatas, type=pa.string()),
            pa.array(columns.uris, type=pa.string()),
        ]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))

    def finish(self, records: int) -> None:
        """Parquet says itself how many rows it has, and where it ends."""


def _metadata_text(item: StoredMetadata) -> str | None:
    if item is None:
        return None
    return item.decode() if isinstance(item, bytes) else orjson.dumps(item).decode()


@contextmanager
def _new_parquet(path: Path, definition: Definition) -> Generator[Sink]:
    pa, parquet = _pyarrow()
    schema = pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.float32(), definition.dimension or 1)),
            pa.field("document", pa.string()),
            pa.field("metadata", pa.string()),
            pa.field("uri", pa.string()),
        ],
        metadata={PARQUET_KEY: msgspec.json.encode(definition)},
    )
    with parquet.ParquetWriter(path, schema) as writer:
        yield _ParquetSink(writer, schema, definition.dimension)


class _ParquetSource:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        pa, parquet = _pyarrow()
        try:
            self._file = parquet.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise ExchangeError(f"this is no whole Parquet file. file={path} reason={error}") from error
        found = cast("Mapping[bytes, bytes]", self._file.schema_arrow.metadata or {})
        if PARQUET_KEY not in found:
            raise ExchangeError(f"this Parquet file is no exported collection. file={path} missing_key='chroma_async'")
        self.definition = _read_definition(found[PARQUET_KEY], path)

    def pages(self) -> Iterator[tuple[Columns, int, int]]:
        total, done = int(self._file.metadata.num_rows), 0
        for batch in self._file.iter_batches(batch_size=_ROWS):
            table: Any = batch
            done += int(table.num_rows)
            vectors = table.column("embedding").flatten().to_numpy(zero_copy_only=False)
            texts = cast("list[str | None]", table.column("metadata").to_pylist())
            columns = Columns(
                ids=table.column("id").to_pylist(),
                embeddings=np.ascontiguousarray(vectors, dtype=np.float32).reshape(table.num_rows, -1),
                documents=table.column("document").to_pylist(),
                metadatas=[None if text is None else metadata_object(text.encode()) for text in texts],
                uris=table.column("uri").to_pylist(),
            )
            yield columns, done, total
