"""The log: the only truth of a data directory. `store.LogStore` says what each of them promises."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from chroma_async.wal.checks import OPERATION_WINDOW
from chroma_async.wal.memory import MemoryLog, MemoryLogState
from chroma_async.wal.sqlite import FILE as LOG_FILE
from chroma_async.wal.sqlite import LogCopy, SqliteLog, check_log, copy_log, let_go_of, renew_identity
from chroma_async.wal.store import CatalogRows, Durability, Entry, History, LogStore, NewEntry, Weight

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
    "Weight",
    "check_log",
    "copy_log",
    "let_go_of",
    "open_log",
    "renew_identity",
]


class OpenLog(Protocol):
    async def __call__(self, directory: Path, *, durability: Durability, create: bool) -> LogStore: ...


_LOGS: Final[Mapping[str, OpenLog]] = {"sqlite": SqliteLog.open, "memory": MemoryLog.open}


async def open_log(kind: str, directory: Path, *, durability: Durability = "commit", create: bool = True) -> LogStore:
    """Open the log of a directory by the name of its kind.

    Raises:
        ValueError: no log of that name, or a durability that it does not offer.
        FormatError: what is in the directory is no log that this version can open.
    """
    if kind not in _LOGS:
        raise ValueError(f"no log of that name: choose one of {', '.join(_LOGS)}. name={kind!r}")
    return await _LOGS[kind](directory, durability=durability, create=create)
