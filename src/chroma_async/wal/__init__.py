"""The log: the only truth of a data directory. `store` says what each of them promises."""

from __future__ import annotations

from chroma_async.wal.checks import OPERATION_WINDOW, check_lost, lost_tail
from chroma_async.wal.memory import MemoryLog, MemoryLogState
from chroma_async.wal.sqlite import FILE as LOG_FILE
from chroma_async.wal.sqlite import (
    LogCopy,
    SqliteLog,
    check_log,
    copy_log,
    go_on_after,
    let_go_of,
    newest_of,
    owners_of,
    published_of,
    renew_identity,
)
from chroma_async.wal.store import CatalogRows, Durability, Entry, History, LogStore, NewEntry, TruncatableLog, Weight

__all__ = [
    "LOG_FILE",
    "OPERATION_WINDOW",
    "CatalogRows",
    "Durability",
    "Entry",
    "History",
    "LogCopy",
    "LogStore",
    "MemoryLog",
    "MemoryLogState",
    "NewEntry",
    "SqliteLog",
    "TruncatableLog",
    "Weight",
    "check_log",
    "check_lost",
    "copy_log",
    "go_on_after",
    "let_go_of",
    "lost_tail",
    "newest_of",
    "owners_of",
    "published_of",
    "renew_identity",
]
