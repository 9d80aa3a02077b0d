"""What the C library keeps of the memory that it was given back.

glibc takes large blocks straight from the system, and gives them back at once. A query's scores are such a block: its pages
are new each time, and the system clears them, which takes longer than the search (16 queries of 20,000 rows: 0.47 ms, or
0.12 when the block is kept). So all but the largest blocks are kept, and what has become free is given back in the
background. Without that a worker would for ever occupy what it needed at the height of an ingest.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

_SETTINGS: Final = (
    ("MALLOC_ARENA_MAX", -8, 2),
    ("MALLOC_MMAP_THRESHOLD_", -3, 4 * 2**20),
    ("MALLOC_TRIM_THRESHOLD_", -1, 64 * 2**20),
)
"""Variable in the environment, number of the parameter in glibc's malloc.h, value."""

LOOK_SECONDS: Final = 1.0
WORTH_BYTES: Final = 8 * 2**20
"""Freed since the last time: less is not worth that whoever needs memory at that moment waits."""


class _Usage(ctypes.Structure):
    """`struct mallinfo2` of glibc's malloc.h."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def keep_blocks() -> None:
    """Let glibc keep what is freed, here and in processes that begin from here, unless the environment says otherwise."""
    mallopt = _function("mallopt")
    for name, parameter, value in _SETTINGS:
        if name not in os.environ:
            os.environ[name] = str(value)  # for processes that are executed, not forked
            if mallopt is not None:
                mallopt(parameter, value)


def give_back(look_seconds: float = LOOK_SECONDS) -> None:
    """Give back what is free, as soon as that is enough, for as long as this process lives. Needs glibc 2.33."""
    trim, usage = _function("malloc_trim"), _function("mallinfo2")
    if trim is not None and usage is not None:
        usage.restype = _Usage
        threading.Thread(target=_give_back, args=(trim, usage, look_seconds), name="memory", daemon=True).start()


def _give_back(trim: Callable[[int], int], usage: Callable[[], _Usage], look_seconds: float) -> None:
    """What was given back still counts as free, until somebody uses it again; so what is looked at is the growth."""
    least = 0
    while True:
        time.sleep(look_seconds)
        free = usage().fordblks
        least = min(least, free)
        if free - least > WORTH_BYTES:
            trim(0)
            least = free


def _function(name: str) -> Any:
    """A function of the C library, None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None)
