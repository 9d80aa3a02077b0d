"""A data directory of Chroma 1.x, read without Chroma.

Format, found by looking at what Chroma 1.5.9 writes. `chroma.sqlite3` holds tenants, databases, collections and, per
collection, two segments: METADATA, whose records are in `embeddings`, `embedding_metadata` and
`embedding_metadata_array`, and VECTOR, which is a folder named by its id. Every write goes to `embeddings_queue` first;
`max_seq_id` says through which of its rows a segment has come. The metadata follow at once; the vectors when
`sync_threshold` rows have come together, and then the queue is purged. So a vector is in the folder, or in a newer row of
the queue.

The folder is hnswlib's: `header.bin` (version, and where things are), `data_level0.bin` (an element a row: links, vector,
label), `length.bin` (for cosine the vectors are normalised, and this is what they were divided by), and
`index_metadata.pickle`, which maps ids to labels. Pickles may run code, so only plain containers are read from it.
"""

from __future__ import annotations

import json
import pickle
import sqlite3
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from chroma_async.errors import ExchangeError
from chroma_async.model import Collection, JsonObject, Vectors
from chroma_async.protocol.collection_json import LEGACY_KEYS, collection_from_json
from chroma_async.protocol.results import Columns
from chroma_async.protocol.v1 import OLD_HNSW_NAMES

DATABASE_FILE: Final = "chroma.sqlite3"
DOCUMENT: Final = "chroma:document"
URI: Final = "chroma:uri"
RESERVED: Final = "chroma:"
ADD, UPDATE, UPSERT, DELETE = range(4)

_ROWS: Final = 500
_HEADER: Final = struct.Struct("<i6Q")
"""Version, offset of the links, capacity, elements, bytes of an element, offset of its label, offset of its vector."""

_DELETED_BYTE: Final = 2
_PICKLED: Final = ("chromadb.segment.impl.vector.local_persistent_hnsw", "PersistentData")

Reasons = Counter[str]
"""Why records could not be taken, and how many of them."""

Bytes = npt.NDArray[np.uint8]


@dataclass(slots=True)
class _Record:
    """A record that the queue changes. `row` is its place in `embeddings`; None for one that is new."""

    row: int | None
    metadata: JsonObject = field(default_factory=dict[str, Any])


