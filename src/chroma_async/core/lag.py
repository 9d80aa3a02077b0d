"""How long applying is behind."""

from __future__ import annotations

from collections import deque
from typing import Final

from chroma_async.model import Lsn

_LOOKS_MAX: Final = 1024


class Lag:
    """How long applying is behind: the age of the oldest entry that is not applied, to within the time between two looks."""

    def __init__(self) -> None:
        self._looks: deque[tuple[Lsn, float]] = deque()
        self._step_seconds = 0.0
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """As of the newest look; 0: everything is applied."""
        return self._seconds

    def note(self, committed: Lsn, applied: Lsn, now: float) -> None:
        """Look at the watermarks, at a time of a monotonic clock, in seconds."""
        while self._looks and self._looks[0][0] <= applied:
            self._looks.popleft()
        if committed <= applied:
            self._step_seconds = self._seconds = 0.0
            return
        if not self._looks or (self._looks[-1][0] < committed and now - self._looks[-1][1] >= self._step_seconds):
            self._looks.append((committed, now))
        if len(self._looks) > _LOOKS_MAX:  # it has been long, and every second look is enough
            self._looks = deque(list(self._looks)[::2])
            self._step_seconds = 2 * (now - self._looks[0][1]) / _LOOKS_MAX
        self._seconds = now - self._looks[0][1]
