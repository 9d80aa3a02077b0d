"""A full-text index of documents: trigrams (SQLite FTS5) as a prefilter, then an exact check.

The check makes `$contains` right for any script. Needles of one or two characters, and those that hold a NUL, are looked for
by a scan.

To index a document costs as much as all else that applying it costs, so the index follows: it holds the documents of slots
before `text_index.next_slot` as they are, or, where `outdated_documents` has the slot, as they were (NULL: not at all).
Documents that it lacks or holds outdated are looked for by a scan of these. In tables of release 0.1.0 it is always whole.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final, cast

import numpy as np
import orjson

from chroma_async.model import Slots

TRIGRAM: Final = 3
TRIGRAMS_MAX: Final = 24
"""Trigrams of a long needle that are asked for; the exact check does the rest."""

TEXT_SCHEMA: Final = """
CREATE VIRTUAL TABLE IF NOT EXISTS documents USING fts5 (
    document, content='records', content_rowid='slot', tokenize='trigram case_sensitive 1', detail=none, columnsize=0
);
CREATE TABLE IF NOT EXISTS text_index (one INTEGER PRIMARY KEY CHECK (one = 1), next_slot INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS outdated_documents (slot INTEGER PRIMARY KEY, document TEXT);
INSERT OR IGNORE INTO text_index (one, next_slot) SELECT 1, coalesce(max(slot) + 1, 0) FROM records;
"""
"""Beside a table `records` with a `slot` and a `document`, which is there before."""

_SLOTS_AMONG: Final = "SELECT slot FROM records WHERE instr(document, ?) > 0 AND slot {}"
_INDEXED: Final = "IN (SELECT rowid FROM documents WHERE documents MATCH ?)"
_NOT_INDEXED: Final = ">= (SELECT next_slot FROM text_index)"
_OUTDATED: Final = "IN (SELECT slot FROM outdated_documents)"


class TextIndex:
    """The index, over a connection to its tables. What changes it is called inside of a write transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    # ---- asking

    def slots_containing(self, needle: str) -> Slots:
        """Slots of the records whose document contains the text literally; of all with a document when it is empty."""
        if not needle:
            return self._slots("SELECT slot FROM records WHERE document IS NOT NULL", ())
        if len(needle) < TRIGRAM or "\0" in needle:
            return self._slots("SELECT slot FROM records WHERE instr(document, ?) > 0", (needle,))
        indexed = self._slots(_SLOTS_AMONG.format(_INDEXED), (needle, _match_expression(needle)))
        if not self._may_lag():
            return indexed
        others = (self._slots(_SLOTS_AMONG.format(which), (needle,)) for which in (_NOT_INDEXED, _OUTDATED))
        return np.concatenate([indexed, *others])  # an outdated one may be found twice

    def _slots(self, sql: str, values: tuple[str, ...]) -> Slots:
        """The slots that a statement selects, as one text: to fetch them row by row takes three times as long."""
        (found,) = self._connection.execute(f"SELECT group_concat(slot) FROM ({sql})", values).fetchone()
        return np.fromstring(found or "", dtype=np.int64, sep=",")

    def _may_lag(self) -> bool:
        """Whether the tables say how far the index is: those of release 0.1.0 do not."""
        found = self._connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'text_index'").fetchone()
        return found is not None

    # ---- following the documents

    def lag(self) -> int:
        """About how many slots the index has to look at."""
        (count,) = self._connection.execute(
            "SELECT max(0, (SELECT coalesce(max(slot) + 1, 0) FROM records) - (SELECT next_slot FROM text_index)) "
            "+ (SELECT count(*) FROM outdated_documents)"
        ).fetchone()
        return cast("int", count)

    def outdate(self, documents: Mapping[int, str | None]) -> None:
        """Before documents change: keep what the index holds of them, since it can forget only what it is told again.

        `documents`, by slot: what is to come in their place; None: nothing.
        """
        stored = self._connection.execute(
            "SELECT slot, document FROM records WHERE slot < (SELECT next_slot FROM text_index) "
            "AND slot IN (SELECT value FROM json_each(?))",
            (orjson.dumps(list(documents)).decode(),),
        ).fetchall()
        self._connection.executemany(
            "INSERT OR IGNORE INTO outdated_documents (slot, document) VALUES (?, ?)",
            ((slot, old) for slot, old in stored if old != documents[slot]),
        )

    def follow(self, count: int) -> None:
        """Bring the index nearer to the documents, by up to this many slots."""
        outdated = self._connection.execute("SELECT slot, document FROM outdated_documents LIMIT ?", (count,)).fetchall()
        self._connection.executemany(
            "INSERT INTO documents (documents, rowid, document) VALUES ('delete', ?, ?)",
            ((slot, _indexed_text(document)) for slot, document in outdated if document is not None),
        )
        again = orjson.dumps([slot for slot, _ in outdated]).decode()
        self._insert("slot IN (SELECT value FROM json_each(?))", again)
        self._connection.execute("DELETE FROM outdated_documents WHERE slot IN (SELECT value FROM json_each(?))", (again,))
        found = self._connection.execute(
            "SELECT slot FROM records WHERE slot >= (SELECT next_slot FROM text_index) ORDER BY slot LIMIT ?",
            (count - len(outdated),),
        )
        slots = [slot for (slot,) in found]
        if slots:
            self._insert("slot >= (SELECT next_slot FROM text_index) AND slot <= ?", slots[-1])
            self._connection.execute("UPDATE text_index SET next_slot = ?", (slots[-1] + 1,))

    def _insert(self, which: str, operand: object) -> None:
        chosen = f"SELECT slot, document FROM records WHERE document IS NOT NULL AND {which}"
        found = self._connection.execute(chosen, (operand,))
        self._connection.executemany(
            "INSERT INTO documents (rowid, document) VALUES (?, ?)",
            [(slot, _indexed_text(document)) for slot, document in found],
        )

    def rebuild(self) -> None:
        """Make the index anew, of all documents.

        Raises:
            sqlite3.DatabaseError: the records can't be read.
        """
        self._connection.execute("DROP TABLE IF EXISTS documents")
        for statement in TEXT_SCHEMA.split(";"):
            self._connection.execute(statement)
        rows = self._connection.execute("SELECT slot, document FROM records WHERE document IS NOT NULL")
        self._connection.executemany(
            "INSERT INTO documents (rowid, document) VALUES (?, ?)",
            ((slot, _indexed_text(document)) for slot, document in rows),
        )
        self._connection.execute("DELETE FROM outdated_documents")
        self._connection.execute("UPDATE text_index SET next_slot = (SELECT coalesce(max(slot) + 1, 0) FROM records)")

    # ---- checking

    def is_comparable(self) -> bool:
        """Whether the index has caught up with the documents, and none has a NUL: see `_indexed_text`."""
        if self._may_lag() and self.lag():
            return False
        found = self._connection.execute("SELECT 1 FROM records WHERE instr(document, char(0)) > 0 LIMIT 1").fetchone()
        return found is None

    def compare(self) -> None:
        """Compare the index with the documents, when it is comparable. Nothing is written; SQLite takes it for a write.

        Raises:
            sqlite3.DatabaseError: they differ.
        """
        self._connection.execute("INSERT INTO documents (documents, rank) VALUES ('integrity-check', 1)")


def _indexed_text(document: str) -> str:
    """The text as the index sees it: its tokenizer ends at a NUL."""
    return document.replace("\0", " ")


def _match_expression(needle: str) -> str:
    """An FTS5 expression that holds for every document that contains the needle."""
    trigrams = dict.fromkeys(needle[start : start + TRIGRAM] for start in range(len(needle) - TRIGRAM + 1))
    quoted = ['"' + trigram.replace('"', '""') + '"' for trigram in list(trigrams)[:TRIGRAMS_MAX]]
    return " AND ".join(quoted)
