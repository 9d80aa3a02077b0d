"""Rows that are kept of results: the same ones as the tables have, in bounded memory, and never those of an older base."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.engines import TINY, Records, compactor_at, create_collection, engine_at, settle

from chroma_async.core.memtable import Row
from chroma_async.engine.row_cache import _SLOT_BITS, ROWS_AT_ONCE_MAX, RowCache
from chroma_async.projections.records import RecordTables

ROOM = 100_000


class Tables:
    """Rows of a base, the slots that it has, and those that were looked for."""

    def __init__(self, name: str = "", slots: Sequence[int] = range(1_000), text: str = "") -> None:
        self.name, self.slots, self.text = name, frozenset(slots), text
        self.loaded: list[int] = []

    def load(self, slots: Sequence[int]) -> dict[int, Row]:
        self.loaded += slots
        return {slot: self.row(slot) for slot in slots if slot in self.slots}

    def row(self, slot: int) -> Row:
        return Row(slot, f"{self.name}{slot}", self.text or None, None, None)


@given(st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 30), max_size=70)), max_size=40))
def test_rows_are_those_of_the_tables(asked: list[tuple[int, list[int]]]) -> None:
    cache = RowCache(20_000)
    tables = [Tables(name, range(0, 30, step)) for name, step in (("a", 1), ("b", 2), ("c", 3))]
    bases = [cache.of_new_base() for _ in tables]
    for number, slots in asked:
        expected = Tables(tables[number].name, tables[number].slots).load(slots)
        assert bases[number].rows(slots, tables[number].load) == expected


def test_what_was_asked_for_is_not_looked_for_again() -> None:
    tables, rows = Tables(), RowCache(ROOM).of_new_base()
    rows.rows([3, 1, 2], tables.load)
    rows.rows([4, 2, 3], tables.load)
    assert tables.loaded == [3, 1, 2, 4]


def test_a_new_base_begins_without_rows() -> None:
    cache, before, after = RowCache(ROOM), Tables("old"), Tables("new")
    cache.of_new_base().rows([1, 2], before.load)
    assert cache.of_new_base().rows([1, 2], after.load) == {slot: after.row(slot) for slot in (1, 2)}


def test_what_is_kept_is_bounded_and_what_is_asked_for_stays() -> None:
    tables, cache = Tables(slots=range(100_000)), RowCache(ROOM)
    rows = cache.of_new_base()
    for first in range(10, 20_000, 10):
        rows.rows([5], tables.load)
        rows.rows(range(first, first + 10), tables.load)
        assert 250 * (len(cache._young) + len(cache._old)) <= ROOM
    assert tables.loaded.count(5) == 1
    assert cache._young_bytes <= ROOM // 2


def test_long_results_and_large_rows_drive_nothing_out() -> None:
    large = Tables(text="x" * 1_000)
    cache = RowCache(ROOM)
    rows = cache.of_new_base()
    rows.rows(range(ROWS_AT_ONCE_MAX + 1), large.load)
    rows.rows([1], large.load)
    assert not cache._young


def test_a_row_is_counted_once_however_often_it_is_asked_for() -> None:
    tables, cache = Tables(slots=range(100_000)), RowCache(ROOM)
    rows = cache.of_new_base()
    rows.rows([1], tables.load)
    size = cache._young_bytes
    for first in range(10, 20_000, 10):
        if not cache._young_bytes or 1 in {key % 2**_SLOT_BITS for key in cache._old}:
            break
        rows.rows(range(first, first + 10), tables.load)
    before = cache._young_bytes
    rows.rows([1] * 10, tables.load)
    assert cache._young_bytes == before + size


def test_a_cache_without_room_keeps_nothing() -> None:
    tables, rows = Tables(), RowCache(0).of_new_base()
    for _ in range(2):
        assert rows.rows([1], tables.load) == {1: tables.row(1)}
    assert tables.loaded == [1, 1]


def test_threads_get_their_own_rows() -> None:
    cache = RowCache(20_000)
    wrong: list[object] = []

    def ask(name: str) -> None:
        tables, rows, dice = Tables(name), cache.of_new_base(), np.random.default_rng(len(name))
        for _ in range(2_000):
            slots = dice.integers(0, 200, 10).tolist()
            found = rows.rows(slots, tables.load)
            if found != {slot: tables.row(slot) for slot in slots}:
                wrong.append(found)

    threads = [threading.Thread(target=ask, args=("x" * number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache._young_bytes <= 10_000


@pytest.mark.anyio
async def test_queries_see_what_was_updated_whether_it_is_applied_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[int] = []
    load = RecordTables.rows

    def noting(self: RecordTables, slots: Sequence[int]) -> dict[int, Row]:
        loaded.extend(slots)
        return load(self, slots)

    monkeypatch.setattr(RecordTables, "rows", noting)
    vectors = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    names = [f"r{number}" for number in range(20)]
    assert TINY.row_cache_bytes
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(names, vectors, documents=["first"] * 20)
        await settle(compactor)
        for _ in range(2):
            (found,) = (await records.query(vectors[:1], n_results=20)).columns
            assert found.documents == ["first"] * 20
        assert len(loaded) == 20
        await records.update(names[:10], documents=["second"] * 10)
        for _ in range(2):
            (found,) = (await records.query(vectors[:1], n_results=20)).columns
            documents = dict(zip(found.ids, found.documents or (), strict=True))
            assert documents == {name: "second" if name in names[:10] else "first" for name in names}
            await settle(compactor)
