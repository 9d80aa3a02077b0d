"""Rows that results of queries had lately, so that those of the next ones need not be looked for in the tables.

To find ten rows takes SQLite a tenth of the time of a query, half of it since the scan has driven its pages out of the
processor's caches. Rows of a base never change: what is newer is in the tail, and a newer base begins with no rows.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Final

from chroma_async.core.memtable import Row

ROWS_AT_ONCE_MAX: Final = 64
"""Longer results are not kept: one that reads everything would drive out all others."""

ROW_SHARE_MIN: Final = 256
"""Nor are rows that take more than one of so many parts of the room."""

_SLOT_BITS: Final = 48

Load = Callable[[Sequence[int]], dict[int, Row]]


class RowCache:
    """Rows of all collections of a process, in so many bytes, about. Used by any thread.

    Rows belong to a generation. When the young one takes half of the room it becomes the old one, and what was not asked for
    since is forgotten. So a hit is a look into a dictionary, and nothing is put in order.
    """

    def __init__(self, bytes_max: int) -> None:
        self._half = bytes_max // 2
        self._young: dict[int, Row] = {}
        self._old: dict[int, Row] = {}
        self._young_bytes = 0
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def of_new_base(self) -> BaseRows:
        """The rows of a base that nobody has read yet."""
        return BaseRows(self, next(self._numbers) << _SLOT_BITS)

    def rows(self, base: int, slots: Sequence[int], load: Load) -> dict[int, Row]:
        """Rows of these slots, those that exist; `load` gives those that are not here."""
        found: dict[int, Row] = {}
        missing: list[int] = []
        again: list[Row] = []
        young, old = self._young, self._old
        for slot in slots:
            row = young.get(base + slot)
            if row is None:
                row = old.get(base + slot)
                if row is None:
                    missing.append(slot)
                    continue
                again.append(row)
            found[slot] = row
        if missing:
            loaded = load(missing)
            again.extend(loaded.values())
            found.update(loaded)
        if again:
            self._keep(base, again)
        return found

    def _keep(self, base: int, rows: Sequence[Row]) -> None:
        with self._lock:
            for row in rows:
                size = _size(row)
                if size * ROW_SHARE_MIN > 2 * self._half or base + row.slot in self._young:
                    continue
                if self._young_bytes + size > self._half:
                    self._young, self._old, self._young_bytes = {}, self._young, 0
                self._young[base + row.slot] = row
                self._young_bytes += size


class BaseRows:
    """The rows of one base."""

    __slots__ = ("_base", "_cache")

    def __init__(self, cache: RowCache, base: int) -> None:
        self._cache = cache
        self._base = base

    def rows(self, slots: Sequence[int], load: Load) -> dict[int, Row]:
        """Rows of these slots, those that exist; `load` gives those that are not here."""
        return load(slots) if len(slots) > ROWS_AT_ONCE_MAX else self._cache.rows(self._base, slots, load)


def _size(row: Row) -> int:
    """Bytes of memory, with what keeps them: the row, its number, and a place in a dictionary of some."""
    texts = (row.id, row.document, row.metadata_json, row.uri)
    return 250 + sum(text.__sizeof__() for text in texts if text is not None)
