"""The entries of one collection that wait to be applied."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from chroma_async.model import CollectionId, Lsn


class Backlog:
    """Entries of one collection that wait to be applied."""

    def __init__(
        self,
        collection_id: CollectionId,
        deleted: Callable[[CollectionId], None],
        offered: Callable[[Lsn, int], None] = lambda lsn, size_bytes: None,
    ) -> None:
        """`offered` is told of every entry, and how many bytes it has."""
        self._id = collection_id
        self._deleted = deleted
        self._offered = offered
        self.entries: deque[tuple[Lsn, bytes]] = deque()
        self.size_bytes = 0
        self._refused = False

    def refuse(self, reason: str) -> None:
        """Nothing behind a damaged entry is applied, so nothing of it is truncated either."""
        self._refused = True

    def offer(self, lsn: Lsn, payload: bytes) -> None:
        self._offered(lsn, len(payload))
        if self._refused:
            return
        self.entries.append((lsn, payload))
        self.size_bytes += len(payload)

    def miss(self, through: Lsn) -> None:
        """Somebody else has applied what is missing."""
        self.drop(through)

    def close(self) -> None:
        self.entries.clear()
        self.size_bytes = 0
        self._deleted(self._id)

    def waits_through(self, lsn: Lsn) -> bool:
        """Whether an entry up to this LSN waits."""
        return bool(self.entries) and self.entries[0][0] <= lsn

    def take(self, bytes_max: int) -> list[tuple[Lsn, bytes]]:
        """The oldest entries, at least one, of up to this many bytes; they stay until `drop`."""
        taken: list[tuple[Lsn, bytes]] = []
        size = 0
        for lsn, payload in self.entries:
            size += len(payload)
            if taken and size > bytes_max:
                break
            taken.append((lsn, payload))
        return taken

    def drop(self, through: Lsn) -> None:
        while self.entries and self.entries[0][0] <= through:
            _, payload = self.entries.popleft()
            self.size_bytes -= len(payload)
