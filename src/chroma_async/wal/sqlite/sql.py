"""The schema of the log's file, and the statements that the log makes of it."""

from __future__ import annotations

from typing import Final

from chroma_async.wal.checks import WEIGHTS_MAX

FORMAT: Final = 1

NO_LIMIT: Final = 2**63 - 1
"""The greatest number that SQLite has: above every LSN."""

# Two tables are older than the words for what they hold, and keep their names: these are part of the format.
_NOTED: Final = "freed"
"""Through which LSN each collection was noted as applied."""

_FREED: Final = "truncated"
"""Through which LSN each collection was freed."""

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE log (identity TEXT NOT NULL, format INTEGER NOT NULL);
INSERT INTO log VALUES ('{identity}', {format});
CREATE TABLE entries (
    lsn INTEGER PRIMARY KEY AUTOINCREMENT,
    collection TEXT,
    time_ns INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    operation_id TEXT,
    payload BLOB
);
INSERT INTO sqlite_sequence VALUES ('entries', 0);
CREATE INDEX entries_kept ON entries (collection, lsn) WHERE payload IS NOT NULL;
CREATE TABLE operations (lsn INTEGER PRIMARY KEY, operation_id TEXT NOT NULL UNIQUE);
CREATE TABLE catalog (key TEXT PRIMARY KEY, crc INTEGER NOT NULL, value BLOB NOT NULL);
CREATE VIEW bounds AS
    SELECT seq AS newest, coalesce((SELECT min(lsn) FROM entries), seq + 1) AS oldest
    FROM sqlite_sequence WHERE name = 'entries';
CREATE TRIGGER entries_are_dense BEFORE INSERT ON entries
    WHEN NEW.lsn <> (SELECT seq + 1 FROM sqlite_sequence WHERE name = 'entries')
    BEGIN SELECT raise(ABORT, 'this lsn does not follow the newest one'); END;
CREATE TRIGGER entries_are_remembered AFTER INSERT ON entries
    WHEN NEW.operation_id IS NOT NULL
    BEGIN INSERT INTO operations VALUES (NEW.lsn, NEW.operation_id); END;
COMMIT;
"""

COUNT_TABLES = "SELECT count(*) FROM sqlite_master"
COUNT_LOG_TABLES = "SELECT count(*) FROM sqlite_master WHERE name IN ('log', 'entries')"
COUNT_NOTED_TABLES = f"SELECT count(*) FROM sqlite_master WHERE name = '{_NOTED}'"
COUNT_FREED_TABLES = f"SELECT count(*) FROM sqlite_master WHERE name = '{_FREED}'"
CREATE_NOTED = f"CREATE TABLE IF NOT EXISTS {_NOTED} (collection TEXT PRIMARY KEY, lsn INTEGER NOT NULL) WITHOUT ROWID"
CREATE_FREED = f"CREATE TABLE {_FREED} (collection TEXT PRIMARY KEY, lsn INTEGER NOT NULL) WITHOUT ROWID"

LOG = "SELECT identity, format FROM log"
NEWEST = "SELECT newest FROM bounds"
OLDEST = "SELECT oldest FROM bounds"
FIRST_LOST = "SELECT min(lsn) FROM entries WHERE collection IS NULL AND payload IS NULL AND time_ns = 0"
OWNER = "SELECT collection FROM entries WHERE lsn = ?"

# ---- appending

BEGIN = "BEGIN IMMEDIATE"
INSERT = "INSERT INTO entries (lsn, collection, time_ns, crc, operation_id, payload) VALUES (?, ?, ?, ?, ?, ?)"
PUT_ROW = "INSERT OR REPLACE INTO catalog (key, crc, value) VALUES (?, ?, ?)"
DROP_ROW = "DELETE FROM catalog WHERE key = ?"
LSN_OF_OPERATION = "SELECT lsn FROM operations WHERE operation_id = ?"

# ---- reading

# One statement, so one instant; at least one row, so that bounds come with an empty page too. Neither a window nor a sort
# may have payloads in its rows: SQLite copies them, which takes longer than all the rest. So lengths are found first, and
# the rows are sorted by whoever gets them.
PAGE = """
WITH lengths AS (
    SELECT lsn, coalesce(length(payload), 0) AS bytes
    FROM entries WHERE lsn > :after AND lsn <= :through ORDER BY lsn LIMIT :rows
), sizes AS (
    SELECT lsn, sum(bytes) OVER (ORDER BY lsn ROWS UNBOUNDED PRECEDING) AS bytes FROM lengths
), page AS (
    SELECT coalesce(min(lsn) FILTER (WHERE bytes >= :bytes), max(lsn)) AS last FROM sizes
)
SELECT newest, oldest, lsn, collection, time_ns, crc, operation_id, payload
FROM bounds LEFT JOIN entries ON lsn > :after AND lsn <= (SELECT last FROM page)
"""

# The newest entry through which a collection was freed comes from the same instant as the entries.
HISTORY = f"""
WITH found AS (
    SELECT lsn, length(payload) AS bytes FROM entries
    WHERE collection = :collection AND payload IS NOT NULL AND lsn > :after AND lsn <= :through ORDER BY lsn LIMIT :rows
), sizes AS (
    SELECT lsn, row_number() OVER (ORDER BY lsn) AS number, sum(bytes) OVER (ORDER BY lsn ROWS UNBOUNDED PRECEDING) AS bytes
    FROM found
)
SELECT newest, coalesce((SELECT lsn FROM {_FREED} WHERE collection = :collection), 0), chosen.*
FROM bounds LEFT JOIN (
    SELECT entries.lsn, collection, time_ns, crc, operation_id, payload FROM sizes JOIN entries USING (lsn)
    WHERE number = 1 OR bytes <= :bytes
) AS chosen ON true
"""

CATALOG = "SELECT newest, key, crc, value FROM bounds LEFT JOIN catalog ON true ORDER BY key"

OPERATIONS = """
WITH ranges (first, beyond) AS (VALUES {ranges})
SELECT first, operation_id, lsn FROM ranges CROSS JOIN operations
    ON operation_id = (SELECT max(operation_id) FROM operations WHERE operation_id >= first AND operation_id < beyond)
