"""Several pieces into one. Which row survives is decided once for all columns; then each column moves as an array."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from itertools import chain, compress

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from chroma_async.core.columns.column import Column, Dictionary, Rows, Values, lay_out
from chroma_async.core.columns.piece import ColumnPiece
from chroma_async.core.operators import Kind
from chroma_async.errors import StorageCorrupt
from chroma_async.model import Slots

__all__ = ["merge"]

_Key = tuple[str, Kind, bool]


def merge(pieces: Sequence[ColumnPiece], *, forget_dead: bool) -> ColumnPiece:
    """Return one piece that says what `pieces`, oldest first, say together; the newest wins, slot by slot.

    With `forget_dead` the result remembers no deaths: right when there is no older piece left for them to hide rows in.

    Raises:
        StorageCorrupt: a piece points outside itself.
    """
    survivors = _choose_survivors(pieces)
    gathered: dict[_Key, list[tuple[Column, Rows]]] = {}
    for piece, targets in zip(pieces, survivors.targets, strict=True):
        for column in (column for columns in piece.columns.values() for column in columns):
            gathered.setdefault((column.field, column.kind, column.is_list), []).append((column, targets))
    try:
        merged = [_merge_columns(key, sources, len(survivors.slots)) for key, sources in gathered.items()]
    except IndexError as error:
        raise StorageCorrupt("a metadata column points outside its piece; rebuild the columns from the records") from error
    dead = np.zeros(0, np.int64) if forget_dead else survivors.dead
    return ColumnPiece(survivors.slots, dead, _by_field(column for column in merged if column is not None))


def _by_field(columns: Iterator[Column]) -> dict[str, tuple[Column, ...]]:
    fields: dict[str, tuple[Column, ...]] = {}
    for column in columns:
        fields[column.field] = (*fields.get(column.field, ()), column)
    return fields


class _Survivors(Struct, frozen=True):
    """`targets` has one array per piece: the row that each of its rows becomes, -1 for none."""

    slots: Slots
    dead: Slots
    targets: list[Rows]


def _choose_survivors(pieces: Sequence[ColumnPiece]) -> _Survivors:
    """Line up all lives, then all deaths, by slot and age; the last of each slot decides what becomes of it."""
    slots = _concatenate([array for piece in pieces for array in (piece.slots, piece.dead)])
    lengths = [length for piece in pieces for length in (len(piece.slots), len(piece.dead))]
    alive = np.repeat(np.tile([True, False], len(pieces)), lengths)
    order = np.argsort(slots, kind="stable")
    ordered = slots[order]
    is_last = np.ones(len(order), np.bool_)
    is_last[:-1] = ordered[1:] != ordered[:-1]
    winners = order[is_last]
    living = winners[alive[winners]]
    targets = np.full(len(slots), -1, np.int32)
    targets[living] = np.arange(len(living), dtype=np.int32)
    chunks = np.split(targets, np.cumsum(lengths)[:-1]) if lengths else []
    return _Survivors(slots[living], slots[winners[~alive[winners]]], chunks[::2])


def _concatenate(arrays: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def _merge_columns(key: _Key, sources: list[tuple[Column, Rows]], size: int) -> Column | None:
    """Merge the columns of one field and kind; None when none of their values survives."""
    field, kind, is_list = key
    moved = [_move(column, targets) for column, targets in sources]
    rows = np.concatenate([rows for rows, _ in moved])
    if not rows.size:
        return None
    dictionary = None
    if kind == "str":
        dictionary, moved = _unite_dictionaries([column for column, _ in sources], moved)
    values = np.concatenate([values for _, values in moved])
    if not (rows[1:] >= rows[:-1]).all():
        order = np.argsort(rows, kind="stable")
        rows, values = rows[order], values[order]
    return lay_out(field, kind, is_list, rows, values, size, dictionary)


def _move(column: Column, targets: Rows) -> tuple[Rows, Values]:
    """Return the surviving cells of a column, at their new rows."""
    rows, values = column.cells()
    rows = targets[rows]
    keep = rows >= 0
    return (rows, values) if keep.all() else (rows[keep], values[keep])


def _unite_dictionaries(
    columns: list[Column], moved: list[tuple[Rows, Values]]
) -> tuple[Dictionary, list[tuple[Rows, Values]]]:
    """Make one dictionary of the strings that are still used, so that deleted ones are in no file; translate codes."""
    used = [np.flatnonzero(_used_codes(column, codes)) for column, (_, codes) in zip(columns, moved, strict=True)]
    entries = [_dictionary(column).entries(codes) for column, codes in zip(columns, used, strict=True)]
    distinct, united = _unite(entries)
    translated: list[tuple[Rows, Values]] = []
    for column, old, new, (rows, values) in zip(columns, used, united, moved, strict=True):
        table = np.zeros(len(_dictionary(column)), np.int32)
        table[old] = new
        translated.append((rows, table[values]))
    return Dictionary.of(distinct), translated


def _unite(runs: list[list[bytes]]) -> tuple[list[bytes], list[Rows]]:
    """Return the union of ascending lists, and for each list the position of its items in the union.

    Python's sort merges runs that are ascending already; for a million strings this is far quicker than hashing them.
    """
    texts = list(chain.from_iterable(runs))
    order = sorted(range(len(texts)), key=texts.__getitem__)
    ordered = [texts[position] for position in order]
    is_new = np.fromiter(map(operator.ne, ordered[1:], ordered), np.bool_, max(len(ordered) - 1, 0))
    codes = np.zeros(len(texts), np.int32)
    codes[order[1:]] = np.cumsum(is_new, dtype=np.int32)
    distinct = ordered[:1] + list(compress(ordered[1:], is_new.tolist()))
    return distinct, np.split(codes, np.cumsum([len(run) for run in runs])[:-1])


def _used_codes(column: Column, codes: Values) -> npt.NDArray[np.bool_]:
    used = np.zeros(len(_dictionary(column)), np.bool_)
    used[codes] = True
    return used


def _dictionary(column: Column) -> Dictionary:
    assert column.dictionary is not None
    return column.dictionary
