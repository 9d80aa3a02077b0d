"""A trail of accepted writes that outlives the log: one JSON object a line, in a file that other tools may rotate."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import Any

import orjson

from chroma_async.protocol import Call
from chroma_async.server.auth.identity import Identity
from chroma_async.server.auth.rules import RULES

FIELDS = ("tenant", "database", "collection_id", "name", "new_name")


class AuditTrail:
    """Appends to a file. Workers share it: each line is written at once, to the end of whatever is there."""

    def __init__(self, path: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._handler = WatchedFileHandler(path, encoding="utf-8")
        self._now = now

    def note(self, identity: Identity, call: Call[Any], result: Any) -> None:
        """Take down an accepted write."""
        line: dict[str, Any] = {
            "time": self._now().isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "identity": identity.name,
            "provider": identity.provider,
            "action": RULES[type(call)].action,
            "call": type(call).__name__,
        }
        for name in FIELDS:
            value = getattr(call, name, None)
            if value is not None:
                line[name] = value
        ids = getattr(call, "ids", None)
        if ids is not None:
            line["ids"] = len(ids)
        for name in ("deleted", "lsn"):
            value = getattr(result, name, None)
            if value is not None:
                line[name] = value
        record = logging.LogRecord("chroma_async.audit", logging.INFO, "", 0, orjson.dumps(line).decode(), None, None)
        self._handler.emit(record)


def check_audit_file(path: str) -> None:
    """Make sure that a file can be appended to, making it if it is not there, for its owner and group alone.

    Raises:
        OSError: it can't be.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640))
