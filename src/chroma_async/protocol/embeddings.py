"""Embeddings between the wire and numpy: base64 or number lists in, one float32 matrix out, no object per number.

What has the wrong shape is refused while decoding (422). What has the right shape and a wrong value (400) is kept as the
batch's `refusal` and raised later: Chroma looks for the collection in between, and a missing one is reported first.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from itertools import chain
from string import ascii_letters, digits
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import pybase64

from chroma_async.errors import InvalidArgumentError, MalformedRequestError
from chroma_async.model import Vectors
from chroma_async.protocol.explain import PREFIX, describe

NO_VECTORS: Vectors = np.empty((0, 0), dtype=np.float32)

LOOK_FOR_BOOLEANS_MAX: Final = 8_192
"""Numbers among which a boolean is looked for, one by one; in a larger batch only when none of them is a fraction."""

EMPTY_VECTOR: Final = "Validation error: embeddings: Each embedding must have at least 1 dimension"
UNEQUAL_LENGTHS: Final = "Inconsistent dimensions in provided embeddings"

_ALPHABET: Final = frozenset((ascii_letters + digits + "+/").encode())
_LAST_BEFORE_PADDING: Final = {1: frozenset("AEIMQUYcgkosw048"), 2: frozenset("AQgw")}


class EmbeddingBatch:
    """The vectors of one write: `vectors` of shape (k, ndim), float32, and which of the call's `count` rows have one.

    `rows` holds the ascending row numbers, shape (k,), or None when every row has a vector (k == count).
    `refusal` is what is wrong with the values of a batch from the wire; there are no vectors then.
    (A plain class: msgspec would decode a dataclass as an object, and hands only foreign types to our decoder.)
    """

    __slots__ = ("count", "refusal", "rows", "vectors")

    def __init__(
        self,
        vectors: Vectors,
        count: int | None = None,
        rows: npt.NDArray[np.int64] | None = None,
        refusal: InvalidArgumentError | None = None,
    ) -> None:
        self.vectors = vectors
        self.count = len(vectors) if count is None else count
        self.rows = rows
        self.refusal = refusal

    def to_wire(self) -> list[str | None]:
        """Base64 of little-endian float32, None for rows without a vector."""
        texts: list[str | None] = [
            pybase64.b64encode_as_string(row.astype("<f4", copy=False).tobytes()) for row in self.vectors
        ]
        if self.rows is None:
            return texts
        spread: list[str | None] = [None] * self.count
        for row, text in zip(self.rows.tolist(), texts, strict=True):
            spread[row] = text
        return spread


def decode_embedding_batch(value: object, *, nulls_allowed: bool = True) -> EmbeddingBatch:
    """Return the vectors of an add, upsert or update; with its `refusal` when the values are wrong: bad base64, numbers
    that are not finite, vectors of different lengths or of length 0.

    Raises:
        MalformedRequestError: not a list of number lists or of base64 texts, a mixture of both, or a null where none may be.
    """
    variant = "UpdateEmbeddingsPayload" if nulls_allowed else "EmbeddingsPayload"
    if not isinstance(value, list):
        raise _wrong_variant(variant, "embeddings", value)
    items = cast("list[object]", value)
    present = [item for item in items if item is not None]
    if len(present) < len(items) and not nulls_allowed:
        raise _wrong_variant(variant, f"embeddings[{items.index(None)}]", None)
    all_given = len(present) == len(items)
    places = range(len(items)) if all_given else [number for number, item in enumerate(items) if item is not None]
    try:
        vectors = _decode_rows(present, places, variant)
    except InvalidArgumentError as error:
        return EmbeddingBatch(NO_VECTORS, len(items), refusal=error)
    if all_given:
        return EmbeddingBatch(vectors)
    return EmbeddingBatch(vectors, len(items), np.asarray(places, dtype=np.int64))


def _decode_rows(items: Sequence[object], places: Sequence[int], variant: str) -> Vectors:
    """Return the vectors; `places` are the items' numbers in the request, for messages."""
    if not items:
        return NO_VECTORS
    kinds = {type(item) for item in items}
    if kinds == {str}:
        return _from_base64(cast("Sequence[str]", items), places)
    if kinds != {list}:
        wanted = next((kind for kind in (str, list) if isinstance(items[0], kind)), None)
        odd = next(number for number, item in enumerate(items) if type(item) is not wanted)
        raise _wrong_variant(variant, f"embeddings[{places[odd]}]", items[odd])
    rows = cast("Sequence[Sequence[object]]", items)
    matrix = _to_float32(rows)
    if matrix is not None:
        return matrix
    for place, row in zip(places, rows, strict=True):
        for number, item in enumerate(row):
            if not _is_number(item):
                raise _wrong_variant(variant, f"embeddings[{place}][{number}]", item)
    raise unequal_lengths([len(row) for row in rows], places)


