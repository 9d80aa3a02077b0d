"""Request bodies as a Chroma client sends them, encoded ahead of time."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from load_tests.data import Dataset


def write_batch(dataset: Dataset, rows: Sequence[int], *, vectors_from: Sequence[int] | None = None) -> bytes:
    """Body of an add or upsert of some rows; `vectors_from` takes the vectors of other rows."""
    return orjson.dumps(
        {
            "ids": [dataset.ids[row] for row in rows],
            "embeddings": [_base64(dataset, row) for row in (vectors_from or rows)],
            "documents": [dataset.documents[row] for row in rows],
            "metadatas": [dataset.metadatas[row] for row in rows],
            "uris": None,
        }
    )


def ingest_batches(dataset: Dataset, batch: int) -> Iterator[bytes]:
    """Bodies that add the whole data set, `batch` records each."""
    for start in range(0, len(dataset), batch):
        yield write_batch(dataset, range(start, min(start + batch, len(dataset))))


def query(dataset: Dataset, number: int, n_results: int, **filters: Any) -> bytes:
    """Body of one query; `filters` may be `where` and `where_document`."""
    return orjson.dumps(
        {
            "ids": None,
            "query_embeddings": [dataset.queries[number].tolist()],
            "n_results": n_results,
            "include": ["metadatas", "documents", "distances"],
            **filters,
        }
    )


def get(**fields: Any) -> bytes:
    """Body of a get; `fields` are Chroma's: ids, where, where_document, limit, offset."""
    return orjson.dumps({"include": ["metadatas", "documents"], **fields})


def _base64(dataset: Dataset, row: int) -> str:
    return b64encode(dataset.vectors[row].astype("<f4").tobytes()).decode("ascii")