class ChromaFiles:
    """An open directory. Nobody may write to it meanwhile."""

    def __init__(self, path: Path) -> None:
        """Open it for reading.

        Raises:
            ExchangeError: it is no data directory of Chroma 1.x.
        """
        file = path / DATABASE_FILE
        if not file.is_file():
            raise ExchangeError(f"this is no data directory of Chroma. path={path} missing={DATABASE_FILE!r}")
        self._path = path
        self._tables = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            self._tables.execute("BEGIN")
            found = self._tables.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            self._known = {str(row[0]) for row in found}
            self._columns = {str(row[1]) for row in self._tables.execute("PRAGMA table_info(collections)")}
        except sqlite3.Error as error:
            self._tables.close()
            raise ExchangeError(f"the database can't be read. file={file} reason={error}") from error
        if not {"collections", "databases", "embeddings", "max_seq_id"} <= self._known:
            self._tables.close()
            raise ExchangeError(f"an old Chroma wrote this; open it with Chroma 1.x once, which converts it. path={path}")

    def close(self) -> None:
        self._tables.close()

    # ---- collections

    def collections(self) -> list[Collection]:
        """All collections of all tenants, by tenant, database and name."""
        schema = "c.schema_str" if "schema_str" in self._columns else "NULL"
        found = self._tables.execute(
            f"SELECT c.id, c.name, c.dimension, d.name, d.tenant_id, c.config_json_str, {schema} "
            "FROM collections c JOIN databases d ON d.id = c.database_id ORDER BY d.tenant_id, d.name, c.name"
        )
        return [self._collection(row) for row in found.fetchall()]

    def _collection(self, row: Sequence[Any]) -> Collection:
        collection_id, name, dimension, database, tenant, configuration, schema_text = row
        raw: JsonObject = {"id": collection_id, "name": name, "dimension": dimension, "tenant": tenant, "database": database}
        raw["metadata"] = self._collection_metadata(collection_id)
        try:
            schema: JsonObject | None = json.loads(schema_text) if schema_text else None
            raw["schema"] = schema
            stored: JsonObject = json.loads(configuration) if configuration else {}
            raw["configuration_json"] = _configuration(stored, raw["metadata"] or {}, schema)
        except ValueError as error:
            raise ExchangeError(
                f"the configuration of a collection is damaged. collection={name!r} reason={error}"
            ) from error
        return collection_from_json(raw)

    def _collection_metadata(self, collection_id: str) -> JsonObject | None:
        found = self._tables.execute(
            "SELECT key, str_value, int_value, float_value, bool_value FROM collection_metadata WHERE collection_id = ?",
            (collection_id,),
        )
        return {key: _value(values) for key, *values in found} or None

    def count(self, collection: Collection) -> int:
        """Number of records, but for what only the queue knows of."""
        segment = self._segments(collection).get("METADATA", "")
        return int(self._tables.execute("SELECT count(*) FROM embeddings WHERE segment_id = ?", (segment,)).fetchone()[0])

    def _segments(self, collection: Collection) -> dict[str, str]:
        return dict(self._tables.execute("SELECT scope, id FROM segments WHERE collection = ?", (collection.id,)))

    def _through(self, segment: str | None) -> int:
        """The last row of the queue that a segment holds the effect of."""
        found = self._tables.execute("SELECT seq_id FROM max_seq_id WHERE segment_id = ?", (segment,)).fetchone()
        return 0 if found is None else _sequence(found[0])

    def _queue(self, collection: Collection, after: int) -> list[tuple[int, int, str, bool, str | None]]:
        """Sequence number, operation, id, whether it has a vector, and metadata of the newer writes."""
        return self._tables.execute(
            "SELECT seq_id, operation, id, vector IS NOT NULL AND length(vector) = ?, metadata FROM embeddings_queue "
            "WHERE seq_id > ? AND topic LIKE ? ORDER BY seq_id",
            (4 * (collection.dimension or 0), after, f"%/{collection.id}"),
        ).fetchall()

    # ---- records

    def pages(self, collection: Collection, reasons: Reasons) -> Iterator[Columns]:
        """All records in Chroma's order; those without a vector are counted in `reasons`."""
        segments = self._segments(collection)
        vectors = self._vectors(collection, segments.get("VECTOR"))
        segment = segments.get("METADATA", "")
        changed, dropped = self._changes(collection, segment)
        base = self._tables.execute("SELECT id, embedding_id FROM embeddings WHERE segment_id = ? ORDER BY id", (segment,))
        while rows := base.fetchmany(_ROWS):
            kept = [(row, record_id) for row, record_id in rows if row not in dropped]
            stored = self._metadata_of([row for row, record_id in kept if record_id not in changed])
            yield from self._page(
                {item: changed[item].metadata if item in changed else stored.get(row, {}) for row, item in kept},
                vectors,
                reasons,
            )
        new = {record_id: record.metadata for record_id, record in changed.items() if record.row is None}
        yield from self._page(new, vectors, reasons)

    def _page(self, records: Mapping[str, JsonObject], vectors: _FoundVectors, reasons: Reasons) -> Iterator[Columns]:
        ids = [record_id for record_id in records if record_id in vectors]
        if len(ids) < len(records):
            reasons[vectors.why_missing] += len(records) - len(ids)
        if ids:
            metadatas = [_shown(records[record_id], reasons) for record_id in ids]
            yield Columns(
                ids=ids,
                embeddings=vectors.of(ids),
                documents=[records[record_id].get(DOCUMENT) for record_id in ids],
                metadatas=metadatas,
                uris=[records[record_id].get(URI) for record_id in ids],
            )

    def _changes(self, collection: Collection, segment: str) -> tuple[dict[str, _Record], set[int]]:
        """Records that writes in the queue change, and rows of those that they delete; nearly always there are none."""
        changed: dict[str, _Record] = {}
        dropped = set[int]()
        for _, operation, record_id, _, text in self._queue(collection, self._through(segment)):
            record = changed.get(record_id) or self._stored(segment, record_id, dropped)
            if operation == DELETE:
                changed.pop(record_id, None)
                if record is not None and record.row is not None:
                    dropped.add(record.row)
                continue
            if (record is None and operation == UPDATE) or (record is not None and operation == ADD):
                continue
            record = changed.setdefault(record_id, record or _Record(None))
            for key, value in cast("JsonObject", json.loads(text or "{}") or {}).items():
                if value is None:
                    record.metadata.pop(key, None)
                else:
                    record.metadata[key] = value
        return changed, dropped

    def _stored(self, segment: str, record_id: str, dropped: set[int]) -> _Record | None:
        query = "SELECT id FROM embeddings WHERE segment_id = ? AND embedding_id = ?"
        found = self._tables.execute(query, (segment, record_id)).fetchone()
        if found is None or found[0] in dropped:
            return None
        return _Record(found[0], self._metadata_of([found[0]]).get(found[0], {}))

    def _metadata_of(self, rows: Sequence[int]) -> dict[int, JsonObject]:
        """What is stored beside these rows of `embeddings`, documents and uris included."""
        found: dict[int, JsonObject] = {}
        wanted = (json.dumps(list(rows)),)
        columns = "id, key, string_value, int_value, float_value, bool_value"
        for row, key, *values in self._tables.execute(
            f"SELECT {columns} FROM embedding_metadata WHERE id IN (SELECT value FROM json_each(?))", wanted
        ):
            found.setdefault(row, {})[key] = _value(values)
        if "embedding_metadata_array" in self._known:
            for row, key, *values in self._tables.execute(
                f"SELECT {columns} FROM embedding_metadata_array WHERE id IN (SELECT value FROM json_each(?)) "
                "ORDER BY id, rowid",
                wanted,
            ):
                found.setdefault(row, {}).setdefault(key, []).append(_value(values))
        return found

    # ---- vectors

    def _vectors(self, collection: Collection, segment: str | None) -> _FoundVectors:
        dimension = collection.dimension or 0
        index, why = _EMPTY_INDEX, "it has no vector"
        if segment is not None and self._through(segment):
            try:
                index = _read_index(self._path / segment, dimension, scaled=collection.hnsw.space == "cosine")
            except _Unreadable as error:
                why = f"the vector index can't be read ({error})"
        queued: dict[str, int] = {}
        rows = dict(index.rows)
        for number, operation, record_id, has_vector, _ in self._queue(collection, self._through(segment)):
            known = record_id in rows or record_id in queued
            if operation == DELETE:
                rows.pop(record_id, None)
                queued.pop(record_id, None)
            elif has_vector and (operation == UPSERT or known == (operation == UPDATE)):
                rows.pop(record_id, None)
                queued[record_id] = number
        return _FoundVectors(self._tables, dimension, index, rows, queued, why)


