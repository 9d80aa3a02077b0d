"""How lately a collection was read, by which it is told whether work ahead of its next read is worth it."""

from __future__ import annotations

import math
from typing import Final

from chroma_async.engine.search_times import SearchTime
from chroma_async.seams import Clock

READ_SECONDS: Final = 10.0
"""A collection that was read so lately is expected to be read again soon: for that entries are folded, and where it was
searched, here or at another worker, rows packed."""

LEVEL_SECONDS: Final = 300.0
"""Of one that was read so lately a new base is kept open, beside writes; opening a large one anew takes a second."""


class ReadTimes:
    """Moments of a monotonic clock; -inf: never."""

    def __init__(self, searched: SearchTime, clock: Clock) -> None:
        """`searched`: when the collection was searched last, here or by whoever else has it, by the same clock."""
        self.searched = searched
        self._clock = clock
        self.viewed_at = -math.inf
        """Of a view of any kind."""
        self.read_at = -math.inf
        """Of one with a tail, for which entries are folded."""

    def note_view(self, *, search: bool) -> None:
        self.viewed_at = self._clock.monotonic()
        if search:
            self.searched.note()

    def note_read(self) -> None:
        self.read_at = self._clock.monotonic()

    def expect_no_read(self) -> None:
        self.read_at = -math.inf

    @property
    def is_viewed(self) -> bool:
        return self._is_recent(self.viewed_at)

    @property
    def is_read(self) -> bool:
        """Whether somebody will probably read soon. For nobody the tail is not folded, which takes time and memory."""
        return self._is_recent(self.read_at)

    @property
    def is_searched(self) -> bool:
        """Whether somebody will probably search soon, who searches here or at another worker now."""
        return self._is_recent(self.searched.heeded)

    @property
    def is_kept_level(self) -> bool:
        """Whether a base that is open follows newer ones, though nobody may have read for a while."""
        return self._clock.monotonic() - self.viewed_at < LEVEL_SECONDS

    @property
    def is_left(self) -> bool:
        """Whether nobody has read for so long, here or at another worker, that what is open may be closed."""
        return self._clock.monotonic() - max(self.viewed_at, self.searched.anywhere) >= LEVEL_SECONDS

    def _is_recent(self, moment: float) -> bool:
        return self._clock.monotonic() - moment < READ_SECONDS
