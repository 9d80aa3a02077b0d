"""Metadata tables: slot, id, document, metadata and uri of each record, the manifest, and a full-text index.

Documents are indexed by trigrams (SQLite FTS5) as a prefilter; an exact check follows, so that `$contains` is right for any
script. Needles of one or two characters, and those that hold a NUL, are looked for by a scan.

To index a document costs as much as all else that applying it costs, so the index follows: it holds the documents of slots
before `text_index.next_slot` as they are, or, where `outdated_documents` has the slot, as they were (NULL: not at all).
Documents that it lacks or holds outdated are looked for by a scan of these.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import orjson

from chroma_async.core.memtable import Row, Tail
from chroma_async.model import Metadata, Slots
from chroma_async.projections.manifest import Manifest, decode_manifest, encode_manifest
from chroma_async.seams.databases import copy_database

BUSY_SECONDS: Final = 10.0
JOURNAL_BYTES_MAX: Final = 16 * 2**20
TRIGRAM: Final = 3
TRIGRAMS_MAX: Final = 24
"""Trigrams of a long needle that are asked for; the exact check does the rest."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS records (
    slot INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, document TEXT, metadata TEXT, uri TEXT
);
CREATE VIRTUAL TABLE IF NOT EXISTS documents USING fts5 (
    document, content='records', content_rowid='slot', tokenize='trigram case_sensitive 1', detail=none, columnsize=0
);
CREATE TABLE IF NOT EXISTS text_index (one INTEGER PRIMARY KEY CHECK (one = 1), next_slot INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS outdated_documents (slot INTEGER PRIMARY KEY, document TEXT);
INSERT OR IGNORE INTO text_index (one, next_slot) SELECT 1, coalesce(max(slot) + 1, 0) FROM records;
CREATE TABLE IF NOT EXISTS manifest (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, body BLOB NOT NULL);
"""

_SLOTS_AMONG: Final = "SELECT slot FROM records WHERE instr(document, ?1) > 0 AND slot {}"
_INDEXED: Final = "IN (SELECT rowid FROM documents WHERE documents MATCH ?2)"
_NOT_INDEXED: Final = ">= (SELECT next_slot FROM text_index)"
_OUTDATED: Final = "IN (SELECT slot FROM outdated_documents)"

StoredRow = tuple[int, str, str | None, str | None, str | None]
"""slot, id, document, metadata (JSON), uri"""


class RecordTables:
    """One connection to the tables of a collection. Used by one thread at a time."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Open the file; a writable connection makes the tables when they are absent.

        Raises:
            sqlite3.OperationalError: the file can't be opened.
        """
        mode = "rwc" if writable else "rw"
        self._connection = sqlite3.connect(
            f"{path.as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS
        )
        self._connection.execute("PRAGMA cache_size = -8000")
        self._connection.execute("PRAGMA mmap_size = 268435456")
        if writable:
            self._prepare()

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES_MAX}")
        self._connection.executescript(SCHEMA)

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def transaction(self, *, write: bool = False) -> Generator[None]:
        """One instant of the tables for all that is read inside; with `write`, all or nothing."""
        self._connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
        if write:  # its pages are not needed again soon, and a compactor has many stores open
            self._connection.execute("PRAGMA shrink_memory")

    def tidy(self) -> None:
        """Move SQLite's journal into the file and empty it, where nobody reads it. Outside a transaction."""
        self._connection.execute("PRAGMA busy_timeout = 0")
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")

    def copy_to(self, path: Path, progress: Callable[[int], None]) -> None:
        """Copy the instant of the transaction that is open into a new file; see `copy_database`."""
        copy_database(self._connection, path, progress)

    # ---- reading

    def version(self) -> int:
        """Version of the manifest, 0 before the first."""
        row = self._connection.execute("SELECT version FROM manifest").fetchone()
        return 0 if row is None else cast("int", row[0])

    def manifest(self) -> Manifest:
        row = self._connection.execute("SELECT body FROM manifest").fetchone()
        return Manifest() if row is None else decode_manifest(row[0])

    def count(self) -> int:
        """Number of stored records, counted one by one."""
        return cast("int", self._connection.execute("SELECT count(*) FROM records").fetchone()[0])

    def lookup(self, ids: Sequence[str]) -> dict[str, Row]:
        """The records of these ids, whole."""
        found = self._with_ids("slot, id, document, metadata, uri", ids)
        return {row[1]: Row(row[0], row[1], row[2], decode_metadata(row[3]), row[4]) for row in found}

    def slots_of(self, ids: Sequence[str]) -> dict[str, int]:
        return dict(cast("Iterable[tuple[str, int]]", self._with_ids("id, slot", ids)))

    def _with_ids(self, columns: str, ids: Sequence[str]) -> Iterator[Any]:
        """Rows of these ids. Those with a NUL are asked for one by one: SQLite's JSON functions end a text there."""
        plain = [record_id for record_id in ids if "\0" not in record_id]
        many = f"SELECT {columns} FROM records WHERE id IN (SELECT value FROM json_each(?))"
        yield from self._connection.execute(many, (orjson.dumps(plain).decode(),))
        if len(plain) < len(ids):
            for record_id in {*ids}.difference(plain):
                yield from self._connection.execute(f"SELECT {columns} FROM records WHERE id = ?", (record_id,))

    def rows(self, slots: Sequence[int]) -> dict[int, StoredRow]:
        """The stored rows of these slots."""
        marks = ",".join("?" * len(slots)) if len(slots) <= 64 else "SELECT value FROM json_each(?)"
        values = slots if len(slots) <= 64 else (orjson.dumps(slots).decode(),)
        found = self._connection.execute(
            f"SELECT slot, id, document, metadata, uri FROM records WHERE slot IN ({marks})", tuple(values)
        )
        return {row[0]: row for row in found}

    def slots_containing(self, needle: str) -> Slots:
        """Slots of the records whose document contains the text literally; of all with a document when it is empty."""
        if not needle:
            return self._slots("SELECT slot FROM records WHERE document IS NOT NULL", ())
        if len(needle) < TRIGRAM or "\0" in needle:
            return self._slots("SELECT slot FROM records WHERE instr(document, ?) > 0", (needle,))
        indexed = self._slots(_SLOTS_AMONG.format(_INDEXED), (needle, _match_expression(needle)))
        if not self._has_text_index():
            return indexed
        others = (self._slots(_SLOTS_AMONG.format(which), (needle,)) for which in (_NOT_INDEXED, _OUTDATED))
        return np.concatenate([indexed, *others])  # an outdated one may be found twice

    def _has_text_index(self) -> bool:
        """Whether the tables say how far the index is; in those of older releases it is always whole."""
        found = self._connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'text_index'").fetchone()
        return found is not None

    def documents(self) -> Iterator[tuple[int, str]]:
        """Slot and text of every document."""
        found = self._connection.execute("SELECT slot, document FROM records WHERE document IS NOT NULL")
        return cast("Iterator[tuple[int, str]]", iter(found))

    def _slots(self, sql: str, values: tuple[str, ...]) -> Slots:
        found = self._connection.execute(sql, values)
        return np.fromiter((row[0] for row in found), dtype=np.int64)

    # ---- writing, inside a transaction

    def publish(self, manifest: Manifest) -> None:
        """Make this the manifest; what it reaches was made durable before."""
        self._connection.execute(
            "INSERT OR REPLACE INTO manifest (one, version, body) VALUES (1, ?, ?)",
            (manifest.version, encode_manifest(manifest)),
        )

    def apply(self, tail: Tail) -> None:
        """Write the rows that a fold of entries leaves."""
        gone = tail.dead.tolist()
        changed = sorted(tail.overrides)
        self._outdate_documents(gone, tail)
        self._connection.executemany("DELETE FROM records WHERE slot = ?", ((slot,) for slot in gone))
        rows = [*(tail.overrides[slot] for slot in changed), *(row for row in tail.rows if row is not None)]
        self._connection.executemany(
            "INSERT OR REPLACE INTO records (slot, id, document, metadata, uri) VALUES (?, ?, ?, ?, ?)",
            ((row.slot, row.id, row.document, encode_metadata(row.metadata), row.uri) for row in rows),
        )

    def _outdate_documents(self, gone: Sequence[int], tail: Tail) -> None:
        """Keep what the index holds of documents that change: it can forget only what it is told again."""
        now = {slot: row.document for slot, row in tail.overrides.items()}
        slots = [*gone, *now]
        stored = self._connection.execute(
            "SELECT slot, document FROM records WHERE slot < (SELECT next_slot FROM text_index) "
            "AND slot IN (SELECT value FROM json_each(?))",
            (orjson.dumps(slots).decode(),),
        ).fetchall()
        self._connection.executemany(
            "INSERT OR IGNORE INTO outdated_documents (slot, document) VALUES (?, ?)",
            ((slot, old) for slot, old in stored if old != now.get(slot)),
        )

    # ---- the full-text index

    def unindexed_documents(self) -> int:
        """About how many slots the full-text index has to look at."""
        (count,) = self._connection.execute(
            "SELECT max(0, (SELECT coalesce(max(slot) + 1, 0) FROM records) - (SELECT next_slot FROM text_index)) "
            "+ (SELECT count(*) FROM outdated_documents)"
        ).fetchone()
        return cast("int", count)

    def index_documents(self, count: int) -> None:
        """Bring the full-text index nearer to the documents, by up to this many slots. In a write transaction."""
        outdated = self._connection.execute("SELECT slot, document FROM outdated_documents LIMIT ?", (count,)).fetchall()
        self._connection.executemany(
            "INSERT INTO documents (documents, rowid, document) VALUES ('delete', ?, ?)",
            ((slot, _indexed_text(document)) for slot, document in outdated if document is not None),
        )
        again = orjson.dumps([slot for slot, _ in outdated]).decode()
        self._insert_documents("slot IN (SELECT value FROM json_each(?))", again)
        self._connection.execute("DELETE FROM outdated_documents WHERE slot IN (SELECT value FROM json_each(?))", (again,))
        slots = [
            row[0]
            for row in self._connection.execute(
                "SELECT slot FROM records WHERE slot >= (SELECT next_slot FROM text_index) ORDER BY slot LIMIT ?",
                (count - len(outdated),),
            )
        ]
        if slots:
            self._insert_documents("slot >= (SELECT next_slot FROM text_index) AND slot <= ?", slots[-1])
            self._connection.execute("UPDATE text_index SET next_slot = ?", (slots[-1] + 1,))

    def _insert_documents(self, which: str, operand: object) -> None:
        chosen = f"SELECT slot, document FROM records WHERE document IS NOT NULL AND {which}"
        found = self._connection.execute(chosen, (operand,))
        self._connection.executemany(
            "INSERT INTO documents (rowid, document) VALUES (?, ?)",
            [(slot, _indexed_text(document)) for slot, document in found],
        )


def decode_metadata(stored: str | None) -> Metadata | None:
    return None if stored is None else cast("Metadata", orjson.loads(stored))


def encode_metadata(metadata: Mapping[str, object] | None) -> str | None:
    return None if metadata is None else orjson.dumps(metadata).decode()


def _indexed_text(document: str) -> str:
    """The text as the trigram index sees it: its tokenizer ends at a NUL."""
    return document.replace("\0", " ")


def _match_expression(needle: str) -> str:
    """An FTS5 expression that holds for every document that contains the needle."""
    trigrams = dict.fromkeys(needle[start : start + TRIGRAM] for start in range(len(needle) - TRIGRAM + 1))
    quoted = ['"' + trigram.replace('"', '""') + '"' for trigram in list(trigrams)[:TRIGRAMS_MAX]]
    return " AND ".join(quoted)
