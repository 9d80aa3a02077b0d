"""How much of the log is kept for feeds of changes, beyond what has to be applied yet.

The window is one LSN for the whole log: what is above it stays. So a feed of a quiet collection and one of a busy database
reach equally far back, and nothing has to be counted collection by collection.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from msgspec import Struct

from chroma_async.model import Lsn

LAG_SECONDS: Final = 2.0
LAG_BYTES_MAX: Final = 64 * 2**20
"""Entries as young as that stay, up to so many bytes, where any are kept at all: whoever reads along should not be overtaken
by a compactor that is quick."""

BUCKETS: Final = 64
BUCKET_BYTES_MAX: Final = 2**20
BUCKET_SECONDS_MAX: Final = 60.0
BUCKET_SECONDS_MIN: Final = 0.25


class Retention(Struct, frozen=True):
    """What is kept: the newest `bytes_max` bytes of payloads, of them what is no older than `seconds`; None: no limit."""

    bytes_max: int | None
    seconds: float | None

    @property
    def is_off(self) -> bool:
        return self.bytes_max == 0 or self.seconds == 0

    @property
    def bucket_bytes(self) -> int:
        return BUCKET_BYTES_MAX if self.bytes_max is None else min(BUCKET_BYTES_MAX, self.bytes_max // BUCKETS)

    @property
    def bucket_ns(self) -> int:
        seconds = BUCKET_SECONDS_MAX if self.seconds is None else self.seconds / BUCKETS
        return int(1e9 * min(BUCKET_SECONDS_MAX, max(BUCKET_SECONDS_MIN, seconds)))


class _Bucket(Struct):
    """Neighbouring entries: through which LSN, when the first and the last were seen, and what they weigh."""

    through: Lsn
    begun_ns: int
    ended_ns: int
    size_bytes: int


class Ledger:
    """What the newest entries weigh, and so where the window of a retention begins. Its size does not grow with the log."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._buckets: deque[_Bucket] = deque()
        self._size_bytes = 0
        self._through = Lsn(0)
        self._begins_after = Lsn(0)

    @property
    def keeps_nothing(self) -> bool:
        return self._retention.is_off

    @property
    def begins_after(self) -> Lsn:
        """The LSN above which everything is kept, as of the last look."""
        return self._through if self._retention.is_off else self._begins_after

    def add(self, through: Lsn, time_ns: int, size_bytes: int) -> None:
        """Take down an entry, or some neighbouring ones; those that are known already are passed over."""
        if through <= self._through:
            return
        self._through = through
        self._size_bytes += size_bytes
        last = self._buckets[-1] if self._buckets else None
        if (
            last is not None
            and last.size_bytes + size_bytes <= self._retention.bucket_bytes
            and abs(time_ns - last.begun_ns) <= self._retention.bucket_ns
        ):
            last.through, last.ended_ns, last.size_bytes = through, time_ns, last.size_bytes + size_bytes
        else:
            self._buckets.append(_Bucket(through, time_ns, time_ns, size_bytes))

    def look(self, now_ns: int) -> Lsn:
        """Move the window on; return the LSN above which everything is kept."""
        while self._buckets and not self._is_kept(self._buckets[0], now_ns):
            bucket = self._buckets.popleft()
            self._size_bytes -= bucket.size_bytes
            self._begins_after = bucket.through
        return self.begins_after

    def _is_kept(self, bucket: _Bucket, now_ns: int) -> bool:
        if self._retention.is_off:
            return False
        age_seconds = (now_ns - bucket.ended_ns) / 1e9
        if age_seconds <= LAG_SECONDS and self._size_bytes <= LAG_BYTES_MAX:
            return True
        bytes_max, seconds = self._retention.bytes_max, self._retention.seconds
        return (bytes_max is None or self._size_bytes <= bytes_max) and (seconds is None or age_seconds <= seconds)

    def clear(self) -> Lsn:
        """Keep nothing of what there is."""
        self._buckets.clear()
        self._size_bytes = 0
        self._begins_after = self._through
        return self.begins_after