# ---- base64


def _from_base64(texts: Sequence[str], places: Sequence[int]) -> Vectors:
    vectors = _decode_good(texts)
    if vectors is not None and (not vectors.size or _is_finite(vectors)):
        return vectors
    raise unequal_lengths([_decode_one(text, place) for text, place in zip(texts, places, strict=True)], places)


def _decode_good(texts: Sequence[str]) -> Vectors | None:
    """Return the vectors; None when a text is not to be decoded, or they differ in length."""
    try:
        buffers = [pybase64.b64decode(text, validate=True) for text in texts]
    except (binascii.Error, ValueError):
        return None
    size = len(buffers[0])
    if size % 4 or any(len(buffer) != size for buffer in buffers):
        return None
    if size % 3 and not all(_ends_well(text) for text in texts):
        return None
    flat = np.frombuffer(b"".join(buffers), dtype="<f4").astype(np.float32, copy=False)
    return flat.reshape(len(buffers), -1) if size else np.empty((len(buffers), 0), dtype=np.float32)


def _ends_well(text: str) -> bool:
    """Whether the bits beyond the last byte are zero; Python's decoder does not look at them."""
    padding = 2 if text.endswith("==") else 1
    return text[-padding - 1] in _LAST_BEFORE_PADDING[padding]


def _decode_one(text: str, place: int) -> int:
    """Return how many numbers a text holds; `place` is its number in the request.

    Raises:
        InvalidArgumentError: what is wrong with it, in the words of Chroma's decoder.
    """
    problem = _base64_problem(text)
    if problem is not None:
        raise InvalidArgumentError(f"Invalid base64 string: {problem.rstrip('.')}. place=embeddings[{place}]")
    buffer = binascii.a2b_base64(text)
    if len(buffer) % 4:
        raise InvalidArgumentError(
            f"Invalid byte length: {len(buffer)} bytes cannot be converted to f32 values (must be divisible by 4). "
            f"place=embeddings[{place}]"
        )
    numbers = np.frombuffer(buffer, dtype="<f4")
    odd = np.flatnonzero(~np.isfinite(numbers))
    if odd.size:
        value = float(numbers[odd[0]])
        shown = "NaN" if value != value else str(value)
        raise InvalidArgumentError(f"Non-finite float value at embedding index {odd[0]}: {shown}. place=embeddings[{place}]")
    return len(numbers)


def _base64_problem(text: str) -> str | None:
    """Source: `DecodeError` of the Rust crate base64."""
    symbols = text.encode()
    content = symbols.rstrip(b"=")
    padding = len(symbols) - len(content)
    odd = next((place for place, symbol in enumerate(content) if symbol not in _ALPHABET), None)
    if odd is not None:
        return f"Invalid symbol {content[odd]}, offset {odd}."
    rest = len(content) % 4
    if padding and (rest < 2 or padding > 2):
        return f"Invalid symbol 61, offset {len(content)}."
    if rest == 1:
        return f"Invalid input length: {len(symbols)}"
    if len(symbols) % 4:
        return "Invalid padding"
    if padding and not _ends_well(text):
        return f"Invalid last symbol {content[-1]}, offset {len(content) - 1}."
    return None


# ---- number lists


def from_lists(rows: Sequence[Sequence[object]], name: str) -> Vectors:
    """Return number lists of equal length as an (n, ndim) float32 matrix; `name` is the field, for messages.

    Raises:
        MalformedRequestError: something is no number.
        InvalidArgumentError: the lists differ in length.
    """
    matrix = decode_query_vectors(rows, name)
    if matrix.dtype == object:
        raise InvalidArgumentError(UNEQUAL_LENGTHS)
    return matrix


