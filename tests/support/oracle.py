"""What a collection should answer, by the plainest means: a dictionary in insertion order, and float64 arithmetic."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Record:
    vector: Vector
    document: str | None
    metadata: Mapping[str, Any] | None
    uri: str | None


@dataclass(frozen=True)
class Write:
    """One call of add, update or upsert; an item of None is one that the call leaves alone."""

    operation: str
    ids: Sequence[str]
    vectors: Sequence[Vector | None]
    documents: Sequence[str | None]
    metadatas: Sequence[Mapping[str, Any] | None]
    uris: Sequence[str | None]


class OracleCollection:
    """Records by id. A dictionary keeps a changed key in its place, and puts one that was deleted and set again last."""

    def __init__(self, space: str) -> None:
        self.space = space
        self.dimension: int | None = None
        self.records: dict[str, Record] = {}

    def write(self, write: Write) -> None:
        given = next((vector for vector in write.vectors if vector is not None), None)
        if self.dimension is None and given is not None:
            self.dimension = len(given)
        columns = (write.ids, write.vectors, write.documents, write.metadatas, write.uris)
        for record_id, vector, document, metadata, uri in zip(*columns, strict=True):
            old = self.records.get(record_id)
            if old is None:
                if write.operation != "update":
                    assert vector is not None
                    self.records[record_id] = Record(vector, document, merged(None, metadata), uri)
            elif write.operation != "add":
                self.records[record_id] = replace(
                    old,
                    vector=old.vector if vector is None else vector,
                    document=old.document if document is None else document,
                    metadata=merged(old.metadata, metadata),
                    uri=old.uri if uri is None else uri,
                )

    def matching(self, ids: Sequence[str] | None, where: Any, where_document: Any) -> list[str]:
        """Ids in insertion order."""
        wanted = None if ids is None else set(ids)
        return [
            record_id
            for record_id, record in self.records.items()
            if (wanted is None or record_id in wanted)
            and (where is None or passes(where, record.metadata or {}))
            and (where_document is None or document_passes(where_document, record.document))
        ]

    def delete(self, ids: Sequence[str] | None, where: Any, where_document: Any, limit: int | None) -> int:
        """Return what Chroma counts: the ids that were given, or the records that matched."""
        if ids is None and where is None and where_document is None:
            return 0
        if where is None and where_document is None:
            for record_id in ids or ():
                self.records.pop(record_id, None)
            return len(ids or ())
        gone = self.matching(ids, where, where_document)[:limit]
        for record_id in gone:
            del self.records[record_id]
        return len(gone)

    def distances(self, query: Vector, ids: Sequence[str]) -> npt.NDArray[np.float64]:
        rows = np.array([self.records[record_id].vector for record_id in ids], dtype=np.float64)
        return exact_distances(self.space, query, rows)


def exact_distances(space: str, query: Vector, rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Distances of one query, shape (ndim,), to rows, shape (n, ndim), in float64."""
    a, b = np.asarray(query, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    if not len(b):
        return np.empty(0)
    if space == "l2":
        return ((b - a) ** 2).sum(axis=1)
    products = b @ a
    if space == "ip":
        return 1 - products
    norms = np.linalg.norm(b, axis=1) * np.linalg.norm(a)
    return 1 - np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)


def merged(old: Mapping[str, Any] | None, patch: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    fields = {**(old or {}), **(patch or {})}
    return {name: value for name, value in fields.items() if value is not None} or None


# ---- filters: a second, naive reading of the grammar

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": lambda value, operand: value > operand,
    "$gte": lambda value, operand: value >= operand,
    "$lt": lambda value, operand: value < operand,
    "$lte": lambda value, operand: value <= operand,
}


def passes(where: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    ((key, condition),) = where.items()
    if key == "$and":
        return all(passes(child, metadata) for child in condition)
    if key == "$or":
        return any(passes(child, metadata) for child in condition)
    ((operator, operand),) = condition.items() if isinstance(condition, dict) else (("$eq", condition),)
    return _field_passes(operator, operand, metadata.get(key))


def _field_passes(operator: str, operand: Any, value: Any) -> bool:
    match operator:
        case "$eq":
            return _same(value, operand)
        case "$ne":
            return not _same(value, operand)
        case "$in":
            return any(_same(value, item) for item in operand)
        case "$nin":
            return not any(_same(value, item) for item in operand)
        case "$contains":
            return isinstance(value, list) and any(type(item) is type(operand) and item == operand for item in value)
        case "$not_contains":
            return not _field_passes("$contains", operand, value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and _COMPARE[operator](value, operand)


def _same(value: Any, operand: Any) -> bool:
    if value is None or isinstance(value, list):
        return False
    if isinstance(value, bool) or isinstance(operand, bool):
        return isinstance(value, bool) and isinstance(operand, bool) and value == operand
    return value == operand


def document_passes(where: Mapping[str, Any], document: str | None) -> bool:
    ((operator, operand),) = where.items()
    match operator:
        case "$and":
            return all(document_passes(child, document) for child in operand)
        case "$or":
            return any(document_passes(child, document) for child in operand)
        case "$contains":
            return document is not None and operand in document
        case "$regex":
            return document is not None and re.search(operand, document) is not None
        case "$not_contains":
            return not document_passes({"$contains": operand}, document)
    return not document_passes({"$regex": operand}, document)
