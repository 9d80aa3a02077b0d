"""The log in one SQLite file. Begin with `log`, which has the theory; its parts can be read alone."""

from __future__ import annotations

from chroma_async.wal.sqlite.connections import FILE
from chroma_async.wal.sqlite.copy import (
    LogCopy,
    check_log,
    copy_log,
    go_on_after,
    let_go_of,
    newest_of,
    owners_of,
    published_of,
    renew_identity,
)
from chroma_async.wal.sqlite.log import SqliteLog

__all__ = [
    "FILE",
    "LogCopy",
    "SqliteLog",
    "check_log",
    "copy_log",
    "go_on_after",
    "let_go_of",
    "newest_of",
    "owners_of",
    "published_of",
    "renew_identity",
]
