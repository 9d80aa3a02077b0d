"""What the kernel is told about the pages of mapped files: which are read in any order, and which are wanted soon.

By itself it reads what is around a page as well (128 KiB, or as much as the disk is set up for), for whoever reads on, and
lets a thread wait for each page in turn. Where memory has not room for all files, pages that nobody wants take the room of
others (docs/decisions/0032-scattered-vectors-are-asked-for.md). All of it is advice: nothing fails because it can't be
followed.
"""

from __future__ import annotations

import mmap
import resource
from contextlib import suppress
from typing import Final

_WHOSE: Final = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)


def read_in_any_order(mapped: mmap.mmap) -> None:
    """Say that a file is read in any order: nothing is read but the pages that are wanted."""
    _advise(mapped, mmap.MADV_RANDOM, 0, len(mapped))


def ask_for(mapped: mmap.mmap, first: int, beyond: int) -> None:
    """Begin to read the pages of these bytes, and wait for none of them."""
    start = first // mmap.PAGESIZE * mmap.PAGESIZE
    _advise(mapped, mmap.MADV_WILLNEED, start, beyond - start)


def waits() -> int:
    """For how many pages this thread has waited so far; where the system counts none for threads, the process."""
    return resource.getrusage(_WHOSE).ru_majflt


def _advise(mapped: mmap.mmap, advice: int, start: int, length: int) -> None:
    with suppress(OSError):
        mapped.madvise(advice, start, length)
