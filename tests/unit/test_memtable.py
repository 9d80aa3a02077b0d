"""What a memtable refuses to fold: records would be given other records' vectors or slots."""

from __future__ import annotations

import numpy as np
import pytest

from chroma_async.core.events import RecordsHead, RecordsWritten, WriteOperation
from chroma_async.core.memtable import Memtable
from chroma_async.model import CollectionId, Lsn


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
