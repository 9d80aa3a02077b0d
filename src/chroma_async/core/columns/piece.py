"""A piece: the metadata of some slots as columns, and the slots that died meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from msgspec import Struct

from chroma_async.core.columns.column import Column
from chroma_async.core.columns.kernels import KERNELS
from chroma_async.core.operators import FIELD_OPERATORS, turned_around
from chroma_async.core.where import FieldTest, Missing
from chroma_async.errors import StorageCorrupt
from chroma_async.model import Mask, Slots

__all__ = ["ColumnPiece"]


class ColumnPiece(Struct, frozen=True, eq=False, dict=True):
    """The complete metadata of some slots as of some range of LSNs. A newer piece overrides older ones slot by slot.

    Row i of the piece is `slots[i]`. `slots` and `dead` are int64, ascend, and have nothing in common: a slot is in
    `dead` when it died in the range. `columns` maps a field to its columns, one per kind, scalars and lists apart.
    Immutable, hence safe to read from several threads.
    """

    slots: Slots
    dead: Slots
    columns: Mapping[str, tuple[Column, ...]]

    def __len__(self) -> int:
        return len(self.slots)

    @cached_property
    def where(self) -> Slots | slice:
        """The slots as an index into a mask over slots: a slice where none is missing, which costs a tenth."""
        if not len(self.slots):
            return slice(0, 0)
        first, last = int(self.slots[0]), int(self.slots[-1])
        return slice(first, last + 1) if last - first + 1 == len(self.slots) else self.slots

    def test(self, test: FieldTest, missing: Missing) -> Mask:
        """Return which rows pass the test, (n,) bool; agrees with `matches` on every row.

        Raises:
            StorageCorrupt: a column points outside the piece. Damage that stays inside is found when the file is opened.
        """
        row = FIELD_OPERATORS[test.operator]
        columns = self.columns.get(test.field, ())
        try:
            hits = self._hits(columns, test)
            if row.negates is None:
                return hits
            return turned_around(hits, lambda: self._presence(columns), missing)
        except IndexError as error:
            raise StorageCorrupt(f"a metadata column points outside its piece. field={test.field!r}") from error

    def field_types(self) -> dict[str, tuple[str, ...]]:
        """Return the types seen of each field, in order of appearance; a list has the type of its elements."""
        return {field: tuple(dict.fromkeys(column.kind for column in columns)) for field, columns in self.columns.items()}

    def _hits(self, columns: tuple[Column, ...], test: FieldTest) -> Mask:
        kernel = KERNELS[FIELD_OPERATORS[test.operator].positive]
        found: Mask | None = None
        for column in columns:
            hits = kernel(column, test.operand)
            if hits is not None:
                mask = column.mask(hits, len(self))
                found = mask if found is None else found | mask
        return np.zeros(len(self), np.bool_) if found is None else found

    def _presence(self, columns: tuple[Column, ...]) -> Mask:
        present = np.zeros(len(self), np.bool_)
        for column in columns:
            present |= column.presence(len(self))
        return present
