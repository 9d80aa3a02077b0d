"""Looks at a server at short intervals while others load it: how far indexing lags, and what its processes hold."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from load_tests.acceptance.family import role_of
from load_tests.api import Api, Progress
from load_tests.errors import LoadTestError
from load_tests.servers import Server

_INTERVAL_SECONDS = 0.25
_MEMORY_EVERY = 4
"""Looks for each one at memory, which costs the server some time."""


@dataclass(slots=True)
class Seen:
    """What was seen since it was last asked. Lags are ages of the oldest acknowledged write that no index has, seconds."""

    lags: list[float] = field(default_factory=list[float])
    unevictable_bytes: dict[int, int] = field(default_factory=dict[int, int])
    """The most of each process; empty where the system does not tell."""
    roles: dict[int, str] = field(default_factory=dict[int, str])
    """What each of these processes does, as far as it is known."""

    @property
    def unevictable_bytes_max(self) -> int | None:
        """The most that any process held."""
        return max(self.unevictable_bytes.values(), default=None)


class Watch:
    """A thread that looks until it is stopped."""

    def __init__(self, server: Server, api: Api, records_path: str) -> None:
        self._server, self._api, self._records_path = server, api, records_path
        self._totals: deque[tuple[float, int]] = deque()
        self._seen = Seen()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_until_over, name="watch", daemon=True)

    def take(self) -> Seen:
        """What was seen since the last call."""
        with self._lock:
            seen, self._seen = self._seen, Seen()
        return seen

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _look_until_over(self) -> None:
        looks = 0
        while not self._over.wait(_INTERVAL_SECONDS):
            lag = self._lag()
            memory, roles = self._memory() if looks % _MEMORY_EVERY == 0 else ({}, {})
            looks += 1
            with self._lock:
                if lag is not None:
                    self._seen.lags.append(lag)
                self._seen.roles |= roles
                for pid, size in memory.items():
                    self._seen.unevictable_bytes[pid] = max(size, self._seen.unevictable_bytes.get(pid, 0))

    def _lag(self) -> float | None:
        try:
            progress = self._api.progress(self._records_path)
        except LoadTestError:
            return None  # the lanes, which load the server, will say so
        return lag_seconds(self._totals, perf_counter(), progress) if progress else None

    def _memory(self) -> tuple[dict[int, int], dict[int, str]]:
        local = self._server.local
        if local is None:
            return {}, {}
        sizes = local.unevictable_bytes()
        return sizes, {pid: role for pid in sizes if (role := role_of(pid, local))}


def lag_seconds(totals: deque[tuple[float, int]], now: float, progress: Progress) -> float:
    """Age of the oldest write that was acknowledged and has no index yet, at least.

    `totals` remembers when how many writes there were, and is brought up to date: a write that is missing in the index
    was there when a total first counted it.
    """
    total = progress.indexed + progress.unindexed
    if not totals or total > totals[-1][1]:
        totals.append((now, total))
    while totals and totals[0][1] <= progress.indexed:
        totals.popleft()
    return now - totals[0][0] if totals else 0.0


@contextmanager
def watching(server: Server, api: Api, records_path: str) -> Generator[Watch, None, None]:
    """Watch a server as long as the context lasts."""
    watch = Watch(server, api, records_path)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()
