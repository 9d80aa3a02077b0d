"""When collections were searched last, by whichever worker of a server: what one of them is asked, the others will be too.

A client that connects anew, as each does that was idle for some seconds, may come to another worker than before. One that
had packed nothing would answer it slowly for seconds.
"""

from __future__ import annotations

import math
import mmap
import zlib
from typing import Final

from chroma_async.seams import Clock, SystemClock

PLACES: Final = 8_192
"""Collections that share a place are taken for searched when one of them is."""

SEARCH_TIMES_BYTES: Final = 8 * PLACES


class SearchTimes:
    """Moments, by the clock that all processes of a machine have in common, which some of them share."""

    def __init__(self, descriptor: int | None = None, clock: Clock | None = None) -> None:
        """`descriptor`: of a file of `SEARCH_TIMES_BYTES`, zeros to begin with; None: this process is alone."""
        self.clock = clock or SystemClock()
        self.moments = None if descriptor is None else memoryview(mmap.mmap(descriptor, SEARCH_TIMES_BYTES)).cast("d")
        self.heeds_others = True
        """Whether this process makes itself ready for what others are asked. One that has much else to do need not."""

    def of(self, collection: str) -> SearchTime:
        return SearchTime(self, zlib.crc32(collection.encode()) % PLACES)


class SearchTime:
    """When one collection was searched last. Any thread may use it: a moment is read and written whole.

    Moments are those of its monotonic clock; -inf: it never was.
    """

    def __init__(self, times: SearchTimes, place: int) -> None:
        self._times = times
        self._place = place
        self.here = -math.inf
        """In this process."""

    def note(self) -> None:
        """Note that it is searched now, in this process."""
        self.here = self._times.clock.monotonic()
        if self._times.moments is not None:
            self._times.moments[self._place] = self.here

    @property
    def anywhere(self) -> float:
        """In any process."""
        moments = self._times.moments
        return self.here if moments is None else moments[self._place] or -math.inf

    @property
    def heeded(self) -> float:
        """In any process whose searches this one makes itself ready for."""
        return self.anywhere if self._times.heeds_others else self.here