@dataclass(frozen=True, slots=True, eq=False)
class _Index:
    """Vectors of an index, mapped; `rows` says where an id's vector is. `lengths` is what they were divided by, or None."""

    rows: Mapping[str, int]
    vectors: Vectors
    lengths: npt.NDArray[np.float32] | None


_EMPTY_INDEX: Final = _Index({}, np.empty((0, 0), np.float32), None)


@dataclass(frozen=True, slots=True, eq=False)
class _FoundVectors:
    """Where each record's newest vector is: in a row of the index, or in the queue."""

    tables: sqlite3.Connection
    dimension: int
    index: _Index
    rows: Mapping[str, int]
    queued: Mapping[str, int]
    why_missing: str

    def __contains__(self, record_id: str) -> bool:
        return record_id in self.queued or record_id in self.rows

    def of(self, ids: Sequence[str]) -> Vectors:
        """Their vectors, shape (n, ndim)."""
        out = np.empty((len(ids), self.dimension), np.float32)
        for place, record_id in enumerate(ids):
            number = self.queued.get(record_id)
            out[place] = self._indexed(self.rows[record_id]) if number is None else self._queued(number)
        return out

    def _indexed(self, row: int) -> npt.NDArray[Any]:
        vector: npt.NDArray[Any] = self.index.vectors[row]
        return vector if self.index.lengths is None else np.multiply(vector, self.index.lengths[row])

    def _queued(self, number: int) -> npt.NDArray[Any]:
        query = "SELECT vector, encoding FROM embeddings_queue WHERE seq_id = ?"
        raw, encoding = self.tables.execute(query, (number,)).fetchone()
        return np.frombuffer(raw, dtype="<i4" if encoding == "INT32" else "<f4")


class _Unreadable(Exception):
    """What is wrong with an index."""


class _PlainUnpickler(pickle.Unpickler):
    """Reads dictionaries, lists, texts and numbers; and what older releases put around them, without its code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == _PICKLED:
            return _Persisted
        raise pickle.UnpicklingError(f"it names {module}.{name}")


class _Persisted:
    """Stands for Chroma's own class: nothing but attributes."""


