"""What all writes take besides records, and all reads besides filters: checked, as fields of calls."""

from __future__ import annotations

from typing import Any, TypedDict

from chroma_async.client.checks import checked_level, checked_lsn, checked_stage, checked_wait_seconds
from chroma_async.client.headers import checked_key
from chroma_async.model import Lsn, Stage
from chroma_async.protocol.records import ReadLevel


class WriteOptions(TypedDict):
    wait: Stage | None
    wait_seconds: float | None
    idempotency_key: str | None


class ReadOptions(TypedDict):
    read_level: ReadLevel | None
    min_lsn: Lsn | None
    wait_seconds: float | None


def write_options(wait: Any, wait_seconds: Any, idempotency_key: Any) -> WriteOptions:
    """Return how far a write is waited for, for how long, and what tells it from others."""
    return WriteOptions(
        wait=checked_stage(wait),
        wait_seconds=checked_wait_seconds(wait_seconds),
        idempotency_key=checked_key(idempotency_key),
    )


def read_options(read_level: Any, min_lsn: Any, wait_seconds: Any) -> ReadOptions:
    """Return how new what a read sees must be, how far that must have come, and how long to wait for it."""
    return ReadOptions(
        read_level=None if read_level is None else checked_level(read_level),
        min_lsn=checked_lsn(min_lsn),
        wait_seconds=checked_wait_seconds(wait_seconds),
    )
