"""Lines of an ingest stream, column by column: what sources give, and what the parts of a stream are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from chroma_async.model import Operation, Vectors

T = TypeVar("T")

Vector: TypeAlias = npt.NDArray[np.float32]
"""Shape (ndim,), float32."""

VectorColumn: TypeAlias = "Vectors | list[Vector | None] | None"
"""One vector for each line, shape (n, ndim); a list where some have none, or another length; None where none has one."""

BLANK: Final = ""

NO_EMBEDDING: Final = "there is no embedding, and no embedding function to make one"

LINE_BYTES: Final = 32
"""What a line takes beside its texts and its vector, about."""


@dataclass(slots=True)
class Lines:
    """A run of lines. Columns that are lists have one item for each of them; metadata is JSON.

    `faults` says what is wrong with a line, by its place in the run: such a line counts, but nothing of it is sent. Nothing
    is wrong with an empty line of a file (""), it only says nothing.
    `share` is how much of the source has been read with the last of them, 0 to 1, where that is known.
    """

    ids: list[str]
    operations: Operation | list[Operation] = "upsert"
    vectors: VectorColumn = None
    documents: list[str | None] | None = None
    metadatas: list[bytes | None] | None = None
    uris: list[str | None] | None = None
    faults: dict[int, str] = field(default_factory=dict[int, str])
    share: float | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size_bytes(self) -> int:
        """How large they are in a part, about."""
        texts = (self.ids, self.documents, self.metadatas, self.uris)
        return LINE_BYTES * len(self) + sum(map(_text_bytes, texts)) + self._vector_bytes()

    def _vector_bytes(self) -> int:
        if isinstance(self.vectors, np.ndarray):
            return self.vectors.nbytes
        return sum(vector.nbytes for vector in self.vectors or () if vector is not None)

    @property
    def has_blanks(self) -> bool:
        return BLANK in self.faults.values()

    def require_vectors(self, places: Sequence[int], fault: str) -> None:
        """Note as bad those of these lines that can't be written without a vector."""
        for place in places:
            if self.operation(place) != "update":
                self.faults[place] = fault

    def operation(self, place: int) -> Operation:
        return self.operations if isinstance(self.operations, str) else self.operations[place]

    def vector(self, place: int) -> Vector | None:
        return None if self.vectors is None else self.vectors[place]

    def between(self, start: int, stop: int) -> Lines:
        """Return the lines from `start` on, before `stop`."""
        part = slice(start, stop)
        return Lines(
            ids=self.ids[part],
            operations=self.operations if isinstance(self.operations, str) else self.operations[part],
            vectors=None if self.vectors is None else self.vectors[part],
            documents=None if self.documents is None else self.documents[part],
            metadatas=None if self.metadatas is None else self.metadatas[part],
            uris=None if self.uris is None else self.uris[part],
            faults={place - start: fault for place, fault in self.faults.items() if start <= place < stop},
            share=self.share,
        )

    def pieces(self, lines_max: int, bytes_max: int) -> Iterator[tuple[Lines, int]]:
        """Yield them in runs that are about as large as allowed, with the size of each."""
        size, count = self.size_bytes, len(self)
        if count <= lines_max and size <= bytes_max:
            yield self, size
            return
        average = max(1, size // count)
        step = max(1, min(lines_max, bytes_max // average))
        for start in range(0, count, step):
            stop = min(start + step, count)
            yield self.between(start, stop), average * (stop - start)


def _text_bytes(texts: Sequence[str | bytes | None] | None) -> int:
    return sum(len(text) for text in texts if text is not None) if texts is not None else 0


def joined(runs: Sequence[Lines]) -> Lines:
    """Return several runs as one."""
    if len(runs) == 1:
        return runs[0]
    faults: dict[int, str] = {}
    begin = 0
    for run in runs:
        faults.update((begin + place, fault) for place, fault in run.faults.items())
        begin += len(run)
    return Lines(
        ids=[id_ for run in runs for id_ in run.ids],
        operations=_joined_operations(runs),
        vectors=_joined_vectors(runs),
        documents=_joined_column(runs, lambda run: run.documents),
        metadatas=_joined_column(runs, lambda run: run.metadatas),
        uris=_joined_column(runs, lambda run: run.uris),
        faults=faults,
        share=runs[-1].share,
    )


def _joined_operations(runs: Sequence[Lines]) -> Operation | list[Operation]:
    first = runs[0].operations
    if isinstance(first, str) and all(run.operations == first for run in runs):
        return first
    return [run.operation(place) for run in runs for place in range(len(run))]


def _joined_vectors(runs: Sequence[Lines]) -> VectorColumn:
    columns = [run.vectors for run in runs]
    if all(column is None for column in columns):
        return None
    matrices = [column for column in columns if isinstance(column, np.ndarray)]
    if len(matrices) == len(columns) and len({matrix.shape[1] for matrix in matrices}) == 1:
        return np.concatenate(matrices)
    return [run.vector(place) for run in runs for place in range(len(run))]


def _joined_column(runs: Sequence[Lines], column_of: Callable[[Lines], list[T | None] | None]) -> list[T | None] | None:
    columns = [column_of(run) for run in runs]
    if all(column is None for column in columns):
        return None
    together: list[T | None] = []
    for run, column in zip(runs, columns, strict=True):
        together.extend([None] * len(run) if column is None else column)
    return together


def without_vectors(lines: Lines) -> list[int]:
    """Return the places of lines that have no vector and want one: additions, upserts, and updates of the document."""
    if isinstance(lines.vectors, np.ndarray) or lines.operations == "delete":
        return []
    return [
        place
        for place in range(len(lines))
        if lines.vector(place) is None and place not in lines.faults and _wants_vector(lines, place)
    ]


def _wants_vector(lines: Lines, place: int) -> bool:
    operation = lines.operation(place)
    if operation == "update":
        return lines.documents is not None and lines.documents[place] is not None
    return operation != "delete"


def with_vectors(lines: Lines, places: Sequence[int], vectors: Vectors) -> Lines:
    """Return the lines with these vectors, of shape (k, ndim), at these k places."""
    column: VectorColumn = vectors
    if len(places) < len(lines):
        column = [lines.vector(place) for place in range(len(lines))]
        for place, vector in zip(places, vectors, strict=True):
            column[place] = vector
    return Lines(
        lines.ids, lines.operations, column, lines.documents, lines.metadatas, lines.uris, lines.faults, lines.share
    )


def column_of(vectors: list[Vector | None]) -> VectorColumn:
    """Return vectors as one matrix where every line has one, and they are of one length; None where no line has one."""
    present = [vector for vector in vectors if vector is not None]
    if not present:
        return None
    if len(present) == len(vectors) and len({len(vector) for vector in present}) == 1:
        return np.stack(present)
    return vectors


def as_matrix(column: VectorColumn) -> tuple[Vectors, list[bool] | None] | None:
    """Return vectors as one matrix, with zeros where a line has none, and which have one (None: all).

    None where there is no vector at all, or they differ in length.
    """
    if column is None or isinstance(column, np.ndarray):
        return None if column is None else (column, None)
    present = [vector for vector in column if vector is not None]
    if not present or len({len(vector) for vector in present}) != 1:
        return None
    if len(present) == len(column):
        return np.stack(present), None
    matrix = np.zeros((len(column), len(present[0])), dtype=np.float32)
    there = [vector is not None for vector in column]
    matrix[there] = present
    return cast("Any", matrix), there
