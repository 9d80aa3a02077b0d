"""One column: the values of one field that have one type, within one piece."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from chroma_async.core.operators import Kind
from chroma_async.model import Mask

__all__ = ["BOUNDS", "DTYPES", "Column", "Dictionary", "Values", "lay_out"]

Values: TypeAlias = npt.NDArray[Any]
"""One element per value, of one of the dtypes that `DTYPES` gives to the column's kind."""

Rows: TypeAlias = npt.NDArray[np.int32]

DTYPES: Final[Mapping[Kind, tuple[np.dtype[Any], ...]]] = {
    "int": (np.dtype("i1"), np.dtype("<i2"), np.dtype("<i4"), np.dtype("<i8")),
    "float": (np.dtype("<f8"),),
    "bool": (np.dtype("i1"),),
    "str": (np.dtype("i1"), np.dtype("<i2"), np.dtype("<i4")),
}
"""How values are kept: by the first of these, little-endian, that has them all. A filter takes as long as it takes to read
them. A bool is 0 or 1, a string its code in the dictionary."""

BOUNDS: Final[Mapping[int, tuple[int, int]]] = {
    size: (-(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1) for size in (1, 2, 4, 8)
}
"""The least and the greatest whole number of so many bytes."""

_ABSENT: Final = -1
"""Stands for no value in a dense bool or str column; numbers have no value to spare, so they get a `present` mask."""

_DENSE_SHARE: Final = 4
"""A column becomes dense when at least every fourth row has a value: a sparse one spends 4 more bytes on each."""


class Dictionary(Struct, frozen=True, eq=False):
    """The distinct strings of a column, ascending by their UTF-8 bytes, so that one is found without decoding any.

    `blob` is uint8, all strings one after the other; `offsets` is (n + 1,) int64, where each begins and ends.
    """

    blob: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return max(len(self.offsets) - 1, 0)

    def __getitem__(self, code: int) -> bytes:
        return self.blob[self.offsets[code] : self.offsets[code + 1]].tobytes()

    def find(self, needle: bytes) -> int | None:
        """Return the code of a string, by binary search."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self[middle] < needle:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self[low] == needle else None

    def entries(self, codes: npt.NDArray[np.int64]) -> list[bytes]:
        """Return the strings of some codes."""
        blob = self.blob.tobytes()
        bounds = zip(self.offsets[codes].tolist(), self.offsets[codes + 1].tolist(), strict=True)
        return [blob[begin:end] for begin, end in bounds]

    @classmethod
    def of(cls, entries: list[bytes]) -> Dictionary:
        """Build from distinct, ascending strings."""
        offsets = np.zeros(len(entries) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, entries), np.int64, len(entries)), out=offsets[1:])
        return cls(np.frombuffer(b"".join(entries), np.uint8), offsets)


class Column(Struct, frozen=True, eq=False):
    """Values of one field and one kind, dense or sparse.

    - dense: `rows` is None, `values` has one element per row of the piece; for numbers `present` tells which of them
      mean something, None if all do; for bool and str -1 is no value.
    - sparse: `values[i]` belongs to row `rows[i]`; `rows` is int32 and ascends. The elements of lists (`is_list`) are
      kept this way always, with a row repeated for each of its elements.
    """

    field: str
    kind: Kind
    is_list: bool
    values: Values
    rows: Rows | None = None
    present: Mask | None = None
    dictionary: Dictionary | None = None

    def mask(self, hits: Mask, size: int) -> Mask:
        """Turn hits among the values into a mask of the piece's `size` rows."""
        if self.rows is None:
            return hits if self.present is None else hits & self.present
        mask = np.zeros(size, np.bool_)
        mask[self.rows[np.flatnonzero(hits)]] = True
        return mask

    def presence(self, size: int) -> Mask:
        """Return the mask of the piece's `size` rows that have a value here."""
        if self.rows is not None:
            return self.mask(np.ones(len(self.values), np.bool_), size)
        if self.present is not None:
            return self.present
        return self.values != _ABSENT if self.kind in ("bool", "str") else np.ones(size, np.bool_)

    def cells(self) -> tuple[Rows, Values]:
        """Return the rows that have a value, ascending, and the values, one for one."""
        if self.rows is not None:
            return self.rows, self.values
        rows = np.flatnonzero(self.presence(len(self.values))).astype(np.int32)
        return rows, self.values if len(rows) == len(self.values) else self.values[rows]


def _narrowed(kind: Kind, values: Values) -> Values:
    """The values, of the smallest dtype that has them all."""
    dtypes = DTYPES[kind]
    if len(dtypes) > 1 and len(values):
        least, greatest = int(values.min()), int(values.max())
        dtypes = tuple(d for d in dtypes if BOUNDS[d.itemsize][0] <= least and greatest <= BOUNDS[d.itemsize][1])
    return values.astype(dtypes[0], copy=False)


def lay_out(
    field: str, kind: Kind, is_list: bool, rows: Rows, values: Values, size: int, dictionary: Dictionary | None
) -> Column:
    """Make a column of cells, whose `rows` ascend, in the representation that fits their density and their values."""
    values = _narrowed(kind, values)
    if is_list or len(rows) * _DENSE_SHARE < size:
        return Column(field, kind, is_list, values, rows=rows, dictionary=dictionary)
    if len(rows) == size:
        return Column(field, kind, is_list, values, dictionary=dictionary)
    has_spare_value = kind in ("bool", "str")
    dense = np.full(size, _ABSENT if has_spare_value else 0, values.dtype)
    dense[rows] = values
    if has_spare_value:
        return Column(field, kind, is_list, dense, dictionary=dictionary)
    present = np.zeros(size, np.bool_)
    present[rows] = True
    return Column(field, kind, is_list, dense, present=present, dictionary=dictionary)
