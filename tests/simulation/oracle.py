"""What a collection must hold: a dictionary in insertion order, written from Chroma's rules and from nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Oracle:
    """Records by id, oldest first. Each is [document, metadata, vector]."""

    records: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])

    def add(self, ids: list[str], vectors: Any, documents: list[Any], metadatas: list[Any]) -> None:
        for row in zip(ids, vectors, documents, metadatas, strict=True):
            if row[0] not in self.records:
                self._insert(*row)

    def upsert(self, ids: list[str], vectors: Any, documents: list[Any], metadatas: list[Any]) -> None:
        for row in zip(ids, vectors, documents, metadatas, strict=True):
            if row[0] in self.records:
                self._merge(*row)
            else:
                self._insert(*row)

    def update(self, ids: list[str], vectors: Any, documents: list[Any], metadatas: list[Any]) -> None:
        for row in zip(ids, vectors, documents, metadatas, strict=True):
            if row[0] in self.records:
                self._merge(*row)

    def delete(self, ids: list[str]) -> None:
        for record_id in ids:
            self.records.pop(record_id, None)

    def _insert(self, record_id: str, vector: Any, document: Any, metadata: Any) -> None:
        kept = {name: value for name, value in (metadata or {}).items() if value is not None}
        self.records[record_id] = [document, kept or None, vector]

    def _merge(self, record_id: str, vector: Any, document: Any, metadata: Any) -> None:
        record = self.records[record_id]
        record[0] = record[0] if document is None else document
        merged = {**(record[1] or {}), **(metadata or {})}
        record[1] = {name: value for name, value in merged.items() if value is not None} or None
        record[2] = record[2] if vector is None else vector

    def nearest(self, query: Any, allowed: list[str], count: int) -> list[float]:
        """The smallest squared distances to the query among these ids."""
        vectors = np.asarray([self.records[record_id][2] for record_id in allowed], dtype=np.float64)
        if not len(vectors):
            return []
        return sorted(((vectors - query) ** 2).sum(axis=1).tolist())[:count]
