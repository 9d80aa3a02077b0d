"""Vectors as users give them, to one float32 matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from chroma_async.model import Vectors

EXPECTED = "a vector, a list of vectors, or a numpy array of 1 or 2 dimensions"


def to_matrix(value: Any, name: str) -> Vectors:
    """Return one or many vectors as an (n, ndim) float32 matrix.

    Takes a list of numbers, a list of lists or of arrays, and arrays of one dimension (one vector) or two; of any real type.

    Raises:
        ValueError: nothing in it, vectors of different lengths, or something that is no number.
    """
    if not isinstance(value, list | tuple | np.ndarray):
        raise ValueError(f"{name} must be {EXPECTED}. got={type(value).__name__}")
    given: Any = cast("Any", value)
    _require_one_length(given, name)
    try:
        array: npt.NDArray[Any] = np.asarray(given)
    except ValueError as error:
        raise ValueError(f"{name} must be {EXPECTED}") from error
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be {EXPECTED}, of numbers. got shape={array.shape} dtype={array.dtype}")
    if array.size == 0:
        raise ValueError(f"{name} must not be empty. got shape={array.shape}")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(np.atleast_2d(array), dtype=np.float32)


def checked_finite(vectors: Vectors, name: str) -> Vectors:
    """Return vectors, shape (n, ndim): to such as are not finite nothing is near.

    Raises:
        ValueError: NaN, infinity, or a number beyond float32.
    """
    finite = np.isfinite(vectors)
    if not finite.all():
        row, place = np.argwhere(~finite)[0].tolist()
        raise ValueError(f"{name}[{row}][{place}] must be a finite number of float32. got={vectors[row, place]}")
    return vectors


def _require_one_length(rows: Sequence[Any], name: str) -> None:
    if isinstance(rows, np.ndarray):
        return
    lengths = [len(cast("Sequence[Any]", row)) if isinstance(row, list | tuple | np.ndarray) else None for row in rows]
    if len(set(lengths)) > 1:
        odd = next(number for number, length in enumerate(lengths) if length != lengths[0])
        raise ValueError(
            f"{name} must have vectors of one length. item 0 has {lengths[0]} numbers, item {odd} has {lengths[odd]}"
        )
