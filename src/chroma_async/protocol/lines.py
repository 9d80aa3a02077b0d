"""Lines of an ingest stream, decoded: columns of the good ones, and what is wrong with each of the others.

A line is checked as a write of that one record would be, but for its metadata, which is looked at when entries are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import msgspec
import numpy as np
import numpy.typing as npt

from chroma_async.errors import ChromaError, InvalidArgumentError, InvalidDimensionException
from chroma_async.model import Operation, Vectors
from chroma_async.protocol.embeddings import EMPTY_VECTOR, NO_VECTORS, decode_embedding_batch, require_finite
from chroma_async.protocol.ingest import Line, LineError

Positions = npt.NDArray[np.int64]
Problems = Mapping[int, str]
"""What is wrong with lines, by their positions among those at hand."""

NO_ROWS: Final[Positions] = np.empty(0, dtype=np.int64)

_DECODER: Final = msgspec.json.Decoder(Line)
_PLACE: Final = " place=embeddings[0]"


class Lines(msgspec.Struct, frozen=True, eq=False):
    """Lines as parallel lists. `numbers` are theirs in the stream, ascending.

    `vectors` has shape (k, ndim), float32; `rows`, shape (k,), says which of the lines have them, ascending.
    """

    numbers: Sequence[int]
    operations: Sequence[Operation]
    ids: Sequence[str]
    documents: Sequence[str | None]
    metadatas: Sequence[Mapping[str, Any] | None]
    uris: Sequence[str | None]
    vectors: Vectors
    rows: Positions

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dimension(self) -> int | None:
        """Of their vectors; None where there is none."""
        return self.vectors.shape[1] if len(self.vectors) else None

    def take(self, chosen: Sequence[int]) -> Lines:
        """Return some of them, by ascending position."""
        if len(chosen) == len(self):
            return self
        place_of = np.full(len(self), -1, dtype=np.int64)
        place_of[np.asarray(chosen, dtype=np.int64)] = np.arange(len(chosen))
        rows = place_of[self.rows]
        kept = rows >= 0
        return Lines(
            numbers=[self.numbers[item] for item in chosen],
            operations=[self.operations[item] for item in chosen],
            ids=[self.ids[item] for item in chosen],
            documents=[self.documents[item] for item in chosen],
            metadatas=[self.metadatas[item] for item in chosen],
            uris=[self.uris[item] for item in chosen],
            vectors=self.vectors[kept],
            rows=rows[kept],
        )


class Decoded(msgspec.Struct, frozen=True, eq=False):
    """A part of a stream, from line `first` to before `beyond`: the good lines, and the errors of the others, in order."""

    first: int
    beyond: int
    lines: Lines
    errors: Sequence[LineError]


def decode_ndjson(content: bytes, first: int, dimension: int | None) -> Decoded:
    """Decode whole lines; the last one may lack its line end.

    Args:
        content: JSON objects, one on each line. A line of white space counts, and says nothing.
        first: number of the first line.
        dimension: of the collection; None: what the first vector has.
    """
    texts = content.split(b"\n")
    if not texts[-1]:
        texts.pop()
    errors: list[LineError] = []
    numbers: list[int] = []
    found: list[Line] = []
    decode = _DECODER.decode
    for number, text in enumerate(texts, first):
        try:
            line = decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            if text.strip():
                errors.append(LineError(line=number, message=f"not a line of this kind of stream: {error}"))
        else:
            numbers.append(number)
            found.append(line)
    vectors, rows, problems = decode_vectors([line.embedding for line in found], dimension)
    lines = Lines(
        numbers=numbers,
        operations=[line.op for line in found],
        ids=[line.id for line in found],
        documents=[line.document for line in found],
        metadatas=[line.metadata for line in found],
        uris=[line.uri for line in found],
        vectors=vectors,
        rows=rows,
    )
    return checked(first, first + len(texts), lines, problems, errors)


def checked(first: int, beyond: int, lines: Lines, problems: Problems, errors: Sequence[LineError] = ()) -> Decoded:
    """Set the bad lines aside: those with problems, and those that no write could be made of."""
    found = {**_problems(lines), **problems}
    if not found and not errors:
        return Decoded(first, beyond, _without_idle_vectors(lines), ())
    good = [item for item in range(len(lines)) if item not in found]
    worse = [LineError(line=lines.numbers[item], message=found[item]) for item in found]
    ordered = sorted((*errors, *worse), key=lambda error: error.line)
    return Decoded(first, beyond, _without_idle_vectors(lines.take(good)), ordered)


def _problems(lines: Lines) -> dict[int, str]:
    found: dict[int, str] = {}
    if "" in lines.ids:
        found = {item: "Empty ID, ID must have at least one character" for item, name in enumerate(lines.ids) if not name}
    if len(lines.rows) < len(lines):
        bare = np.ones(len(lines), dtype=np.bool_)
        bare[lines.rows] = False
        for item in np.flatnonzero(bare).tolist():
            if lines.operations[item] in ("add", "upsert"):
                found[item] = f"{lines.operations[item]} needs an embedding"
    return found


def _without_idle_vectors(lines: Lines) -> Lines:
    """A deletion needs none."""
    if "delete" not in lines.operations or not len(lines.rows):
        return lines
    rows = cast("list[int]", lines.rows.tolist())
    kept = np.asarray([lines.operations[row] != "delete" for row in rows], dtype=np.bool_)
    return msgspec.structs.replace(lines, vectors=lines.vectors[kept], rows=lines.rows[kept])


def decode_vectors(
    embeddings: Sequence[Sequence[float] | str | None], dimension: int | None
) -> tuple[Vectors, Positions, Problems]:
    """Return the vectors of lines, the positions of those that have them, and what is wrong with the others."""
    rows = np.asarray([item for item, embedding in enumerate(embeddings) if embedding is not None], dtype=np.int64)
    present = [embedding for embedding in embeddings if embedding is not None]
    if not present:
        return NO_VECTORS, NO_ROWS, {}
    try:
        return _decode_alike(present, dimension), rows, {}
    except ChromaError:
        pass
    good: list[Vectors] = []
    owners: list[int] = []
    problems: dict[int, str] = {}
    for item, embedding in zip(rows.tolist(), present, strict=True):
        try:
            good.append(_decode_alike([embedding], dimension))
        except ChromaError as error:
            problems[item] = error.message.removesuffix(_PLACE)
        else:
            dimension = good[0].shape[1]
            owners.append(item)
    return (np.concatenate(good) if good else NO_VECTORS), np.asarray(owners, dtype=np.int64), problems


def _decode_alike(embeddings: Sequence[Sequence[float] | str], dimension: int | None) -> Vectors:
    """Return vectors as a matrix.

    Raises:
        ChromaError: one of them is none, or has another dimension.
    """
    batch = decode_embedding_batch(embeddings)
    if batch.refusal is not None:
        raise batch.refusal
    if not batch.vectors.shape[1]:
        raise InvalidArgumentError(EMPTY_VECTOR)
    check_dimension(dimension, batch.vectors.shape[1])
    require_finite(batch.vectors, None)
    return batch.vectors


def check_dimension(expected: int | None, found: int | None) -> None:
    """Refuse vectors of another dimension than the collection's; None: not fixed yet, or no vectors.

    Raises:
        InvalidDimensionException: they differ.
    """
    if expected is not None and found not in (None, expected):
        raise InvalidDimensionException(unlike(expected, found))


def unlike(expected: int, found: int | None) -> str:
    """Say that a vector has another dimension than the collection's."""
    return f"Collection expecting embedding with dimension of {expected}, got {found}"
