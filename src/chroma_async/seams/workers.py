"""Worker threads as an argument: the event loop never runs a search, a scan or a file write."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

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
    """Threads that take functions from one queue.

    An executor's futures cost a lock, a condition and a chain of callbacks for each function; a search is over in the time
    of ten of them. A function's outcome goes straight to the loop that waits for it.
    """

    def __init__(self, threads: int, name: str, *, niceness: int = 0) -> None:
        """Begin the threads. `niceness`: how much lower their priority is than the process's, on Linux."""
        self._niceness = niceness if sys.platform == "linux" else 0
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]
        self._closed = False
        for thread in self._threads:
            thread.start()

    async def run(self, function: Callable[[], T]) -> T:
        if self._closed:
            raise RuntimeError("the worker threads have ended")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put(partial(_run_for, loop, future, function))
        return await future

    def _work(self) -> None:
        if self._niceness:
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + self._niceness)
        while (job := self._jobs.get()) is not None:
            job()
            del job  # what it refers to must not live until the next one comes

    def close(self) -> None:
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()


def _run_for(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], function: Callable[[], T]) -> None:
    """Run a function in this thread and hand its outcome to the loop; nobody wants it when the loop has ended."""
    try:
        outcome, error = function(), None
    except BaseException as raised:
        outcome, error = None, raised
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_settle, future, outcome, error)


def _settle(future: asyncio.Future[Any], outcome: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(outcome)
    else:
        future.set_exception(error)


class InlineWorkers:
    """The caller's own thread: for simulation, where everything happens in one order."""

    async def run(self, function: Callable[[], T]) -> T:
        return function()

    def close(self) -> None:
        return None
