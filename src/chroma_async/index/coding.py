"""What a graph keeps of its vectors: int8 coordinates, along their main directions if there are such, compared by l2.

A search by a graph is bound by the memory that it touches: half the coordinates are half the bytes, and the errors that this
makes are undone by comparing what was found in float32. Whether it suits is measured on the rows of the segment itself, and
rows of another kind than those that the directions were chosen for stay out of the graph and are always compared
(docs/decisions/0027-graphs-of-codes.md).

The codes of all rows are written behind a graph once more, in the order of the rows: where a filter leaves some of them,
these are ranked by their codes, which are an eighth of their vectors (docs/decisions/0029-filtered-rows-ranked-by-codes.md).
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec
import numkong
import numpy as np
import numpy.typing as npt

from chroma_async.core.planner import coded_candidates
from chroma_async.errors import StorageCorrupt
from chroma_async.index.axes import DIRECTIONS_FROM_ROWS, Axes, axes_of
from chroma_async.index.distance import ranking_scores, ranking_weights, squared_norms
from chroma_async.index.scan import FLOAT_ROUNDING, INT8_MAX
from chroma_async.model import Slots, Space, Vectors

Codes: TypeAlias = npt.NDArray[np.int8]

STEPS_MAX: Final = 160.0
"""A coordinate that is cut off at 127 steps errs little up to here."""

ODDNESS_MAX: Final = 2.0
"""Rows that are farther from the kind for which directions were chosen stay out of a graph; see `Coding.code`."""

OTHERS_SHARE_MAX: Final = 1 / 256
OTHERS_MIN: Final = 64
"""Rows that are not in a graph are compared by each search: one of so many may be such a row, or a few of any number."""

SCALE_ROWS: Final = 4_096
"""Rows whose largest coordinate says how much a step is worth."""

TRIAL_CHUNKS: Final = 64
TRIAL_CHUNK_ROWS: Final = 1_024
TRIAL_QUERIES: Final = 64
TRIAL_NEIGHBOURS: Final = 10
TRIAL_RECALL_MIN: Final = 0.98
"""Of the nearest rows of some rows, how many must be among as many candidates as a search compares."""

MAGIC: Final = b"\x93beside\n"
LENGTH_BYTES: Final = 8

NO_ROWS: Final[Slots] = np.empty(0, dtype=np.int64)


class Coding(msgspec.Struct, frozen=True, eq=False):
    """How vectors become codes. One step of a coordinate is worth `step`, in all rows, so that distances of codes rank."""

    space: Space
    axes: Axes
    step: float

    @property
    def dims(self) -> int:
        """Coordinates of a code."""
        return len(self.axes.origin if self.axes.directions is None else self.axes.directions)

    def code(self, vectors: Vectors) -> tuple[Codes, npt.NDArray[np.float32]]:
        """Codes, shape (n, dims), of vectors, shape (n, ndim), and how far each is from the rows' kind, shape (n,).

        That is what it has across the directions, as a share of the most that rows of that kind have; without end for what
        codes can't tell.
        """
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            along, squares, rounded = self.axes.placed(vectors, self.space)
            most = np.float32(self.axes.across_max) + np.float32(FLOAT_ROUNDING) * rounded  # large numbers may cancel
            oddness = (squares - squared_norms(along)) / most
            along *= np.float32(1 / self.step)
            told = np.maximum.reduce(np.abs(along), axis=1) <= STEPS_MAX
            if self.space == "cosine":
                told &= rounded > self.axes.square_origin  # what has no direction is as far from all others
            np.fmin(np.fmax(np.rint(along, out=along), -INT8_MAX, out=along), INT8_MAX, out=along)
            return along.astype(np.int8), np.where(told & ~np.isnan(oddness), oddness, np.float32(np.inf))


def code_distances(code: Codes, codes: Codes) -> npt.NDArray[np.float64]:
    """How far codes, shape (n, dims), are from one, shape (dims,): square lengths in steps, shape (n,)."""
    return np.asarray(numkong.cdist(code[None, :], codes, "sqeuclidean"), dtype=np.float64).reshape(-1)


def chosen_coding(space: Space, vectors: Vectors, after: Coding | None = None) -> Coding | None:
    """How to code these rows, shape (n, ndim): by main directions if there are such, else by all dimensions.

    None where a graph had better keep them as they are. `after` is one that does not suit: what comes after it is tried.
    """
    if space == "ip" or len(vectors) < DIRECTIONS_FROM_ROWS:
        return None  # the largest products are not the smallest distances; and few rows do not say what others will be
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        axes = axes_of(vectors, space)
    choices = [Axes(axes.origin, None)] if after is None or after.axes.directions is not None else []
    if after is None and axes.directions is not None:
        choices.insert(0, axes)
    codings = (Coding(space, each, _step(each, vectors, space)) for each in choices)
    return next((coding for coding in codings if 0 < coding.step < np.inf and keeps_neighbours(coding, vectors)), None)


def _step(axes: Axes, vectors: Vectors, space: Space) -> float:
    """What makes the largest coordinate of some rows 127."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        along, _, _ = axes.placed(vectors[:: max(1, len(vectors) // SCALE_ROWS)], space)
        return float(np.abs(along).max() / INT8_MAX)


