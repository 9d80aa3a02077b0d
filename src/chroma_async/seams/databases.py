"""One instant of an SQLite database as a file of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from chroma_async.errors import StorageCorrupt
from chroma_async.seams.limits import limit_error

_PAGES: Final = 512
"""Copied at a time, 2 to 4 MB: how often progress is told."""


def copy_database(source: sqlite3.Connection, path: Path, progress: Callable[[int], None]) -> None:
    """Write what the source's open read transaction sees into a new file. Writers are not held up.

    `progress` is told the number of bytes that were copied since the last time. The file is not synced.

    Raises:
        StorageCorrupt: the copy is not a sound database, so the source is not.
    """
    assert source.in_transaction
    page_bytes = int(source.execute("PRAGMA page_size").fetchone()[0])
    left: int | None = None

    def copied(_: int, remaining: int, total: int) -> None:
        nonlocal left
        progress(((total if left is None else left) - remaining) * page_bytes)
        left = remaining

    with closing(sqlite3.connect(path)) as target:
        source.backup(target, pages=_PAGES, progress=copied)
    check_database(path)


def check_database(path: Path) -> None:
    """Check a database that nobody changes; nothing is written beside it.

    Raises:
        StorageCorrupt: SQLite finds it damaged.
        sqlite3.OperationalError: the machine lacks something.
    """
    try:
        with closing(open_unchanging(path)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if limit_error(error, path.parent) is not None:
            raise
        raise StorageCorrupt(f"database is damaged. path={path} reason={error}") from error
    if found is None or found[0] != "ok":
        raise StorageCorrupt(f"database is damaged. path={path} reason={found and found[0]!r}")


def open_unchanging(path: Path) -> sqlite3.Connection:
    """Open a database that nobody changes, for reading; nothing is written beside it."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
