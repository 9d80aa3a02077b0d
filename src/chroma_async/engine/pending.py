"""The entries of one collection that may not be applied yet."""

from __future__ import annotations

from collections import deque

from chroma_async.model import Lsn

Entries = tuple[tuple[Lsn, bytes], ...]
"""Entries of a collection, oldest first."""


class PendingEntries:
    """Entries in LSN order. The event loop adds them, one thread at a time drops those that were applied, all may look."""

    def __init__(self) -> None:
        self._entries: deque[tuple[Lsn, bytes]] = deque()
        self._added_bytes = 0
        self._dropped_bytes = 0
        self._dropped = self._missed = Lsn(0)

    def add(self, lsn: Lsn, payload: bytes) -> None:
        """Add the newest entry."""
        self._entries.append((lsn, payload))
        self._added_bytes += len(payload)

    def miss(self, through: Lsn) -> None:
        """Note that some through this LSN were applied and never came; before any later one is added."""
        self._missed = max(self._missed, through)

    @property
    def complete_after(self) -> Lsn:
        """All entries beyond this LSN are here: only a base, or a tail, that has those through it may be read.

        Whoever folds entries takes them first, and then looks at this.
        """
        return max(self._dropped, self._missed)

    def drop_through(self, applied: Lsn) -> None:
        """Forget the entries that were applied."""
        self._dropped = max(self._dropped, applied)
        while self._entries and self._entries[0][0] <= applied:
            _, payload = self._entries.popleft()
            self._dropped_bytes += len(payload)

    @property
    def size_bytes(self) -> int:
        """Of all entries. Adding and dropping have a counter each: they are done by different threads."""
        return self._added_bytes - self._dropped_bytes

    def __len__(self) -> int:
        return len(self._entries)

    def now(self) -> Entries:
        """Those that are here now, oldest first."""
        return tuple(self._entries)

    @property
    def oldest(self) -> Lsn | None:
        """LSN of the oldest; None: there is none."""
        try:
            return self._entries[0][0]
        except IndexError:
            return None

    @property
    def newest(self) -> Lsn:
        """LSN of the newest; 0: there is none."""
        try:
            return self._entries[-1][0]
        except IndexError:
            return Lsn(0)

    def newest_through(self, lsn: Lsn) -> Lsn:
        """LSN of the newest up to this one; 0: there is none."""
        return next((found for found, _ in reversed(self.now()) if found <= lsn), Lsn(0))

    def bytes_after(self, lsn: Lsn) -> int:
        """Bytes of those beyond this LSN. The caller is the event loop, and keeps other threads from dropping any."""
        size = 0
        for found, payload in reversed(self._entries):
            if found <= lsn:
                break
            size += len(payload)
        return size