def keeps_neighbours(coding: Coding, vectors: Vectors) -> bool:
    """Whether the nearest rows of some rows are among the candidates that their codes give, by parts of all rows.

    Half of them are drawn. The others are those with the most across the directions, if there are such: what that hides
    would be missed first.
    """
    rows = np.unique(np.concatenate([np.arange(start, start + size) for start, size in _parts(len(vectors))]))
    oddness = np.concatenate([coding.code(vectors[some])[1] for some in _pieces(rows)])
    is_kept = oddness <= ODDNESS_MAX
    kept = rows[is_kept]
    if len(kept) < (1 - OTHERS_SHARE_MAX) * len(rows):
        return False
    asked = [np.random.default_rng(0).permutation(kept)[:TRIAL_QUERIES]]
    if coding.axes.directions is not None:
        asked.append(kept[np.argsort(oddness[is_kept])[-TRIAL_QUERIES:]])
    with np.errstate(over="ignore", invalid="ignore"):
        shares = np.split(_shares_found(coding, vectors, np.concatenate(asked), kept), len(asked))
    return all(float(share.mean()) >= TRIAL_RECALL_MIN for share in shares)


def _parts(count: int) -> list[tuple[int, int]]:
    """First row and number of rows of parts that are spread over so many rows."""
    size = min(TRIAL_CHUNK_ROWS, count)
    return [(int(start), size) for start in np.linspace(0, count - size, TRIAL_CHUNKS)]


def _pieces(rows: Slots) -> list[Slots]:
    return np.split(rows, range(TRIAL_CHUNK_ROWS, len(rows), TRIAL_CHUNK_ROWS))


def _shares_found(coding: Coding, vectors: Vectors, asked: Slots, among: Slots) -> npt.NDArray[np.float64]:
    """Of each row of `asked`, shape (n,): the share of its nearest rows of `among` that are among the candidates by codes.

    By l2 from the coding's origin, where large numbers do not cancel: what is true has to be truer than the codes.
    """
    space, origin = coding.space, coding.axes.origin if coding.space == "l2" else np.float32(0)
    count = coded_candidates(TRIAL_NEIGHBOURS)
    queries, coded_queries = vectors[asked] - origin, coding.code(vectors[asked])[0].astype(np.float32)
    nearest = np.full((len(asked), TRIAL_NEIGHBOURS), np.inf, dtype=np.float32)
    scores = np.full((len(asked), count), np.inf, dtype=np.float32)
    found = np.full((len(asked), count), np.inf, dtype=np.float32)
    for numbers in _pieces(among):
        rows, codes = vectors[numbers] - origin, coding.code(vectors[numbers])[0].astype(np.float32)
        exact = ranking_scores(space, queries, rows, ranking_weights(space, rows))
        by_code = ranking_scores("l2", coded_queries, codes, ranking_weights("l2", codes))
        nearest = np.partition(np.concatenate([nearest, exact], axis=1), TRIAL_NEIGHBOURS - 1)[:, :TRIAL_NEIGHBOURS]
        scores, found = np.concatenate([scores, by_code], axis=1), np.concatenate([found, exact], axis=1)
        best = np.argpartition(scores, count - 1)[:, :count]
        scores, found = np.take_along_axis(scores, best, axis=1), np.take_along_axis(found, best, axis=1)
    hits = np.count_nonzero(found <= nearest.max(axis=1, keepdims=True), axis=1)
    shares: npt.NDArray[np.float64] = np.minimum(hits, TRIAL_NEIGHBOURS) / TRIAL_NEIGHBOURS
    return shares


