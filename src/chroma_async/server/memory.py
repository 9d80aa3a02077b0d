"""What the C library keeps of the memory that it was given back.

glibc takes large blocks straight from the system, and gives them back at once. A query's scores are such a block: its pages
are new each time, and the system clears them, which takes longer than the search (16 queries of 20,000 rows: 0.47 ms, or
0.12 when the block is kept). So blocks are kept, and what is free is given back every few seconds, in the background.
Without that a worker would for ever occupy what it needed at the height of an ingest.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from typing import Any, Final

_SETTINGS: Final = (
    ("MALLOC_ARENA_MAX", -8, 2),
    ("MALLOC_MMAP_THRESHOLD_", -3, 32 * 2**20),
    ("MALLOC_TRIM_THRESHOLD_", -1, 64 * 2**20),
)
"""Variable in the environment, number of the parameter in glibc's malloc.h, value."""

TRIM_SECONDS: Final = 5.0
_BUSY_SECONDS: Final = 0.02
"""A process that used less of the processor since the last time has freed nothing worth mentioning."""


def keep_blocks() -> None:
    """Let glibc keep what is freed, here and in processes that begin from here, unless the environment says otherwise."""
    mallopt = _function("mallopt")
    for name, parameter, value in _SETTINGS:
        if name not in os.environ:
            os.environ[name] = str(value)  # for processes that are executed, not forked
            if mallopt is not None:
                mallopt(parameter, value)


def give_back(every_seconds: float = TRIM_SECONDS) -> None:
    """Give back what is free, now and then, for as long as this process lives."""
    trim = _function("malloc_trim")
    if trim is not None:
        threading.Thread(target=_give_back, args=(trim, every_seconds), name="memory", daemon=True).start()


def _give_back(trim: Any, every_seconds: float) -> None:
    used = 0.0
    while True:
        time.sleep(every_seconds)
        if time.process_time() - used > _BUSY_SECONDS:
            trim(0)
            used = time.process_time()


def _function(name: str) -> Any:
    """A function of the C library, None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None)
