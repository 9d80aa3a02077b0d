"""Tables are checked whole when they are first opened, and a compactor may write meanwhile.

The full-text index was found level with the documents, the compactor applied more of them, then the two were compared and
differed: whole tables were called damaged, and the read that had opened them failed.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from tests.property.test_text_index import Tables

from chroma_async.projections.records import RecordTables


def test_documents_that_are_applied_during_a_check_are_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite3"
    compactor = Tables(path)
    compactor.upsert(["u"], ["xabcx"])
    compactor.index(10)
    with closing(compactor.tables), closing(RecordTables(path, writable=False)) as reader:
        assert reader.text_index.is_comparable()
        compactor.upsert(["v"], ["yabcy"])
        reader._compare_text_index(patient=False)