def decode_query_vectors(value: object, name: str = "query_embeddings") -> Vectors:
    """Return the vectors of a query, shape (queries, ndim); base64 is not part of Chroma's query.

    Vectors of different lengths give an array of objects, which `QueryRecords` refuses once its collection is found.

    Raises:
        MalformedRequestError: not a list of number lists.
    """
    if not isinstance(value, list):
        raise _wrong_type(name, value, "a sequence")
    rows = cast("list[object]", value)
    for number, row in enumerate(rows):
        if not isinstance(row, list):
            raise _wrong_type(f"{name}[{number}]", row, "a sequence")
    lists = cast("list[list[object]]", rows)
    matrix = _to_float32(lists) if lists else NO_VECTORS
    if matrix is not None:
        return matrix
    for number, numbers in enumerate(lists):
        for place, item in enumerate(numbers):
            if not _is_number(item):
                raise _wrong_type(f"{name}[{number}][{place}]", item, "f32")
    ragged = np.empty(len(lists), dtype=object)
    ragged[:] = lists
    return cast("Vectors", ragged)


def _to_float32(rows: Sequence[Sequence[object]]) -> Vectors | None:
    """Return number lists as a matrix; None when they differ in length, or hold something else than numbers."""
    length = len(rows[0])
    if any(len(row) != length for row in rows):
        return None
    if not length:
        return np.empty((len(rows), 0), dtype=np.float32)
    if len(rows) * length <= LOOK_FOR_BOOLEANS_MAX and _kinds(rows) == {float}:
        with np.errstate(over="ignore"):
            return np.array(rows, dtype=np.float32)  # in one step, in half of the time
    try:
        raw = np.asarray(rows)
    except (ValueError, OverflowError):
        return None
    if raw.dtype.kind == "O" and all(_are_numbers(row) for row in rows):
        raw = raw.astype(np.float64)  # integers beyond 64 bits
    if raw.dtype.kind not in "fiu" or raw.ndim != 2 or _has_boolean(rows, raw):
        return None
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(raw, dtype=np.float32)


def _has_boolean(rows: Sequence[Sequence[object]], raw: npt.NDArray[np.generic]) -> bool:
    """numpy takes True for 1; looking at every item of a large batch would cost as much as numpy itself."""
    if raw.size > LOOK_FOR_BOOLEANS_MAX and raw.dtype.kind == "f":
        return False
    return bool in _kinds(rows)


def _kinds(rows: Sequence[Sequence[object]]) -> set[type]:
    return set(map(type, chain.from_iterable(rows)))


def _are_numbers(row: Sequence[object]) -> bool:
    return all(_is_number(item) for item in row)


def _is_number(item: object) -> bool:
    return isinstance(item, int | float) and not isinstance(item, bool)


def require_finite(vectors: Vectors, rows: npt.NDArray[np.int64] | None) -> None:
    """Refuse NaN and infinity; `rows` are the vectors' numbers in the request where some have none."""
    if vectors.size and not _is_finite(vectors):
        row, column = np.argwhere(~np.isfinite(vectors))[0].tolist()
        place = row if rows is None else rows[row]
        raise InvalidArgumentError(
            "Validation error: embeddings: Embeddings must not contain NaN or Infinity values. "
            f"place=embeddings[{place}][{column}] float32={vectors[row, column]}"
        )


def _is_finite(vectors: Vectors) -> bool:
    """A sum is finite exactly when its parts are, short of overflow, which is then looked at."""
    return bool(np.isfinite(vectors.sum(dtype=np.float64)) or np.isfinite(vectors).all())


def unequal_lengths(lengths: Sequence[int], places: Sequence[int], name: str = "embeddings") -> InvalidArgumentError:
    """Return what is wrong with vectors of these lengths, which are not all the same or all 0."""
    if name == "embeddings" and 0 in lengths:
        return InvalidArgumentError(f"{EMPTY_VECTOR}. place={name}[{places[lengths.index(0)]}]")
    odd = next(number for number, length in enumerate(lengths) if length != lengths[0])
    found = " ".join(f"{name}[{places[number]}]={lengths[number]}" for number in (0, odd))
    return InvalidArgumentError(f"{UNEQUAL_LENGTHS}. numbers: {found}")


def _wrong_variant(variant: str, place: str, value: object) -> MalformedRequestError:
    return MalformedRequestError(
        f"{PREFIX}embeddings: data did not match any variant of untagged enum {variant}: "
        "expected a list of number lists, or a list of base64 texts of little-endian float32, not mixed; "
        f"{place} is {describe(value)}"
    )


def _wrong_type(path: str, value: object, expected: str) -> MalformedRequestError:
    return MalformedRequestError(f"{PREFIX}{path}: invalid type: {describe(value)}, expected {expected}")