# ---- behind a graph, in its file


class _CodingPart(msgspec.Struct, frozen=True):
    """A coding; arrays as little-endian bytes, no directions where all dimensions are kept."""

    space: Space
    step: float
    across_max: float
    length: float
    origin: bytes
    directions: bytes


class _Trailer(msgspec.Struct, frozen=True):
    """What a graph's own file format has no place for; row numbers as little-endian bytes.

    The codes of `coded_rows` rows stand before it. (The first graphs of codes had none there.)
    """

    coding: _CodingPart | None
    others: bytes
    strays: bytes
    coded_rows: int = 0


_DECODER: Final = msgspec.msgpack.Decoder(_Trailer)
"""Made when the module is loaded: see `projections.manifest`."""


class Beside(msgspec.Struct, frozen=True, eq=False):
    """What stands beside a graph: how vectors become what it keeps (None: they stay as they are), which rows, shape (n,),
    are not in it, which, shape (m,), are but it does not find them, and the codes of all rows, shape (rows, dims), or None.
    """

    coding: Coding | None
    others: Slots
    strays: Slots
    codes: Codes | None = None

    @property
    def is_empty(self) -> bool:
        """Whether a graph is all that there is."""
        return self.coding is None and not len(self.others) and not len(self.strays)


NOTHING_BESIDE: Final = Beside(None, NO_ROWS, NO_ROWS)


def encode_trailer(beside: Beside, coded_rows: int) -> bytes:
    """What to write behind a graph, and behind the codes of so many rows."""
    others, strays = (rows.astype("<i8").tobytes() for rows in (beside.others, beside.strays))
    trailer = msgspec.msgpack.encode(_Trailer(_part_of(beside.coding), others, strays, coded_rows))
    return trailer + len(trailer).to_bytes(LENGTH_BYTES, "little") + MAGIC


def _part_of(coding: Coding | None) -> _CodingPart | None:
    if coding is None:
        return None
    axes = coding.axes
    directions = np.empty((0, 0)) if axes.directions is None else axes.directions
    return _CodingPart(
        space=coding.space,
        step=coding.step,
        across_max=axes.across_max,
        length=axes.length,
        origin=axes.origin.astype("<f4").tobytes(),
        directions=np.ascontiguousarray(directions, dtype="<f4").tobytes(),
    )


def decode_trailer(file: memoryview) -> Beside:
    """What stands behind the graph in a whole graph file, if there is something.

    Raises:
        StorageCorrupt: it can't be read.
    """
    if bytes(file[-len(MAGIC) :]) != MAGIC:
        return NOTHING_BESIDE
    end = len(file) - len(MAGIC) - LENGTH_BYTES
    start = end - int.from_bytes(file[end : end + LENGTH_BYTES], "little")
    try:
        trailer = _DECODER.decode(file[max(0, start) : end])
        others, strays = (np.frombuffer(rows, dtype="<i8").astype(np.int64) for rows in (trailer.others, trailer.strays))
        coding = _coding_of(trailer.coding)
        return Beside(coding, others, strays, _codes_before(file[: max(0, start)], coding, trailer.coded_rows))
    except (msgspec.DecodeError, ValueError, ZeroDivisionError) as error:
        raise StorageCorrupt(f"what stands behind the graph can't be read. reason={error}") from error


def _codes_before(file: memoryview, coding: Coding | None, rows: int) -> Codes | None:
    """The codes of so many rows at the end of what is here of a file."""
    if coding is None or not rows:
        return None
    first = len(file) - rows * coding.dims
    return np.frombuffer(file[max(0, first) :], dtype=np.int8).reshape(rows, coding.dims)


def _coding_of(part: _CodingPart | None) -> Coding | None:
    if part is None:
        return None
    origin = np.frombuffer(part.origin, dtype="<f4")
    directions = np.frombuffer(part.directions, dtype="<f4").reshape(-1, len(origin))
    kept = np.asfortranarray(directions) if len(directions) else None
    return Coding(part.space, Axes(origin, kept, part.across_max, part.length), part.step)
