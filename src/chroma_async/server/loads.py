"""What each worker has to do, in memory that all of them share: so a connection can be left to who has less.

A file without a name, of one number for each worker, which every worker maps. A number is written and read whole: what the
worker has to do, and how often it has said so.
"""

from __future__ import annotations

import mmap
import os
import sys
from contextlib import AbstractContextManager
from typing import Final, NamedTuple

from chroma_async.server.shared_file import shared_file

ABSENT: Final = 0
"""Of a worker that takes no connections. What others have is written one higher."""

_NUMBER_BYTES: Final = 4
_TIMES: Final = 1 << 16
"""A number is so many times how often it was written, plus what was written: this is one more than either can be."""


class Said(NamedTuple):
    """What the worker at a place has to do, and how often (going round) it has said something. While an equal one is read
    it has said nothing else: it has taken no connection, nor lost one."""

    load: int
    times: int
    place: int


def loads_file(workers: int) -> AbstractContextManager[int]:
    """The descriptor of a file for so many workers, none of which is there yet."""
    return shared_file("loads", workers * _NUMBER_BYTES)


def forget_load(descriptor: int, place: int) -> None:
    """Note that the worker of a place is gone: it could not say so itself."""
    offset = place * _NUMBER_BYTES
    number = int.from_bytes(os.pread(descriptor, _NUMBER_BYTES, offset), sys.byteorder)
    os.pwrite(descriptor, _absent(number).to_bytes(_NUMBER_BYTES, sys.byteorder), offset)


def _absent(number: int) -> int:
    """The number of a worker that takes no connections. How often it was written stays: its replacement goes on."""
    return number // _TIMES * _TIMES + ABSENT


class Loads:
    """The numbers, as the worker at place `own` sees them."""

    def __init__(self, descriptor: int, workers: int, own: int) -> None:
        self._numbers = memoryview(mmap.mmap(descriptor, workers * _NUMBER_BYTES)).cast("I")
        self._own = own

    def show(self, load: int) -> None:
        """Say how much this worker has to do."""
        times = (self._numbers[self._own] // _TIMES + 1) % _TIMES
        self._numbers[self._own] = times * _TIMES + min(load + 1, _TIMES - 1)

    def leave(self) -> None:
        """Say that this worker takes no more connections."""
        self._numbers[self._own] = _absent(self._numbers[self._own])

    def least(self) -> Said | None:
        """Return what the one of the others has said that has least to do; None: no other takes connections."""
        others = ((place, number) for place, number in enumerate(self._numbers) if place != self._own)
        present = (
            Said(number % _TIMES - 1, number // _TIMES, place) for place, number in others if number % _TIMES != ABSENT
        )
        return min(present, default=None)
