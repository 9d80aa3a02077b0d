"""Tables of all that a record is but its vector (slot, id, document, metadata, uri), the manifest, and a full-text index.

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
from typing import Any, Final, TypeAlias, cast

import msgspec
import numpy as np
import orjson

from chroma_async.checksums import crc32
from chroma_async.core.columns import ColumnPiece, build
from chroma_async.core.memtable import Row, Tail
from chroma_async.errors import StorageCorrupt, UnavailableError
from chroma_async.model import Slots
from chroma_async.projections.manifest import Manifest, decode_manifest, encode_manifest
from chroma_async.seams.databases import copy_database
from chroma_async.seams.limits import limit_error

BUSY_SECONDS: Final = 10.0
BRIEF_SECONDS: Final = 0.25
"""So long a purge waits for who reads: as most do, for milliseconds. For others it is postponed."""

JOURNAL_BYTES_MAX: Final = 16 * 2**20
SPARE_PAGES: Final = 64
SPARE_SHARE: Final = 8
"""Free pages that stay in the file for the next rows: so many, or one of so many."""

TRIGRAM: Final = 3
TRIGRAMS_MAX: Final = 24
"""Trigrams of a long needle that are asked for; the exact check does the rest."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS records (
    slot INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, document TEXT, metadata TEXT, uri TEXT, crc INTEGER
);
CREATE VIRTUAL TABLE IF NOT EXISTS documents USING fts5 (
    document, content='records', content_rowid='slot', tokenize='trigram case_sensitive 1', detail=none, columnsize=0
);
CREATE TABLE IF NOT EXISTS text_index (one INTEGER PRIMARY KEY CHECK (one = 1), next_slot INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS outdated_documents (slot INTEGER PRIMARY KEY, document TEXT);
INSERT OR IGNORE INTO text_index (one, next_slot) SELECT 1, coalesce(max(slot) + 1, 0) FROM records;
CREATE TABLE IF NOT EXISTS manifest (
    one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, body BLOB NOT NULL, crc INTEGER
);
CREATE TABLE IF NOT EXISTS vector_sums (
    segment INTEGER NOT NULL, block INTEGER NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (segment, block)
) WITHOUT ROWID;
"""

SCHEMA_VERSION: Final = 1
"""SQLite's `user_version` of tables that are whole: those need no look at each of them when they are opened."""

ROWS_AT_ONCE: Final = 4096

PARAMETERS_MAX: Final = 64
"""Slots that are looked for as parameters of their own, which is faster; more of them are one parameter."""

ADD_CHECKSUMS: Final = "ALTER TABLE {table} ADD COLUMN crc INTEGER"
"""For tables of release 0.1.0. NULL means: written without a checksum."""

_SLOTS_AMONG: Final = "SELECT slot FROM records WHERE instr(document, ?) > 0 AND slot {}"
_INDEXED: Final = "IN (SELECT rowid FROM documents WHERE documents MATCH ?)"
_NOT_INDEXED: Final = ">= (SELECT next_slot FROM text_index)"
_OUTDATED: Final = "IN (SELECT slot FROM outdated_documents)"

_ENCODER: Final = msgspec.msgpack.Encoder()

StoredColumns: TypeAlias = tuple[int, str, str | None, str | None, str | None]
"""slot, id, document, metadata (JSON), uri: the first fields of a `Row`, in its order."""


class RecordTables:
    """One connection to the tables of a collection. Used by one thread at a time."""

    def __init__(self, path: Path, *, writable: bool, unchanging: bool = False) -> None:
        """Open the file; a writable connection makes the tables when they are absent.

        SQLite shares a small file with other processes, made when a database is opened: on a full or read-only disk it can't
        be. `unchanging` opens without: right while nobody writes, which is to be checked by `is_unchanged` afterwards.

        Raises:
            sqlite3.OperationalError: the file can't be opened.
        """
        mode = "ro&immutable=1" if unchanging else "rwc" if writable else "rw"
        self._path = path
        self._before = _stamp(path) if unchanging else None
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        self._connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS
        )
        self._summed = False
        try:
            self._connection.execute("PRAGMA cache_size = -8000")
            self._connection.execute("PRAGMA mmap_size = 268435456")
            if writable:
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES_MAX}")
        if self._number("PRAGMA user_version") == SCHEMA_VERSION:
            return
        self._connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        for table in ("records", "manifest"):
            if not self._has_checksums(table):
                self._connection.execute(ADD_CHECKSUMS.format(table=table))
        self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _has_checksums(self, table: str) -> bool:
        columns = self._connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
        return ("crc",) in columns.fetchall()

    @property
    def _crc(self) -> str:
        """The checksum as a column, NULL in tables of release 0.1.0 that no compactor has opened since."""
        if not self._summed:
            self._summed = self._has_checksums("records") and self._has_checksums("manifest")
        return "crc" if self._summed else "NULL"

    def close(self) -> None:
        self._connection.close()

    @property
    def unchanging(self) -> bool:
        return self._before is not None

    def is_unchanged(self) -> bool:
        """Whether nobody has written since the file was opened as unchanging."""
        return self._before == _stamp(self._path)

    @contextmanager
    def transaction(self, *, write: bool = False) -> Generator[None]:
        """One instant of the tables for all that is read inside; with `write`, all or nothing."""
        self._connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite may have rolled back already, for a full disk
                self._connection.execute("ROLLBACK")
            raise
        if write:  # its pages are not needed again soon, and a compactor has many stores open
            self._connection.execute("PRAGMA shrink_memory")

    def tidy(self) -> bool:
        """Give back pages that are free, then move SQLite's journal into the file and empty it, where nobody reads it.

        Outside a transaction. False: somebody was reading, so that the journal is as long as before.
        """
        pages, free = self._number("PRAGMA page_count"), self._number("PRAGMA freelist_count")
        with self._waiting(0):
            if free > max(SPARE_PAGES, pages // SPARE_SHARE):
                self._connection.execute("PRAGMA incremental_vacuum").fetchall()
            return not self._number("PRAGMA wal_checkpoint(TRUNCATE)")

    def check_unread(self) -> None:
        """See that `scrub` will be able to empty the journal, before anything is written for it. Outside a transaction.

        Raises:
            UnavailableError: somebody reads the tables.
        """
        self._empty_journal()
        self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")  # one page: an empty journal shows no reader
        self._empty_journal()

    def scrub(self) -> None:
        """Leave no bytes in the file or its journal but those of what the tables hold. Outside a transaction.

        Raises:
            UnavailableError: somebody reads the tables, so that the journal can't be emptied.
        """
        self.rebuild_indexes()  # the text index keeps trigrams of what was deleted until it merges
        self._connection.execute("VACUUM")
        self._empty_journal()

    def _empty_journal(self) -> None:
        with self._waiting(BRIEF_SECONDS):
            busy = self._number("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            raise UnavailableError(f"somebody reads the collection; stop that and try again. path={self._path}")

    @contextmanager
    def _waiting(self, seconds: float) -> Generator[None]:
        """Wait so long, at most, for others who use the file."""
        self._connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
        try:
            yield
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")

    def copy_to(self, path: Path, progress: Callable[[int], None]) -> None:
        """Copy the instant of the transaction that is open into a new file; see `copy_database`."""
        copy_database(self._connection, path, progress)

    # ---- reading

    def version(self) -> int:
        """Version of the manifest, 0 before the first."""
        row = self._connection.execute("SELECT version FROM manifest").fetchone()
        return 0 if row is None else cast("int", row[0])

    def is_newest(self) -> bool:
        """Whether no manifest was published since the instant of the transaction that is open."""
        return self.newest_manifest().version == self.version()

    def newest_manifest(self) -> Manifest:
        """The manifest as of now, whatever the transaction that is open sees."""
        if self.unchanging:
            return self.manifest()
        other = RecordTables(self._path, writable=False)
        try:
            return other.manifest()
        finally:
            other.close()

    def manifest(self) -> Manifest:
        """The manifest, checked; an empty one before the first.

        Raises:
            FormatError, StorageCorrupt: see `decode_manifest`; or it does not match its checksum.
        """
        row = self._connection.execute(f"SELECT version, body, {self._crc} FROM manifest").fetchone()
        if row is None:
            return Manifest()
        version, body, crc = row
        if not isinstance(body, bytes) or (crc is not None and _manifest_checksum(version, body) != crc):
            raise StorageCorrupt(f"the manifest does not match its checksum. path={self._path}")
        manifest = decode_manifest(body)
        if manifest.version != version:
            raise StorageCorrupt(f"the manifest has two versions. path={self._path} {version} {manifest.version}")
        return manifest

    def count(self) -> int:
        """Number of stored records, counted one by one."""
        return cast("int", self._connection.execute("SELECT count(*) FROM records").fetchone()[0])

    def lookup(self, ids: Sequence[str]) -> dict[str, Row]:
        """The records of these ids, whole."""
        return {row.id: row for row in self._rows_of(ids)}

    def rows_of(self, ids: Sequence[str]) -> dict[int, Row]:
        """The records of these ids, by slot."""
        return {row.slot: row for row in self._rows_of(ids)}

    def _rows_of(self, ids: Sequence[str]) -> Iterator[Row]:
        return self._checked(self._with_ids(f"slot, id, document, metadata, uri, {self._crc}", ids))

    def _checked(self, found: Iterable[Any]) -> Iterator[Row]:
        """The records of stored rows, each of which ends with its checksum, after a comparison.

        Raises:
            StorageCorrupt: one is not what was written.
        """
        for stored in found:
            columns, crc = stored[:-1], stored[-1]
            row = Row(*columns)
            if crc is not None and row_checksum(columns) != crc:
                raise StorageCorrupt(f"a record does not match its checksum. path={self._path} slot={row.slot}")
            yield row

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

    def rows(self, slots: Sequence[int]) -> dict[int, Row]:
        """The records of these slots, by slot."""
        few = len(slots) <= PARAMETERS_MAX
        marks = ",".join("?" * len(slots)) if few else "SELECT value FROM json_each(?)"
        values = tuple(slots) if few else (orjson.dumps(slots).decode(),)
        found = self._connection.execute(
            f"SELECT slot, id, document, metadata, uri, {self._crc} FROM records WHERE slot IN ({marks})", values
        )
        return {row.slot: row for row in self._checked(found)}

    def every_row(self) -> Iterator[Row]:
        """All records, checked, by slot."""
        sql = f"SELECT slot, id, document, metadata, uri, {self._crc} FROM records ORDER BY slot"
        return self._checked(self._connection.execute(sql))

    def rebuilt_columns(self) -> ColumnPiece:
        """The metadata of all records, as columns.

        Raises:
            StorageCorrupt: a record is not what was written, or some are missing.
        """
        rows = [(row.slot, row.metadata) for row in self.every_row()]
        live = self.manifest().live
        if len(rows) != live:
            raise StorageCorrupt(f"records are missing. path={self._path} found={len(rows)} expected={live}")
        return build([slot for slot, _ in rows], [metadata for _, metadata in rows])

    # ---- checking

    def size_bytes(self) -> int:
        """Bytes of the database, without its journal."""
        return self._number("PRAGMA page_size") * self._number("PRAGMA page_count")

    def is_summed(self) -> bool:
        """Whether every record and the manifest have a checksum."""
        return self._crc == "crc" and not self._number("SELECT EXISTS (SELECT 1 FROM records WHERE crc IS NULL)")

    def _number(self, sql: str) -> int:
        return cast("int", self._connection.execute(sql).fetchone()[0])

    def problem(self, *, patient: bool = True) -> str | None:
        """Say what is wrong with the tables, None when they are whole: pages, indexes, rows, counts, trigrams.

        It reads everything, and holds the writer's turn while it compares the trigrams. Without patience it leaves that
        out when the turn is taken: by a compactor, which has checked the tables before.

        Raises:
            sqlite3.OperationalError: the machine lacks something.
        """
        try:
            found = self._connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                return str(found).splitlines()[-1]
            with self.transaction():
                manifest, count = self.manifest(), sum(1 for _ in self.every_row())
                if count != manifest.live:
                    return f"records are missing. found={count} expected={manifest.live}"
                for segment in manifest.segments:
                    if segment.block_rows and len(self.block_sums(segment.number)) != -(-segment.rows // segment.block_rows):
                        return f"checksums of vectors are missing. segment={segment.number}"
            if self._trigrams_are_comparable():
                self._check_trigrams(patient=patient)
        except (StorageCorrupt, sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if limit_error(error, self._path.parent) is not None:
                raise
            return str(error)
        return None

    def _trigrams_are_comparable(self) -> bool:
        """Whether the full-text index has caught up with the documents, and none has a NUL: see `_indexed_text`."""
        lags = self._number("SELECT count(*) FROM sqlite_master WHERE name = 'text_index'") and self.unindexed_documents()
        return not lags and not self._number("SELECT count(*) FROM records WHERE instr(document, char(0)) > 0 LIMIT 1")

    def _check_trigrams(self, *, patient: bool) -> None:
        """Compare the full-text index with the documents."""
        try:
            with self._waiting(BUSY_SECONDS if patient else 0):
                self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if patient or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            return
        try:
            if self._trigrams_are_comparable():  # still: documents may have been applied since
                self._connection.execute("INSERT INTO documents (documents, rank) VALUES ('integrity-check', 1)")
        finally:
            self._connection.execute("ROLLBACK")

    def rebuild_indexes(self) -> None:
        """Make the indexes of the tables anew, from the records.

        Raises:
            sqlite3.DatabaseError: the records can't be read.
        """
        with self.transaction(write=True):
            self._connection.execute("REINDEX")
            self._connection.execute("DROP TABLE IF EXISTS documents")
            for statement in SCHEMA.split(";"):
                self._connection.execute(statement)
            rows = self._connection.execute("SELECT slot, document FROM records WHERE document IS NOT NULL")
            self._connection.executemany(
                "INSERT INTO documents (rowid, document) VALUES (?, ?)",
                ((slot, _indexed_text(document)) for slot, document in rows),
            )
            self._connection.execute("DELETE FROM outdated_documents")
            self._connection.execute("UPDATE text_index SET next_slot = (SELECT coalesce(max(slot) + 1, 0) FROM records)")

    def block_sums(self, segment: int) -> list[int]:
        """The CRC-32 of each block of a segment's vectors; none where release 0.1.0 wrote them."""
        if self._crc == "NULL":
            return []
        found = self._connection.execute("SELECT block, crc FROM vector_sums WHERE segment = ? ORDER BY block", (segment,))
        rows = found.fetchall()
        if [block for block, _ in rows] != list(range(len(rows))):
            raise StorageCorrupt(f"checksums of vectors are missing. path={self._path} segment={segment}")
        return [crc for _, crc in rows]

    def block_sum(self, segment: int, block: int) -> int | None:
        """The CRC-32 of one block of a segment's vectors; None: there is none."""
        found = self._connection.execute("SELECT crc FROM vector_sums WHERE segment = ? AND block = ?", (segment, block))
        row = found.fetchone()
        return None if row is None else cast("int", row[0])

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
        """The slots that a statement selects, as one text: to fetch them row by row takes three times as long."""
        (found,) = self._connection.execute(f"SELECT group_concat(slot) FROM ({sql})", values).fetchone()
        return np.fromstring(found or "", dtype=np.int64, sep=",")

    # ---- writing, inside a transaction

    def publish(self, manifest: Manifest) -> None:
        """Make this the manifest; what it reaches was made durable before."""
        body = encode_manifest(manifest)
        self._connection.execute(
            "INSERT OR REPLACE INTO manifest (one, version, body, crc) VALUES (1, ?, ?, ?)",
            (manifest.version, body, _manifest_checksum(manifest.version, body)),
        )

    def add_row_checksums(self) -> None:
        """Give checksums to rows that release 0.1.0 wrote, some thousands in a transaction. What is there is believed."""
        sql = "SELECT slot, id, document, metadata, uri FROM records WHERE crc IS NULL AND slot > ? ORDER BY slot LIMIT ?"
        last = -1
        while True:
            with self.transaction(write=True):
                rows = self._connection.execute(sql, (last, ROWS_AT_ONCE)).fetchall()
                sums = [(row_checksum(row), row[0]) for row in rows]
                self._connection.executemany("UPDATE records SET crc = ? WHERE slot = ?", sums)
            if not rows:
                return
            last = rows[-1][0]

    def put_block_sums(self, sums: Mapping[tuple[int, int], int]) -> None:
        """Set the CRC-32 of blocks of vectors, by segment and block."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO vector_sums (segment, block, crc) VALUES (?, ?, ?)",
            ((segment, block, crc) for (segment, block), crc in sums.items()),
        )

    def forget_block_sums(self, segments: Iterable[int]) -> None:
        """Forget the checksums of segments that are gone."""
        self._connection.executemany("DELETE FROM vector_sums WHERE segment = ?", ((segment,) for segment in segments))

    def apply(self, tail: Tail) -> None:
        """Write the rows that a fold of entries leaves."""
        gone = tail.dead.tolist()
        changed = sorted(tail.overrides)
        self._outdate_documents(gone, tail)
        self._connection.executemany("DELETE FROM records WHERE slot = ?", ((slot,) for slot in gone))
        rows = [*(tail.overrides[slot] for slot in changed), *(row for row in tail.rows if row is not None)]
        self._connection.executemany(
            "INSERT OR REPLACE INTO records (slot, id, document, metadata, uri, crc) VALUES (?, ?, ?, ?, ?, ?)",
            (
                (*stored, row_checksum(stored))
                for stored in ((row.slot, row.id, row.document, row.metadata_json, row.uri) for row in rows)
            ),
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


def _stamp(path: Path) -> tuple[int, int, int, int]:
    """What changes whenever somebody writes to a database: its inode, size, time of change, and the size of its journal."""
    found, journal = path.stat(), path.with_name(f"{path.name}-wal")
    return found.st_ino, found.st_size, found.st_mtime_ns, journal.stat().st_size if journal.exists() else 0


def row_checksum(columns: StoredColumns) -> int:
    """CRC-32 of a stored row as MessagePack. Part of the format: a change of it is a new format version.

    Raises:
        UnicodeEncodeError: a text has half of a surrogate pair; SQLite takes no such text.
    """
    return crc32(_ENCODER.encode(columns))


def _manifest_checksum(version: int, body: bytes) -> int:
    return crc32(body, crc32(str(version).encode()))


def _indexed_text(document: str) -> str:
    """The text as the trigram index sees it: its tokenizer ends at a NUL."""
    return document.replace("\0", " ")


def _match_expression(needle: str) -> str:
    """An FTS5 expression that holds for every document that contains the needle."""
    trigrams = dict.fromkeys(needle[start : start + TRIGRAM] for start in range(len(needle) - TRIGRAM + 1))
    quoted = ['"' + trigram.replace('"', '""') + '"' for trigram in list(trigrams)[:TRIGRAMS_MAX]]
    return " AND ".join(quoted)
