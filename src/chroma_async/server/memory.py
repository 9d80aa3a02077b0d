"""What the C library keeps for itself of the memory that was given back to it."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_LIMITS: Final = (
    ("MALLOC_ARENA_MAX", -8, 2),
    ("MALLOC_MMAP_THRESHOLD_", -3, 2**20),
)
"""Variable in the environment, number of the parameter in glibc's malloc.h, value.

What a worker holds while data waits to be applied is given back to the system only if the C library does not keep such
blocks for itself: glibc would, twice to three times as much memory as is in use.
"""


def limit_memory() -> None:
    """Limit what glibc keeps, in this process and in those that begin from it, unless the environment says otherwise."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for name, parameter, value in _LIMITS:
        if name not in os.environ:
            os.environ[name] = str(value)  # for processes that are executed, not forked
            if mallopt is not None:
                mallopt(parameter, value)
