"""Worker threads as an argument: the event loop never runs a search, a scan or a file write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

T = TypeVar("T")


class Workers(Protocol):
    """Runs blocking functions elsewhere."""

    async def run(self, function: Callable[[], T]) -> T:
        """Return what the function returns. A cancelled caller gives up the answer; the function runs to its end."""
        ...

    def close(self) -> None:
        """Wait for running functions, take no new ones."""
        ...


class ThreadWorkers:
    """A pool of threads."""

    def __init__(self, threads: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def close(self) -> None:
        self._pool.shutdown(wait=True)


class InlineWorkers:
    """The caller's own thread: for simulation, where everything happens in one order."""

    async def run(self, function: Callable[[], T]) -> T:
        return function()

    def close(self) -> None:
        return None