"""

# ---- what was applied, freed, and is kept

NOTED_APPLIED = f"SELECT collection, lsn FROM {_NOTED}"
FREED_THROUGH = f"SELECT collection, lsn FROM {_FREED}"

HOLDING = "SELECT DISTINCT collection FROM entries WHERE payload IS NOT NULL AND collection IS NOT NULL"

FIRST_UNAPPLIED = f"""
SELECT coalesce(min(first), (SELECT newest + 1 FROM bounds)) FROM (
    SELECT (
        SELECT min(lsn) FROM entries WHERE collection = holding.collection AND payload IS NOT NULL
        AND lsn > coalesce((SELECT lsn FROM {_NOTED} WHERE collection = holding.collection), 0)
    ) AS first FROM ({HOLDING}) AS holding
)
"""

WEIGHTS = f"""
WITH lengths AS MATERIALIZED (SELECT lsn, time_ns, coalesce(length(payload), 0) AS bytes FROM entries)
SELECT max(lsn), max(time_ns), sum(bytes) FROM lengths
GROUP BY lsn / (SELECT max(1, (newest - oldest) / {WEIGHTS_MAX}) FROM bounds) ORDER BY 1
"""

# ---- noting, freeing, forgetting

_NEVER_BACK = "ON CONFLICT (collection) DO UPDATE SET lsn = excluded.lsn WHERE excluded.lsn > lsn"

NOTE_APPLIED = f"INSERT INTO {_NOTED} VALUES (?, ?) {_NEVER_BACK}"
NOTE_FREED = f"INSERT INTO {_FREED} VALUES (?, ?) {_NEVER_BACK}"

# For a log of 0.1.0, which kept no account of either: what is left of freed entries tells some of it. From then on both are
# whole, and much shorter than the entries.
NOTE_APPLIED_BEFORE = f"""
INSERT INTO {_NOTED}
SELECT collection, max(lsn) FROM entries WHERE payload IS NULL AND collection IS NOT NULL GROUP BY collection
{_NEVER_BACK}
"""
NOTE_FREED_BEFORE = f"INSERT INTO {_FREED} {NOTED_APPLIED}"

NOTE_FREEING = f"""
INSERT INTO {_FREED}
SELECT collection, max(lsn) FROM entries WHERE collection = ? AND lsn <= ? AND payload IS NOT NULL GROUP BY collection
{_NEVER_BACK}
"""

# By LSN, as the entries are freed: the index would lead through all that is kept.
NOTE_FREEING_APPLIED = f"""
INSERT INTO {_FREED}
SELECT entries.collection, max(entries.lsn) FROM entries NOT INDEXED JOIN {_NOTED} AS noted USING (collection)
WHERE entries.lsn <= ? AND entries.lsn <= noted.lsn AND payload IS NOT NULL GROUP BY entries.collection
{_NEVER_BACK}
"""

_FREE = """
UPDATE entries SET payload = NULL, crc = entry_crc(lsn, collection, time_ns, operation_id, NULL)
WHERE lsn IN (
    SELECT lsn FROM (
        SELECT lsn, sum(bytes) OVER (ORDER BY lsn ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before FROM (
            SELECT entries.lsn, length(payload) AS bytes FROM {of}
            AND payload IS NOT NULL ORDER BY entries.lsn LIMIT ?
        )
    ) WHERE bytes_before < ?
)
"""
FREE = _FREE.format(of="entries WHERE collection = ? AND lsn <= ?")
FREE_APPLIED = _FREE.format(
    of=f"entries JOIN {_NOTED} AS noted USING (collection) WHERE entries.lsn <= ? AND entries.lsn <= noted.lsn"
)

FORGET = f"""
DELETE FROM entries WHERE lsn <= ? AND lsn < coalesce(
    (SELECT lsn FROM entries WHERE payload IS NOT NULL AND collection IS NOT NULL ORDER BY lsn LIMIT 1), {NO_LIMIT}
) AND lsn < (SELECT min(lsn) FROM entries) + ?
"""
FORGET_OPERATIONS = "DELETE FROM operations WHERE lsn <= (SELECT newest FROM bounds) - ?"

# Of collections that are gone, also from the entries.
FORGET_DELETED = [
    f"""
    DELETE FROM {table} WHERE 'collection/' || collection NOT IN (SELECT key FROM catalog)
    AND collection NOT IN (SELECT collection FROM entries WHERE payload IS NOT NULL AND collection IS NOT NULL)
    """
    for table in (_NOTED, _FREED)
]
