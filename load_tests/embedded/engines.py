"""What the runner does with each library: store the same records, answer the same questions.

Each is used as its documentation shows, with its defaults and one thread: an index for the fields that filters use
where there is such a thing, and the vector index that it makes by itself. Questions are prepared ahead in the form that
the library takes; what is timed is the library's own call, what is read from its answer is not.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

N_RESULTS = 10
BATCH = 500
MODULI = (2, 10, 100, 1000)
_INDEXING_SECONDS_MAX = 600.0
_POLL_SECONDS = 0.05

Call = Callable[[int], Any]


@dataclass(frozen=True)
class Records:
    """What is stored, `vectors` and `queries` of shape (n, ndim) float32. Record i has the fields `n_mod_M = i % M`."""

    ids: list[str]
    documents: list[str]
    vectors: Any
    queries: Any


@dataclass(frozen=True)
class Work:
    """One kind of question: ids and distances of the nearest, maybe their documents too, maybe filtered.

    With a `modulus`, question q is for records with `n_mod_M == q % M`, or `!=` if `negated`. `ef` and `view` are for
    a bare index.
    """

    name: str
    modulus: int = 0
    negated: bool = False
    documents: bool = False
    ef: int = 0
    view: bool = False


@dataclass(frozen=True)
class Answer:
    """`keys` are ids, or numbers of records where a library has no ids of text."""

    keys: list[Any]
    distances: list[float]
    documents: list[str] | None


class Engine(Protocol):
    """A library with the records in it."""

    def ingest(self, records: Records, directory: Path) -> None:
        """Store everything, `BATCH` records at a time."""
        ...

    def index(self) -> None:
        """Wait until everything is indexed, or do it."""
        ...

    def prepare(self, work: Work) -> tuple[Call, Callable[[Any], Answer]] | None:
        """A function that asks question number q, and one that reads what it returns; None if it can't do this."""
        ...


class ChromaAsync:
    """Our `PersistentClient`."""

    package = "chroma-async"

    def __init__(self) -> None:
        self._collection: Any = None
        self._queries: Any = None

    def ingest(self, records: Records, directory: Path) -> None:
        """See `Engine`."""
        self.open(records, directory)
        for start in range(0, len(records.ids), BATCH):
            rows = range(start, min(start + BATCH, len(records.ids)))
            self._collection.add(
                ids=[records.ids[row] for row in rows],
                embeddings=records.vectors[start : rows.stop],
                documents=[records.documents[row] for row in rows],
                metadatas=[{f"n_mod_{modulus}": row % modulus for modulus in MODULI} for row in rows],
            )

    def open(self, records: Records, directory: Path, name: str = "records") -> None:
        """Take a collection that is there, or make it."""
        import chroma_async

        client = chroma_async.PersistentClient(path=str(directory))
        self._collection = client.get_or_create_collection(name, configuration={"hnsw": {"space": "cosine"}})
        self._queries = records.queries

    def index(self) -> None:
        """See `Engine`."""
        deadline = time.monotonic() + _INDEXING_SECONDS_MAX
        while self._collection.get_indexing_status().num_unindexed_ops:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not indexed in {_INDEXING_SECONDS_MAX:g} s")
            time.sleep(_POLL_SECONDS)

    def prepare(self, work: Work) -> tuple[Call, Callable[[Any], Answer]] | None:
        """See `Engine`."""
        if work.ef or work.view:
            return None
        query, queries = self._collection.query, [row[None, :] for row in self._queries]
        include = ["distances", "documents"] if work.documents else ["distances"]
        operator = "$ne" if work.negated else "$eq"
        wheres: list[Any] = [{f"n_mod_{work.modulus}": {operator: value}} for value in range(work.modulus)] or [None]

        def call(number: int) -> Any:
            where = wheres[number % len(wheres)]
            return query(query_embeddings=queries[number], n_results=N_RESULTS, where=where, include=include)

        def read(found: Any) -> Answer:
            documents = found["documents"][0] if work.documents else None
            return Answer(list(found["ids"][0]), list(found["distances"][0]), documents)

        return call, read


class QdrantEdge:
    """A shard with an index for each field, optimised until it has nothing left to optimise."""

    package = "qdrant-edge-py"

    def __init__(self) -> None:
        self._shard: Any = None
        self._queries: Any = None

    def ingest(self, records: Records, directory: Path) -> None:
        """See `Engine`."""
        q: Any = importlib.import_module("qdrant_edge")
        params = q.EdgeVectorParams(size=records.vectors.shape[1], distance=q.Distance.Cosine)
        config = q.EdgeConfig(vectors=params, max_search_threads=1)
        shard = self._shard = q.EdgeShard.create(str(directory), config)
        for modulus in MODULI:
            shard.update(q.UpdateOperation.create_field_index(f"n_mod_{modulus}", q.PayloadSchemaType.Integer))
        for start in range(0, len(records.ids), BATCH):
            points = [
                q.Point(row, records.vectors[row].tolist(), _payload(records, row))
                for row in range(start, min(start + BATCH, len(records.ids)))
            ]
            shard.update(q.UpdateOperation.upsert_points(points))
        shard.flush()
        self._queries = records.queries

    def index(self) -> None:
        """See `Engine`."""
        self._shard.optimize()

    def prepare(self, work: Work) -> tuple[Call, Callable[[Any], Answer]] | None:
        """See `Engine`."""
        q: Any = importlib.import_module("qdrant_edge")
        if work.ef or work.view:
            return None
        search, queries = self._shard.search, [row.tolist() for row in self._queries]

        def matching(value: int) -> Any:
            condition = q.FieldCondition(f"n_mod_{work.modulus}", match=q.MatchValue(value))
            return q.Filter(must_not=[condition]) if work.negated else q.Filter(must=[condition])

        filters = [matching(value) for value in range(work.modulus)] or [None]

        def call(number: int) -> Any:
            nearest, matches = q.Query.Nearest(queries[number]), filters[number % len(filters)]
            return search(q.SearchRequest(nearest, N_RESULTS, filter=matches, with_payload=work.documents))

        def read(found: Any) -> Answer:
            documents = [point.payload["document"] for point in found] if work.documents else None
            return Answer([point.id for point in found], [1 - point.score for point in found], documents)

        return call, read


