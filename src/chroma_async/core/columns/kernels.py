"""The positive operators as vectors: which values of a column pass a test.

Numbers compare exactly. An operand is first brought into the column's own type, where a comparison costs nothing: for an
order it is rounded toward the side on which no value of that type is lost, for equality it is dropped if it has no
equal there (1.5 among ints, 2**53 + 1 among floats).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

import numpy as np
from msgspec import Struct

from chroma_async.core.columns.column import BOUNDS, Column, Values
from chroma_async.core.operators import FieldOperator, Operand, family_of, is_number, kind_of
from chroma_async.model import Mask, Scalar

__all__ = ["KERNELS", "Kernel"]

_FEW: Final = 8
"""Up to so many operands of `$in`, comparing one after the other beats building a table."""

Kernel = Callable[[Column, Operand], Mask | None]
"""Returns hits among the column's values, (n,) bool; None when this column can't have any."""


def _equal(column: Column, operand: Operand) -> Mask | None:
    return None if column.is_list else _any_of(column, (cast("Scalar", operand),))


def _one_of(column: Column, operand: Operand) -> Mask | None:
    return None if column.is_list else _any_of(column, cast("tuple[Scalar, ...]", operand))


def _element(column: Column, operand: Operand) -> Mask | None:
    if not column.is_list or column.kind != kind_of(operand):
        return None
    return _any_of(column, (cast("Scalar", operand),))


class _Ordering(Struct, frozen=True):
    """`compare` between values and the operand, rounded `up` or down to the column's type."""

    compare: Callable[[Any, Any], Any]
    up: bool

    def __call__(self, column: Column, operand: Operand) -> Mask | None:
        if column.is_list or column.kind not in ("int", "float") or not is_number(operand):
            return None
        bound = self._whole(operand) if column.kind == "int" else self._floating(operand)
        if column.kind == "int" and not _fits(column.values, bound):
            return np.full(len(column.values), self.compare(0, bound), np.bool_)
        return cast("Mask", self.compare(column.values, bound))

    def _whole(self, operand: float) -> int:
        return math.ceil(operand) if self.up else math.floor(operand)

    def _floating(self, operand: float) -> float:
        nearest = float(operand)
        if self.up:
            return nearest if nearest >= operand else math.nextafter(nearest, math.inf)
        return nearest if nearest <= operand else math.nextafter(nearest, -math.inf)


KERNELS: Final[Mapping[FieldOperator, Kernel]] = {
    "$eq": _equal,
    "$in": _one_of,
    "$contains": _element,
    "$gt": _Ordering(operator.gt, up=False),
    "$gte": _Ordering(operator.ge, up=True),
    "$lt": _Ordering(operator.lt, up=True),
    "$lte": _Ordering(operator.le, up=False),
}
"""By positive operator; the negative ones are their complements."""


def _any_of(column: Column, operands: Iterable[Scalar]) -> Mask | None:
    needles = [needle for operand in operands if (needle := _needle(column, operand)) is not None]
    if not needles:
        return None
    if len(needles) > _FEW:
        return np.isin(column.values, np.asarray(needles, column.values.dtype))
    return _equal_to_one(column.values, needles)


def _equal_to_one(values: Values, needles: list[int | float]) -> Mask:
    hits: Mask = values == needles[0]
    for needle in needles[1:]:
        hits |= values == needle
    return hits


def _needle(column: Column, operand: Scalar) -> int | float | None:
    """Return what the operand is in the column's own type, None when nothing there is equal to it."""
    if column.kind == "str":
        return _code(column, operand) if isinstance(operand, str) else None
    if column.kind == "bool":
        return int(operand) if isinstance(operand, bool) else None
    if family_of(operand) != "number":
        return None
    number = cast("float", operand)
    return _as_int(number, column.values) if column.kind == "int" else _as_float(number)


def _code(column: Column, operand: str) -> int | None:
    assert column.dictionary is not None
    return column.dictionary.find(operand.encode(errors="surrogatepass"))


def _as_int(operand: float, values: Values) -> int | None:
    if not math.isfinite(operand) or operand != math.floor(operand):
        return None
    return int(operand) if _fits(values, operand) else None


def _fits(values: Values, operand: float) -> bool:
    least, greatest = BOUNDS[values.itemsize]
    return least <= operand <= greatest


def _as_float(operand: float) -> float | None:
    return float(operand) if float(operand) == operand else None
