"""Worker threads as an argument: what takes long, or waits, is not for the event loop."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from queue import SimpleQueue
from typing import Any, Final, Generic, Protocol, TypeVar

T = TypeVar("T")


class Share(Protocol):
    """Runs pieces of work that do not touch each other; see `Workers.share`."""

    def __call__(self, pieces: Sequence[Callable[[], T]]) -> list[T]: ...


class Workers(Protocol):
    """Runs blocking functions elsewhere."""

    async def run(self, function: Callable[[], T]) -> T:
        """Return what the function returns.

        A cancelled caller gives up the answer. A function that waits for a thread by then is not begun; one that has begun
        runs to its end, unless it asks `require_wanted`.
        """
        ...

    def share(self, pieces: Sequence[Callable[[], T]]) -> list[T]:
        """Return what each piece returns. The calling thread runs them, one after another, with help where there is any."""
        ...

    def close(self) -> None:
        """Wait for running functions, take no new ones."""
        ...


class NobodyWaits(Exception):
    """Work was given up, since whoever asked for it has gone."""


class _Asked(threading.local):
    is_wanted: Callable[[], bool] | None = None


_asked: Final = _Asked()


@contextmanager
def while_wanted(is_wanted: Callable[[], bool]) -> Generator[None]:
    """What this thread does inside may be given up as soon as this says no, which it may be asked at any time."""
    before, _asked.is_wanted = _asked.is_wanted, is_wanted
    try:
        yield
    finally:
        _asked.is_wanted = before


def require_wanted() -> None:
    """Go on only while somebody waits for what this thread does.

    Raises:
        NobodyWaits: nobody does.
    """
    if _asked.is_wanted is not None and not _asked.is_wanted():
        raise NobodyWaits


def give_way(niceness: int) -> None:
    """Lower the priority of the calling thread, and of those that it will begin, by so many steps; on Linux only."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + niceness)


class ThreadWorkers:
    """Threads that take functions from one queue.

    An executor's futures cost a lock, a condition and a chain of callbacks for each function; a search is over in the time
    of ten of them. A function's outcome goes straight to the loop that waits for it.
    """

    def __init__(self, threads: int, name: str, *, niceness: int = 0) -> None:
        """Begin the threads. `niceness`: how much lower their priority is than the process's, on Linux."""
        self._niceness = niceness
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
            give_way(self._niceness)
        while (job := self._jobs.get()) is not None:
            job()
            del job  # what it refers to must not live until the next one comes

    def share(self, pieces: Sequence[Callable[[], T]]) -> list[T]:
        """Share the pieces with as many of these threads as there are processors for. One that is busy is not waited for."""
        helpers = min(len(pieces), len(self._threads) + 1, _processors()) - 1
        shared = _SharedPieces(pieces)
        for _ in range(helpers):
            self._jobs.put(shared.help())
        return shared.finish()

    def close(self) -> None:
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()


class _SharedPieces(Generic[T]):
    """Pieces of work for several threads, each of which takes the next one that nobody has taken."""

    def __init__(self, pieces: Sequence[Callable[[], T]]) -> None:
        self._pieces = pieces
        self._untaken = deque(range(len(pieces)))
        self._outcomes: dict[int, T] = {}
        self._error: BaseException | None = None
        self._helping: list[threading.Lock] = []

    def help(self) -> Callable[[], None]:
        """What another thread may run, now or later; it does nothing when all pieces are taken."""
        helping = threading.Lock()
        self._helping.append(helping)

        def run() -> None:
            with helping:
                try:
                    self._run()
                except BaseException as error:
                    self._error = error

        return run

    def finish(self) -> list[T]:
        """Run what is left, wait for the pieces that others have begun, and return all outcomes in order.

        After an error of one piece no other is begun.
        """
        try:
            self._run()
        finally:
            for helping in self._helping:
                with helping:  # until whoever has it is done
                    pass
            outcomes, error = self._outcomes, self._error
            self._pieces, self._outcomes, self._error = (), {}, None  # who comes later must not keep them alive
        if error is not None:
            try:
                raise error
            finally:
                del error, outcomes  # they and this frame would keep each other alive
        return [outcomes[number] for number in range(len(outcomes))]

    def _run(self) -> None:
        try:
            while (number := self._take()) is not None:
                self._outcomes[number] = self._pieces[number]()
        finally:
            self._untaken.clear()

    def _take(self) -> int | None:
        try:
            return self._untaken.popleft()
        except IndexError:
            return None


def run_in_turn(pieces: Sequence[Callable[[], T]]) -> list[T]:
    """Run them in this thread alone."""
    return [piece() for piece in pieces]


@cache
def _processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _run_for(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], function: Callable[[], T]) -> None:
    """Run a function in this thread and hand its outcome to the loop; nobody wants it when the loop has ended."""
    if future.cancelled():
        return
    try:
        with while_wanted(lambda: not future.cancelled()):
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

    def share(self, pieces: Sequence[Callable[[], T]]) -> list[T]:
        return run_in_turn(pieces)

    def close(self) -> None:
        return None
