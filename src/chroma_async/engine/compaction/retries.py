"""When to try again what has failed."""

from __future__ import annotations

from chroma_async.model import CollectionId
from chroma_async.seams import Clock


class Retries:
    """For each collection, after a pause, each time twice as long."""

    def __init__(self, clock: Clock, seconds_min: float, seconds_max: float) -> None:
        self._clock = clock
        self._seconds_min = seconds_min
        self._seconds_max = seconds_max
        self._again: dict[CollectionId, tuple[float, float]] = {}
        """When to try again, and after which pause that will be."""

    def later(self, collection_id: CollectionId) -> float:
        """Note that it has failed; return the seconds until it is due again."""
        _, before = self._again.get(collection_id, (0.0, self._seconds_min / 2))
        pause = min(2 * before, self._seconds_max)
        self._again[collection_id] = self._clock.monotonic() + pause, pause
        return pause

    def is_due(self, collection_id: CollectionId) -> bool:
        """Whether it may be tried: it has not failed lately."""
        again_at, _ = self._again.get(collection_id, (0.0, 0.0))
        return again_at <= self._clock.monotonic()

    def forget(self, collection_id: CollectionId) -> None:
        """Note that it has not failed, or that it is another thing now."""
        self._again.pop(collection_id, None)

    def __len__(self) -> int:
        """Collections that have failed and not been forgotten."""
        return len(self._again)
