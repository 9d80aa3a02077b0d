"""The full-text index follows the documents: wherever it is, a search for a text finds the documents that hold it."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from chroma_async.core.events import RecordsDeleted, RecordsEvent, RecordsHead, RecordsWritten, encode
from chroma_async.core.memtable import Memtable
from chroma_async.model import CollectionId, Lsn
from chroma_async.projections.fold import fold_entry
from chroma_async.projections.records import RecordTables

COLLECTION = CollectionId("c")
NEEDLES = ("abc", "bcab", "cab", "a", "ab", "\0", "b\0c")

IDS = st.lists(st.sampled_from("uvwxyz"), min_size=1, max_size=4, unique=True)
DOCUMENTS = st.one_of(st.none(), st.text(alphabet="abc\0", min_size=1, max_size=8))
WRITES = st.tuples(st.just("upsert"), IDS, st.lists(DOCUMENTS, min_size=4, max_size=4))
DELETES = st.tuples(st.just("delete"), IDS, st.none())
INDEXING = st.tuples(st.just("index"), st.integers(1, 4), st.none())
STEPS = st.lists(st.one_of(WRITES, WRITES, DELETES, INDEXING), max_size=25)


class Tables:
    """Record tables, and a dictionary of the documents that they should hold."""

    def __init__(self, path: Path) -> None:
        self.tables = RecordTables(path, writable=True)
        self.documents: dict[str, str | None] = {}
        self._lsn = 0
        self._next_slot = 0

    def play(self, step: tuple[str, Any, Any]) -> None:
        kind, first, second = step
        match kind:
            case "upsert":
                self.upsert(first, second)
            case "delete":
                self.delete(first)
            case _:
                self.index(first)

    def upsert(self, ids: list[str], documents: list[str | None]) -> None:
        head = RecordsHead(COLLECTION, "upsert", len(ids), 1, {})
        vectors = np.zeros((len(ids), 1), dtype=np.float32)
        self._apply(RecordsWritten(head, ids, vectors, None, documents[: len(ids)], None, None))
        for record_id, document in zip(ids, documents, strict=False):
            self.documents[record_id] = self.documents.get(record_id) if document is None else document

    def delete(self, ids: list[str]) -> None:
        self._apply(RecordsDeleted(COLLECTION, ids))
        for record_id in ids:
            self.documents.pop(record_id, None)

    def _apply(self, event: RecordsEvent) -> None:
        memtable = Memtable(applied=Lsn(self._lsn), next_slot=self._next_slot)
        self._lsn += 1
        fold_entry(memtable, Lsn(self._lsn), encode(event), self.tables)
        tail = memtable.tail()
        self._next_slot = tail.next_slot
        with self.tables.transaction(write=True):
            self.tables.apply(tail)

    def index(self, count: int) -> None:
        with self.tables.transaction(write=True):
            self.tables.text_index.follow(count)

    def containing(self, needle: str) -> set[str]:
        slots = sorted(set(self.tables.text_index.slots_containing(needle).tolist()))
        return {row.id for row in self.tables.rows(slots).values()}

    def expected(self, needle: str) -> set[str]:
        return {record_id for record_id, text in self.documents.items() if text is not None and needle in text}


@contextmanager
def new_tables() -> Iterator[Tables]:
    with tempfile.TemporaryDirectory() as directory:
        made = Tables(Path(directory) / "records.sqlite3")
        try:
            yield made
        finally:
            made.tables.close()


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_texts_are_found_wherever_the_index_is(steps: list[tuple[str, Any, Any]]) -> None:
    with new_tables() as made:
        for step in steps:
            made.play(step)
            for needle in NEEDLES:
                assert made.containing(needle) == made.expected(needle)


@given(STEPS)
@settings(max_examples=50, deadline=None)
def test_the_index_becomes_whole_and_holds_the_documents_only(steps: list[tuple[str, Any, Any]]) -> None:
    with new_tables() as made:
        for step in steps:
            made.play(step)
        rounds = 0
        while made.tables.text_index.lag():
            made.index(3)
            rounds += 1
            assert rounds < 100
        database = made.tables._connection
        assert database.execute("SELECT count(*) FROM outdated_documents").fetchone() == (0,)
        found = database.execute("SELECT rowid FROM documents WHERE documents MATCH 'abc'").fetchall()
        current = database.execute("SELECT slot FROM records WHERE instr(replace(document, char(0), ' '), 'abc')").fetchall()
        assert sorted(found) == sorted(current)


def test_tables_of_releases_that_indexed_at_once_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite3"
    made = Tables(path)
    made.upsert(["u", "v"], ["xabcx", "other"])
    made.index(10)
    made.tables.close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE text_index")
        database.execute("DROP TABLE outdated_documents")
        database.execute("PRAGMA user_version = 0")
    reading = RecordTables(path, writable=False)
    assert reading.text_index.slots_containing("abc").tolist() == [0]
    reading.close()
    writing = RecordTables(path, writable=True)
    assert writing.text_index.lag() == 0
    assert writing.text_index.slots_containing("abc").tolist() == [0]
    writing.close()
