"""What is refused to be folded or applied: records would be given other records' vectors or slots."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from tests.support.engines import UnsyncedFiles

from chroma_async.core.events import RecordsHead, RecordsWritten, TenantCreated, WriteOperation, encode
from chroma_async.core.memtable import Memtable
from chroma_async.errors import LogCorrupt, StorageCorrupt
from chroma_async.model import CollectionId, Lsn
from chroma_async.projections.fold import fold_entry
from chroma_async.projections.store import CollectionStore


def written(ids: list[str], vectors: int, operation: WriteOperation = "upsert") -> RecordsWritten:
    head = RecordsHead(CollectionId("c"), operation, len(ids), 2, {})
    return RecordsWritten(head, ids, np.zeros((vectors, 2), dtype=np.float32), None, None, None, None)


def memtable(*known: str) -> Memtable:
    made = Memtable(applied=Lsn(0), next_slot=0)
    made.learn(known, {})
    return made


def test_an_entry_is_folded_once_and_in_order() -> None:
    table = memtable("a", "b")
    table.fold(Lsn(2), written(["a"], 1))
    for lsn in (2, 1):
        with pytest.raises(RuntimeError, match="out of order"):
            table.fold(Lsn(lsn), written(["b"], 1))


def test_a_new_record_has_a_vector() -> None:
    with pytest.raises(RuntimeError, match="without a vector"):
        memtable("a", "b").fold(Lsn(1), written(["a", "b"], 1))
    with pytest.raises(RuntimeError, match="without a vector"):
        memtable("a").fold(Lsn(1), written(["a", "a"], 0))


def test_a_newer_base_has_what_was_folded() -> None:
    table = memtable("a", "b")
    table.fold(Lsn(1), written(["a"], 1))
    table.fold(Lsn(2), written(["b"], 1))
    assert table.rebased(applied=Lsn(1), next_slot=1).next_slot == 2
    with pytest.raises(RuntimeError, match="not here"):
        table.rebased(applied=Lsn(3), next_slot=2)
    with pytest.raises(RuntimeError, match="other slots"):
        table.rebased(applied=Lsn(1), next_slot=2)


def test_an_entry_of_something_else_than_records_is_not_folded() -> None:
    table = memtable()
    with pytest.raises(LogCorrupt, match="TenantCreated"):
        fold_entry(table, Lsn(1), encode(TenantCreated("t")), None)
    assert table.through == 0


def test_entries_are_applied_to_the_base_that_they_were_folded_over(tmp_path: Path) -> None:
    table = Memtable(applied=Lsn(0), next_slot=5)
    table.learn(["a"], {})
    table.fold(Lsn(1), written(["a"], 1))
    with closing(CollectionStore(tmp_path / "c", UnsyncedFiles())) as store:
        with pytest.raises(RuntimeError, match="another base"):
            store.apply(table.tail(columns=True), space="l2", segment_rows_max=4)
        assert (store.applied, store.tables.count()) == (0, 0)


def test_vectors_of_another_dimension_are_not_written_among_those_that_are_there(tmp_path: Path) -> None:
    """A log that was put back to before a collection's first write does not know the dimension of its records."""
    first, other = Memtable(applied=Lsn(0), next_slot=0), Memtable(applied=Lsn(1), next_slot=1)
    first.learn(["a"], {})
    first.fold(Lsn(1), written(["a"], 1))
    other.learn(["b"], {})
    other.fold(Lsn(2), replace(written(["b"], 1), vectors=np.ones((1, 3), np.float32)))
    with closing(CollectionStore(tmp_path / "c", UnsyncedFiles())) as store:
        store.apply(first.tail(columns=True), space="l2", segment_rows_max=4)
        before = store.manifest
        with pytest.raises(StorageCorrupt, match=r"another dimension than the records.*log=3 records=2"):
            store.apply(other.tail(columns=True), space="l2", segment_rows_max=4)
        assert store.manifest == before
        assert [store.base().segments[0].vectors.shape, store.tables.count()] == [(1, 2), 1]