def _read_index(folder: Path, dimension: int, *, scaled: bool) -> _Index:
    try:
        header = (folder / "header.bin").read_bytes()
        version, _, _, count, size, label_at, vector_at = _HEADER.unpack_from(header)
        if count * size > (folder / "data_level0.bin").stat().st_size:
            raise ValueError("data_level0.bin is too short")
        elements = np.memmap(folder / "data_level0.bin", dtype=np.uint8, mode="r") if count else np.empty(0, np.uint8)
        lengths = np.fromfile(folder / "length.bin", dtype="<f4", count=count) if scaled else None
        labels_of = _labels(folder / "index_metadata.pickle")
    except (OSError, ValueError, struct.error) as error:
        raise _Unreadable(str(error)) from error
    if version != 1 or vector_at + 4 * dimension != label_at or label_at + 8 > size:
        raise _Unreadable(f"its files do not fit together, or have another format. version={version}")
    if lengths is not None and len(lengths) < count:
        raise _Unreadable("length.bin is too short")
    table = cast("Bytes", elements[: count * size].reshape(count, size) if count else np.empty((0, 0), np.uint8))
    if not count:
        return _EMPTY_INDEX
    labels = np.ascontiguousarray(table[:, label_at : label_at + 8]).view("<u8").reshape(-1)
    alive = (table[:, _DELETED_BYTE] & 1) == 0
    row_of = dict(zip(labels[alive].tolist(), np.flatnonzero(alive).tolist(), strict=True))
    vectors = _strided(elements, count, size, vector_at, dimension)
    return _Index({item: row_of[label] for item, label in labels_of.items() if label in row_of}, vectors, lengths)


def _strided(elements: Bytes, count: int, size: int, first: int, dimension: int) -> Vectors:
    """The vectors of all elements, shape (count, dimension), without copying them."""
    found: Any = np.ndarray((count, dimension), dtype="<f4", buffer=elements, offset=first, strides=(size, 4))
    return cast("Vectors", found)


def _labels(path: Path) -> Mapping[str, int]:
    try:
        with path.open("rb") as file:
            loaded: Any = _PlainUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, UnicodeError) as error:
        raise ValueError(f"index_metadata.pickle is damaged or no plain data: {error}") from error
    fields: Any = vars(loaded) if isinstance(loaded, _Persisted) else loaded
    found: Any = cast("JsonObject", fields).get("id_to_label") if isinstance(fields, dict) else None
    if not isinstance(found, dict) or not all(isinstance(label, int) for label in cast("dict[str, object]", found).values()):
        raise ValueError("index_metadata.pickle has no labels")
    return cast("dict[str, int]", found)


def _configuration(stored: JsonObject, metadata: JsonObject, schema: JsonObject | None) -> JsonObject:
    """The configuration of a collection, as Chroma 1.5.9 shows it, wherever the release has put it that made it.

    1.0 stores it by the kind of index. Since 1.3 the schema has it. Before 1.0 metadata had it; 0.6 stores defaults beside.

    Raises:
        ValueError: it is stored in some other way. The default would be another space, and other vectors.
    """
    if "vector_index" in stored:
        index: JsonObject = stored["vector_index"] or {}
        return {"hnsw": index.get("hnsw") or {}, "embedding_function": stored.get("embedding_function")}
    if "hnsw" in stored:
        return stored
    if stored.keys() - {"hnsw_configuration", "embedding_function", "_type"}:
        raise ValueError(f"unknown parts {', '.join(sorted(stored))}")
    if schema is not None:
        return _configuration_of(schema)
    before: JsonObject = stored.get("hnsw_configuration") or {}
    hnsw: JsonObject = {new: before[old] for old, new in OLD_HNSW_NAMES.items() if old in before}
    hnsw |= {new: metadata[key] for key, new in LEGACY_KEYS.items() if key in metadata}
    return {"hnsw": hnsw}


def _configuration_of(schema: JsonObject) -> JsonObject:
    """The configuration that a schema says."""
    try:
        index = schema["keys"]["#embedding"]["float_list"]["vector_index"]["config"]
    except KeyError:
        return {}
    space = {"space": index["space"]} if index.get("space") else {}
    return {"hnsw": {**(index.get("hnsw") or {}), **space}, "embedding_function": index.get("embedding_function")}


def _shown(metadata: JsonObject, reasons: Reasons) -> JsonObject | None:
    """Metadata without Chroma's own fields, and without what this database has no type for."""
    kept = {key: value for key, value in metadata.items() if not key.startswith(RESERVED)}
    for key in [key for key, value in kept.items() if isinstance(value, dict)]:
        reasons[f"field {key!r} left out: a sparse vector"] += 1
        del kept[key]
    return kept or None


def _value(values: Sequence[Any]) -> Any:
    """The value of a row that has one column for each type: string, int, float, bool."""
    text, whole, share, flag = values
    if flag is not None:
        return bool(flag)
    return next((value for value in (text, whole, share) if value is not None), None)


def _sequence(stored: int | bytes) -> int:
    return stored if isinstance(stored, int) else int.from_bytes(stored, "big")
