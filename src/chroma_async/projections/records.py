"""Tables of all that a record is but its vector (slot, id, document, metadata, uri), and the manifest.

The full-text index of the documents, and checksums of blocks of vectors (`blocks.py`), are in the same file.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import msgspec
import orjson

from chroma_async.core.columns import ColumnPiece, build
from chroma_async.core.memtable import Row, Tail
from chroma_async.errors import StorageCorrupt
from chroma_async.projections.manifest import Manifest, decode_manifest, encode_manifest
from chroma_async.projections.sqlite_file import SqliteFile
from chroma_async.projections.text_index import TEXT_SCHEMA, TextIndex
from chroma_async.seams.limits import limit_error

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS records (
    slot INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, document TEXT, metadata TEXT, uri TEXT, crc INTEGER
);
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

_ENCODER: Final = msgspec.msgpack.Encoder()

_COLUMNS: Final = "slot, id, document, metadata, uri"
StoredColumns: TypeAlias = tuple[int, str, str | None, str | None, str | None]
"""Their values: the first fields of a `Row`, in its order."""


class RecordTables(SqliteFile):
    """One connection to the tables of a collection. Used by one thread at a time."""

    def __init__(self, path: Path, *, writable: bool, unchanging: bool = False) -> None:
        """See `SqliteFile`; a writable connection makes the tables when they are absent."""
        super().__init__(path, writable=writable, unchanging=unchanging)
        self.text_index = TextIndex(self._connection)
        self._summed = False
        if writable:
            try:
                self._prepare()
            except BaseException:
                self.close()
                raise

    def _prepare(self) -> None:
        if self._number("PRAGMA user_version") == SCHEMA_VERSION:
            return
        self._connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} {TEXT_SCHEMA} COMMIT;")
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

    # ---- the manifest

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

    def publish(self, manifest: Manifest) -> None:
        """Make this the manifest; what it reaches was made durable before. In a write transaction."""
        body = encode_manifest(manifest)
        self._connection.execute(
            "INSERT OR REPLACE INTO manifest (one, version, body, crc) VALUES (1, ?, ?, ?)",
            (manifest.version, body, _manifest_checksum(manifest.version, body)),
        )

    # ---- records

    def count(self) -> int:
        """Number of stored records, counted one by one."""
        return self._number("SELECT count(*) FROM records")

    def lookup(self, ids: Sequence[str]) -> dict[str, Row]:
        """The records of these ids, whole."""
        return {row.id: row for row in self._rows_of(ids)}

    def rows_of(self, ids: Sequence[str]) -> dict[int, Row]:
        """The records of these ids, by slot."""
        return {row.slot: row for row in self._rows_of(ids)}

    def _rows_of(self, ids: Sequence[str]) -> Iterator[Row]:
        return self._checked(self._with_ids(f"{_COLUMNS}, {self._crc}", ids))

    def _checked(self, found: Iterable[Any]) -> Iterator[Row]:
        """The records of stored rows, each of which ends with its checksum, after a comparison.

        Raises:
            StorageCorrupt: one is not what was written.
        """
        for slot, record_id, document, metadata, uri, crc in found:
            if crc is not None and row_checksum((slot, record_id, document, metadata, uri)) != crc:
                raise StorageCorrupt(f"a record does not match its checksum. path={self._path} slot={slot}")
            yield Row(slot, record_id, document, metadata, uri)

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
        found = self._connection.execute(f"SELECT {_COLUMNS}, {self._crc} FROM records WHERE slot IN ({marks})", values)
        return {row.slot: row for row in self._checked(found)}

    def every_row(self) -> Iterator[Row]:
        """All records, checked, by slot."""
        sql = f"SELECT {_COLUMNS}, {self._crc} FROM records ORDER BY slot"
        return self._checked(self._connection.execute(sql))

    def documents(self) -> Iterator[tuple[int, str]]:
        """Slot and text of every document."""
        found = self._connection.execute("SELECT slot, document FROM records WHERE document IS NOT NULL")
        return cast("Iterator[tuple[int, str]]", iter(found))

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

    def apply(self, tail: Tail) -> None:
        """Write the rows that a fold of entries leaves. In a write transaction."""
        gone = tail.dead.tolist()
        changed = sorted(tail.overrides)
        self.text_index.outdate(dict.fromkeys(gone) | {slot: row.document for slot, row in tail.overrides.items()})
        self._connection.executemany("DELETE FROM records WHERE slot = ?", ((slot,) for slot in gone))
        rows = [*(tail.overrides[slot] for slot in changed), *(row for row in tail.rows if row is not None)]
        self._connection.executemany(
            f"INSERT OR REPLACE INTO records ({_COLUMNS}, crc) VALUES (?, ?, ?, ?, ?, ?)",
            (
                (*stored, row_checksum(stored))
                for stored in ((row.slot, row.id, row.document, row.metadata_json, row.uri) for row in rows)
            ),
        )

    # ---- checksums of blocks of vectors

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

    def put_block_sums(self, sums: Mapping[tuple[int, int], int]) -> None:
        """Set the CRC-32 of blocks of vectors, by segment and block. In a write transaction."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO vector_sums (segment, block, crc) VALUES (?, ?, ?)",
            ((segment, block, crc) for (segment, block), crc in sums.items()),
        )

    def forget_block_sums(self, segments: Iterable[int]) -> None:
        """Forget the checksums of segments that are gone. In a write transaction."""
        self._connection.executemany("DELETE FROM vector_sums WHERE segment = ?", ((segment,) for segment in segments))

    # ---- checking, and making anew

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
            if self.text_index.is_comparable():
                self._compare_text_index(patient=patient)
        except (StorageCorrupt, sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if limit_error(error, self._path.parent) is not None:
                raise
            return str(error)
        return None

    def _compare_text_index(self, *, patient: bool) -> None:
        with self._turn_of_writers(patient=patient) as is_ours:
            if is_ours and self.text_index.is_comparable():  # still: documents may have been applied since
                self.text_index.compare()

    def rebuild_indexes(self) -> None:
        """Make the indexes of the tables anew, from the records.

        Raises:
            sqlite3.DatabaseError: the records can't be read.
        """
        with self.transaction(write=True):
            self._connection.execute("REINDEX")
            self.text_index.rebuild()

    def scrub(self) -> None:
        """Leave no bytes in the file or its journal but those of what the tables hold. Outside a transaction.

        Raises:
            UnavailableError: somebody reads the tables, so that the journal can't be emptied.
        """
        self.rebuild_indexes()  # the text index keeps trigrams of what was deleted until it merges
        self.vacuum()

    def is_summed(self) -> bool:
        """Whether every record and the manifest have a checksum."""
        return self._crc == "crc" and not self._number("SELECT EXISTS (SELECT 1 FROM records WHERE crc IS NULL)")

    def add_row_checksums(self) -> None:
        """Give checksums to rows that release 0.1.0 wrote, some thousands in a transaction. What is there is believed."""
        sql = f"SELECT {_COLUMNS} FROM records WHERE crc IS NULL AND slot > ? ORDER BY slot LIMIT ?"
        last = -1
        while True:
            with self.transaction(write=True):
                rows = self._connection.execute(sql, (last, ROWS_AT_ONCE)).fetchall()
                sums = [(row_checksum(row), row[0]) for row in rows]
                self._connection.executemany("UPDATE records SET crc = ? WHERE slot = ?", sums)
            if not rows:
                return
            last = rows[-1][0]


def row_checksum(columns: StoredColumns) -> int:
    """CRC-32 of a stored row as MessagePack. Part of the format: a change of it is a new format version.

    Raises:
        UnicodeEncodeError: a text has half of a surrogate pair; SQLite takes no such text.
    """
    return zlib.crc32(_ENCODER.encode(columns))  # below some 4 KiB faster than `checksums.crc32`, which gives the same


def _manifest_checksum(version: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(str(version).encode()))