class LanceDb:
    """A table with a bitmap index for each field. Vectors are scanned: that is what LanceDB does until told otherwise."""

    package = "lancedb"

    def __init__(self) -> None:
        self._table: Any = None
        self._queries: Any = None

    def ingest(self, records: Records, directory: Path) -> None:
        """See `Engine`."""
        lancedb: Any = importlib.import_module("lancedb")
        pa: Any = importlib.import_module("pyarrow")
        connection = lancedb.connect(str(directory))
        ndim = records.vectors.shape[1]
        for start in range(0, len(records.ids), BATCH):
            rows = range(start, min(start + BATCH, len(records.ids)))
            flat = pa.array(records.vectors[start : rows.stop].ravel())
            batch = pa.table(
                {
                    "row": pa.array(rows),
                    "vector": pa.FixedSizeListArray.from_arrays(flat, ndim),
                    "document": records.documents[start : rows.stop],
                    **{f"n_mod_{modulus}": pa.array([row % modulus for row in rows]) for modulus in MODULI},
                }
            )
            if self._table is None:
                self._table = connection.create_table("records", batch)
            else:
                self._table.add(batch)
        self._queries = records.queries

    def index(self) -> None:
        """See `Engine`."""
        bitmap = importlib.import_module("lancedb.index").Bitmap
        for modulus in MODULI:
            self._table.create_index(f"n_mod_{modulus}", config=bitmap())
        self._table.optimize()

    def prepare(self, work: Work) -> tuple[Call, Callable[[Any], Answer]] | None:
        """See `Engine`."""
        if work.ef or work.view:
            return None
        columns = ["row", "_distance", *(["document"] if work.documents else [])]
        operator = "!=" if work.negated else "="
        wheres = [f"n_mod_{work.modulus} {operator} {value}" for value in range(work.modulus)]

        def call(number: int) -> Any:
            search = self._table.search(self._queries[number]).distance_type("cosine").limit(N_RESULTS).select(columns)
            if wheres:
                search = search.where(wheres[number % len(wheres)], prefilter=True)
            return search.to_arrow()

        def read(found: Any) -> Answer:
            documents = found["document"].to_pylist() if work.documents else None
            return Answer(found["row"].to_pylist(), found["_distance"].to_pylist(), documents)

        return call, read


class USearch:
    """A bare index: no filters; documents come from a list in memory."""

    package = "usearch"

    def __init__(self) -> None:
        self._index: Any = None
        self._path = ""
        self._records: Any = None

    def ingest(self, records: Records, directory: Path) -> None:
        """See `Engine`."""
        from usearch.index import Index

        self._index = Index(ndim=records.vectors.shape[1], metric="cos")
        self._index.add(np.arange(len(records.ids), dtype=np.uint64), records.vectors, threads=1)
        directory.mkdir(parents=True, exist_ok=True)
        self._path = str(directory / "index.usearch")
        self._records = records

    def index(self) -> None:
        """See `Engine`."""
        self._index.save(self._path)

    def prepare(self, work: Work) -> tuple[Call, Callable[[Any], Answer]] | None:
        """See `Engine`."""
        from usearch.index import Index

        if work.modulus:
            return None
        queries, documents = self._records.queries, self._records.documents
        index: Any = Index.restore(self._path, view=True) if work.view else self._index
        index.expansion_search = work.ef or Index(ndim=8).expansion_search

        def call(number: int) -> Any:
            found = index.search(queries[number], N_RESULTS, threads=1)
            return (found, [documents[key] for key in found.keys]) if work.documents else (found, None)

        def read(found: Any) -> Answer:
            matches, texts = found
            return Answer(matches.keys.tolist(), matches.distances.tolist(), texts)

        return call, read


def _payload(records: Records, row: int) -> dict[str, Any]:
    return {f"n_mod_{modulus}": row % modulus for modulus in MODULI} | {"document": records.documents[row]}


ENGINES: dict[str, type[Any]] = {
    "ours": ChromaAsync,
    "qdrant-edge": QdrantEdge,
    "lancedb": LanceDb,
    "usearch": USearch,
}


def version(name: str) -> str:
    """The installed version of an engine's package.

    Raises:
        PackageNotFoundError: it is not installed with this interpreter.
    """
    return importlib.metadata.version(ENGINES[name].package)
