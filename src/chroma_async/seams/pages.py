"""What the kernel is told about the pages of mapped files: how they are read, and which are wanted soon.

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

ASKED_BYTES: Final = 64 * 2**10
"""What is asked for at a time. Linux cuts a longer wish to what the disk reads at once, without a word."""

_WHOSE: Final = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)


def read_from_anywhere(mapped: mmap.mmap) -> None:
    """Say that pages of a file will be wanted from anywhere: nothing else is read."""
    _advise(mapped, mmap.MADV_RANDOM, 0, len(mapped))


def read_in_order(mapped: mmap.mmap) -> None:
    """Say that pages of a file will be wanted in their order: what is around them is read, too."""
    _advise(mapped, mmap.MADV_NORMAL, 0, len(mapped))


def ask_for(mapped: mmap.mmap, first: int, beyond: int) -> None:
    """Begin to read the pages of these bytes, as far as they are there, and wait for none of them."""
    beyond = min(beyond, len(mapped))
    for start in range(first // mmap.PAGESIZE * mmap.PAGESIZE, beyond, ASKED_BYTES):
        _advise(mapped, mmap.MADV_WILLNEED, start, min(ASKED_BYTES, beyond - start))


def waits() -> int:
    """For how many pages this thread has waited so far; where the system counts none for threads, the process."""
    return resource.getrusage(_WHOSE).ru_majflt


def _advise(mapped: mmap.mmap, advice: int, start: int, length: int) -> None:
    with suppress(OSError):
        mapped.madvise(advice, start, length)
