"""Waiting for what takes real time: sockets, threads, processes. What asks a clock is told the time instead (`clock.py`)."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

SECONDS_MAX = 20.0


async def soon(work: Awaitable[T], seconds: float = SECONDS_MAX) -> T:
    """What comes of something that nothing is in the way of any more."""
    return await asyncio.wait_for(work, seconds)


async def eventually(
    condition: Callable[[], object], seconds: float = SECONDS_MAX, *, tell: Callable[[], object] = lambda: ""
) -> None:
    """Wait until a condition holds, which may be a coroutine's, and let tasks run meanwhile.

    Raises:
        AssertionError: it did not in time; `tell` says what there was instead.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if await found if inspect.isawaitable(found) else found:
            return
        assert time.monotonic() < deadline, f"not so after {seconds:g} s. {tell()}"
        await asyncio.sleep(0.005)


def wait_until(condition: Callable[[], T], seconds: float = SECONDS_MAX, *, tell: Callable[[], object] = lambda: "") -> T:
    """The same in a thread that may be blocked; return what the condition gave at last."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not so after {seconds:g} s. {tell()}"
        time.sleep(0.02)
    return found
