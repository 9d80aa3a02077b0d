"""When collections were searched last, by whichever worker of a server: what one of them is asked, the others will be too.

A client that connects anew, as each does that was idle for some seconds, may come to another worker than before. One that
had packed nothing would answer it slowly for seconds.
"""

from __future__ import annotations

import math
import mmap
import time
import zlib
from typing import Final

PLACES: Final = 1_024
"""Collections that share a place are taken for searched when one of them is, which costs memory and time, nothing else."""

SEARCH_TIMES_BYTES: Final = 8 * PLACES


class SearchTimes:
    """Moments, by the clock that all processes of a machine have in common, in the memory of one process or of several."""

    def __init__(self, descriptor: int | None = None) -> None:
        """`descriptor`: of a file of `SEARCH_TIMES_BYTES`, zeros to begin with; None: nobody else has this table."""
        room = bytearray(SEARCH_TIMES_BYTES) if descriptor is None else mmap.mmap(descriptor, SEARCH_TIMES_BYTES)
        self.moments = memoryview(room).cast("d")
        self.heeds_others = True
        """Whether this process makes itself ready for what others are asked. One that has much else to do need not."""

    def of(self, collection: str) -> SearchTime:
        return SearchTime(self, zlib.crc32(collection.encode()) % PLACES)


class SearchTime:
    """When one collection was searched last. Any thread may use it: a moment is read and written whole."""

    def __init__(self, times: SearchTimes, place: int) -> None:
        self._times = times
        self._place = place
        self._own = 0.0

    def note(self) -> None:
        """Note that it is searched now, in this process."""
        self._own = self._times.moments[self._place] = time.monotonic()

    def forget(self) -> None:
        """Take it for one that was never searched."""
        self._own = self._times.moments[self._place] = 0.0

    @property
    def latest(self) -> float:
        """The moment, of `time.monotonic`; -inf: it never was."""
        return (self._times.moments[self._place] if self._times.heeds_others else self._own) or -math.inf
