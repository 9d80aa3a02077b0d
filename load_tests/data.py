"""What is stored and asked: real passages with their embeddings, or synthetic clusters of the same shape."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from load_tests.errors import Unavailable

Floats: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = NDArray[np.bool_]

MODULI = (2, 10, 100, 1000)
_VECTORS, _RECORDS, _QUERIES = "movies-50k.f16.npy", "movies-50k.jsonl.gz", "movies-queries.f16.npy"
_NOISE = 0.01
"""Standard deviation, per dimension, of the noise that makes further rows out of the given ones."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Records and queries. Row i of `vectors`, `(n, ndim)` float32, belongs to `ids[i]`; `queries` is `(m, ndim)`."""

    name: str
    ids: list[str]
    documents: list[str]
    metadatas: list[dict[str, Any]]
    vectors: Floats
    queries: Floats

    def __len__(self) -> int:
        return len(self.ids)

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.documents) == len(self.metadatas) == len(self.vectors)
        assert self.vectors.shape[1] == self.queries.shape[1]


@dataclass(frozen=True, slots=True)
class Selection:
    """A metadata filter with a known share of matches; its operand turns with the number of the query."""

    modulus: int
    negated: bool = False

    def where(self, number: int) -> dict[str, Any]:
        """The filter of query `number`, as Chroma writes it."""
        operator = "$ne" if self.negated else "$eq"
        return {f"n_mod_{self.modulus}": {operator: number % self.modulus}}

    def rows(self, number: int, count: int, *, first: int = 0) -> Rows:
        """Which of `count` rows, from row `first` on, the filter of query `number` matches, `(count,)` bool."""
        equal: Rows = np.arange(first, first + count) % self.modulus == number % self.modulus
        return ~equal if self.negated else equal


FILTERS = {
    "0.1 %": Selection(1000),
    "1 %": Selection(100),
    "10 %": Selection(10),
    "50 %": Selection(2),
    "90 %": Selection(10, negated=True),
}


def load(directory: Path, records: int) -> Dataset:
    """Read the first `records` passages; beyond what is there, rows are repeated with a little noise.

    Raises:
        Unavailable: the files are not in `directory`.
    """
    missing = [name for name in (_VECTORS, _RECORDS, _QUERIES) if not (directory / name).is_file()]
    if missing:
        raise Unavailable(
            f"data not found; name its directory with --data, or take --data synthetic. "
            f"directory={str(directory)!r} missing={missing}"
        )
    given: Floats = np.load(directory / _VECTORS, mmap_mode="r")[:records].astype(np.float32)
    with gzip.open(directory / _RECORDS, "rb") as file:
        lines = [orjson.loads(line) for line in islice(file, records)]
    picked = np.arange(records) % len(lines)
    return Dataset(
        name=f"movies-{records}",
        ids=[_id(lines[row]["id"], number // len(lines)) for number, row in enumerate(picked)],
        documents=[lines[row]["document"] for row in picked],
        metadatas=[with_numbers(lines[row]["metadata"], number) for number, row in enumerate(picked)],
        vectors=_extend(given, records),
        queries=np.load(directory / _QUERIES).astype(np.float32),
    )


def synthetic(records: int, *, queries: int = 1000, ndim: int = 384, seed: int = 7) -> Dataset:
    """Make clustered unit vectors with short texts. Easier to search than real embeddings: compare speeds only."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(8, records // 100), ndim), dtype=np.float32)
    words = [f"{a}{b}{c}" for a in ("ba", "ke", "lo", "mi") for b in ("dra", "fen", "gus", "tor") for c in "aeiou"]
    texts: list[list[int]] = random.integers(0, len(words), (records, 30)).tolist()
    return Dataset(
        name=f"synthetic-{records}",
        ids=[f"record-{number}" for number in range(records)],
        documents=[" ".join(words[word] for word in row) for row in texts],
        metadatas=[with_numbers({"title": words[number % len(words)]}, number) for number in range(records)],
        vectors=_around(centres, records, random),
        queries=_around(centres, queries, random),
    )


def with_numbers(metadata: dict[str, Any], number: int) -> dict[str, Any]:
    """Add the row number and its remainders, from which filters of known selectivity are made."""
    return metadata | {"n": number} | {f"n_mod_{modulus}": number % modulus for modulus in MODULI}


def every_row(count: int) -> Rows:
    """What matches without a filter: all of `count` rows, `(count,)` bool."""
    return np.ones(count, dtype=np.bool_)


def common_words(documents: list[str], *, share: float, count: int) -> list[str]:
    """`count` words that occur in about `share` of the documents, the nearest first, the same on every run."""
    frequency = Counter(word for text in documents for word in set(re.findall(r"[A-Za-z]{5,}", text)))
    wanted = share * len(documents)
    return sorted(frequency, key=lambda word: (abs(frequency[word] - wanted), word))[:count]


def _id(given: str, repetition: int) -> str:
    return given if repetition == 0 else f"{given}-{repetition}"


def _extend(given: Floats, records: int) -> Floats:
    random = np.random.default_rng(7)
    more = [noisy(given[: records - start], random) for start in range(len(given), records, len(given))]
    return np.concatenate([given, *more])


def noisy(vectors: Floats, random: np.random.Generator) -> Floats:
    """Unit vectors that are near the given ones, `(n, ndim)`."""
    return _unit(vectors + _NOISE * random.standard_normal(vectors.shape, dtype=np.float32))


def _around(centres: Floats, count: int, random: np.random.Generator) -> Floats:
    chosen = centres[random.integers(0, len(centres), count)]
    return _unit(chosen + 0.7 * random.standard_normal(chosen.shape, dtype=np.float32))


def _unit(vectors: NDArray[np.floating[Any]]) -> Floats:
    unit: Floats = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit
