"""Recall under any of the three distances, against an exact scan with numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from load_tests.data import Floats
from load_tests.errors import WrongAnswer

SPACES = ("cosine", "l2", "ip")
_TIE = 1e-5
"""Distances this close are one rank."""
_TOLERANCE = 1e-3


class ExactScan:
    """The true nearest rows of every query. `vectors` is `(n, ndim)`, `queries` `(m, ndim)`, both float32."""

    def __init__(self, space: str, ids: Sequence[str], vectors: Floats, queries: Floats) -> None:
        self._row_of = {record_id: row for row, record_id in enumerate(ids)}
        self._space = space
        self._vectors = vectors
        self._queries = queries
        self._norms = np.linalg.norm(vectors, axis=1).astype(np.float64)
        self._kth: dict[int, NDArray[np.float64]] = {}

    def recall(self, answers: Sequence[tuple[list[str], list[float]]], k: int) -> float:
        """Mean share of the `k` nearest that the answers to queries 0, 1, 2 ... have.

        Raises:
            WrongAnswer: an id is unknown or comes twice, there are too few, or a distance is not the record's.
        """
        kth = self._worst(k)
        shares = [self._share(number, *answer, k, kth[number]) for number, answer in enumerate(answers)]
        return float(np.mean(shares))

    def _share(self, number: int, ids: list[str], given: list[float], k: int, worst: float) -> float:
        wanted = min(k, len(self._row_of))
        if len(ids) != wanted or len(set(ids)) != len(ids) or not self._row_of.keys() >= set(ids):
            raise WrongAnswer(f"the answer has unknown, repeated or too few ids. query={number} ids={ids}")
        rows = [self._row_of[record_id] for record_id in ids]
        distances = self._distances(rows, number)
        if np.abs(distances - np.asarray(given)).max() > _TOLERANCE:
            raise WrongAnswer(f"a distance is not the record's own. query={number} ids={ids}")
        return float(np.count_nonzero(distances <= worst + _TIE)) / wanted

    def _distances(self, rows: Sequence[int] | slice, number: int) -> NDArray[np.float64]:
        query = self._queries[number].astype(np.float64)
        products = self._vectors[rows].astype(np.float64) @ query
        return self._from_products(products, self._norms[rows], float(np.linalg.norm(query)))

    def _from_products(
        self, products: NDArray[np.float64], norms: NDArray[np.float64], query_norm: float
    ) -> NDArray[np.float64]:
        match self._space:
            case "cosine":
                return 1.0 - products / (norms * query_norm)
            case "l2":
                return norms**2 + query_norm**2 - 2.0 * products
            case _:
                return 1.0 - products

    def _worst(self, k: int) -> NDArray[np.float64]:
        """Distance of the k-th nearest row of each query, `(m,)`."""
        if k not in self._kth:
            count = min(k, len(self._vectors))
            worst = np.empty(len(self._queries))
            for number, products in enumerate(self._queries @ self._vectors.T):
                query_norm = float(np.linalg.norm(self._queries[number].astype(np.float64)))
                rough = self._from_products(products.astype(np.float64), self._norms, query_norm)
                near = _smallest(rough, count + 20)
                worst[number] = np.sort(self._distances(near.tolist(), number))[count - 1]
            self._kth[k] = worst
        return self._kth[k]


def _smallest(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Positions of the `count` smallest values, in no order."""
    return np.argpartition(values, count - 1)[:count] if count < len(values) else np.arange(len(values))
