"""Which collections a process has open: the ones that were read last, so that handles and memory are bounded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final, Protocol

OPEN_MAX: Final = 64
"""Collections whose files stay open and mapped. One takes about eight handles: three for each connection, one for a file."""

STALE_TICKS: Final = 10
"""Seconds after which one that nobody reads lets go of files that were replaced: until then they take room on the disk."""


class Releasable(Protocol):
    def release(self) -> bool:
        """Let go of files and memory, which the next read opens again; False while somebody works with them."""
        ...

    def is_stale(self) -> bool:
        """Whether what is open was replaced."""
        ...


class OpenReaders:
    """The readers that have files open, least recently read first. Used by any thread."""

    def __init__(self, open_max: int = OPEN_MAX) -> None:
        self._open_max = open_max
        self._used: OrderedDict[Releasable, int] = OrderedDict()
        self._lock = threading.Lock()
        self._newest: Releasable | None = None
        self._ticks = 0

    @property
    def has_room(self) -> bool:
        """Whether one may be opened that nobody reads here: those that somebody reads are not closed for it."""
        return len(self._used) < self._open_max // 2

    def touch(self, reader: Releasable) -> None:
        """Note a read. It may close what was not read for longest."""
        if reader is self._newest:
            return
        with self._lock:
            self._newest = reader
            self._used[reader] = self._ticks
            self._used.move_to_end(reader)
            surplus = list(self._used)[: max(0, len(self._used) - self._open_max)]
            for idle in surplus:
                del self._used[idle]
        for idle in surplus:
            if not idle.release():
                self._put_back(idle)

    def _put_back(self, reader: Releasable) -> None:
        with self._lock:
            self._used.setdefault(reader, self._ticks)

    def forget(self, reader: Releasable) -> None:
        """Note that a reader is closed for good."""
        with self._lock:
            self._used.pop(reader, None)
            if self._newest is reader:
                self._newest = None

    def tick(self) -> list[Releasable]:
        """Note that a second has passed; return those that were not read for a while."""
        with self._lock:
            self._ticks += 1
            if self._newest is not None:
                self._used[self._newest], self._newest = self._ticks, None
            return [reader for reader, used in self._used.items() if self._ticks - used >= STALE_TICKS]

    def release_stale(self, idle: list[Releasable]) -> None:
        """Let those go whose files were replaced. For a worker thread."""
        for reader in idle:
            if reader.is_stale() and reader.release():
                self.forget(reader)

    def __len__(self) -> int:
        return len(self._used)
