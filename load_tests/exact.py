"""The ground truth: an exact scan with numpy, and the checks of answers against it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from load_tests.data import Dataset, Floats, Rows
from load_tests.errors import WrongAnswer

_TIE = 1e-6
"""Similarities this close are one rank: the order of (nearly) equal passages is nobody's mistake."""
_DISTANCE_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class _Truth:
    """The best possible answer to one query: its size, and the similarity of its last member."""

    size: int
    worst_similarity: float


class Exact:
    """Judges answers to the queries of one data set under cosine distance."""

    def __init__(self, dataset: Dataset) -> None:
        self._row_of = {record_id: row for row, record_id in enumerate(dataset.ids)}
        self._vectors = _unit(dataset.vectors)
        self._queries = _unit(dataset.queries)
        self._truths: dict[Hashable, _Truth] = {}

    def rows(self, ids: Sequence[str]) -> list[int]:
        """Rows of the ids.

        Raises:
            WrongAnswer: an id was never stored, or comes twice.
        """
        unknown = [record_id for record_id in ids if record_id not in self._row_of]
        if unknown:
            raise WrongAnswer(f"the answer has ids that were never stored. ids={unknown[:3]}")
        if len(set(ids)) != len(ids):
            raise WrongAnswer(f"the answer has an id twice. ids={list(ids)[:20]}")
        return [self._row_of[record_id] for record_id in ids]

    def recall(
        self,
        answer: dict[str, Any],
        query: int,
        k: int,
        kind: str,
        match: Callable[[], Rows],
        *,
        tolerance: float = _DISTANCE_TOLERANCE,
    ) -> float:
        """Share of the true `k` nearest matches that a query's answer has, 0 to 1; 1 if nothing matches.

        `kind` names the filter, so that the scan is done once for all servers; `match` gives the rows it matches.
        A distance may be off by `tolerance`.

        Raises:
            WrongAnswer: an id is unknown, repeated or not matched by the filter, or a distance is not the record's.
        """
        rows = self.rows(answer["ids"][0])
        matches = match()
        if not all(matches[row] for row in rows):
            raise WrongAnswer(f"the answer has records that the filter excludes. filter={kind} query={query}")
        similarities = self._vectors[rows] @ self._queries[query]
        _check_distances(similarities, answer["distances"][0], tolerance)
        truth = self._truth(query, k, kind, matches)
        hits = int(np.count_nonzero(similarities >= truth.worst_similarity - _TIE))
        return min(hits, truth.size) / truth.size if truth.size else 1.0

    def _truth(self, query: int, k: int, kind: str, matches: Rows) -> _Truth:
        key = (query, k, kind)
        if key not in self._truths:
            self._truths[key] = self._scan(query, k, matches)
        return self._truths[key]

    def _scan(self, query: int, k: int, matches: Rows) -> _Truth:
        similarities = (self._vectors @ self._queries[query])[matches]
        size = min(k, len(similarities))
        if size == 0:
            return _Truth(0, 0.0)
        return _Truth(size, float(np.partition(similarities, -size)[-size]))


def _check_distances(similarities: Floats, distances: Sequence[float], tolerance: float) -> None:
    off = np.abs(1.0 - similarities - np.asarray(distances, dtype=np.float32))
    if off.size and float(off.max()) > tolerance:
        raise WrongAnswer(f"a distance is not the record's own. off_by={float(off.max()):.4f}")


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
