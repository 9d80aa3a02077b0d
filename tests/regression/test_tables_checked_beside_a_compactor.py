"""Tables are checked whole when they are first opened, and a compactor may write meanwhile.

The full-text index was found level with the documents, the compactor applied more of them, then the two were compared and
differed: whole tables were called damaged, and the read that had opened them failed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.property.test_text_index import Tables

from chroma_async.projections.records import RecordTables


@contextmanager
def tables_and_reader(path: Path) -> Generator[tuple[Tables, RecordTables]]:
    """Tables of one document that is indexed, as the compactor has them, and as somebody else reads them."""
    compactor = Tables(path)
    compactor.upsert(["u"], ["xabcx"])
    compactor.index(10)
    with closing(compactor.tables), closing(RecordTables(path, writable=False)) as reader:
        yield compactor, reader


def test_documents_that_are_applied_during_a_check_are_no_damage(tmp_path: Path) -> None:
    with tables_and_reader(tmp_path / "records.sqlite3") as (compactor, reader):
        assert reader.text_index.is_comparable()
        compactor.upsert(["v"], ["yabcy"])
        reader._compare_text_index(patient=False)


def test_who_is_not_patient_leaves_the_index_to_the_compactor_that_writes(tmp_path: Path) -> None:
    with tables_and_reader(tmp_path / "records.sqlite3") as (compactor, reader):
        with compactor.tables.transaction(write=True):
            compactor.tables._connection.execute("INSERT INTO documents (rowid, document) VALUES (7, 'of no record')")
        with compactor.tables.transaction(write=True):
            reader._compare_text_index(patient=False)
        with pytest.raises(sqlite3.DatabaseError):
            reader._compare_text_index(patient=False)
