"""Work beside its caller, in pairs as in `colours.py`: tasks of the caller's event loop, or threads."""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Generic, Protocol, Self, TypeVar, cast

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.abc import TaskGroup

from chroma_async.client.background import BackgroundLoop, before_threads_are_joined

__all__ = [
    "AsyncFeed",
    "AsyncLanes",
    "AsyncOutcome",
    "AsyncQuickLock",
    "AsyncSignal",
    "AsyncWaker",
    "Feed",
    "Lanes",
    "Outcome",
    "QuickLock",
    "Signal",
    "Waker",
]

T = TypeVar("T")

AHEAD_BYTES: Final = 2**20
"""How much a feed takes from its source before it is asked for, about."""


GATHER_SECONDS: Final = 0.002
"""How long a feed lets items gather when there are some again: going from thread to thread for each would cost more."""


class Sized(Protocol):
    @property
    def size_bytes(self) -> int: ...


class AsyncOutcome(Generic[T]):
    """What comes of work that was begun; a `concurrent.futures.Future` is the same for threads."""

    def __init__(self) -> None:
        self._done = anyio.Event()
        self._value: T | None = None
        self._error: Exception | None = None

    async def result(self) -> T:
        """Wait for the work; return its result, or raise its error."""
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

    async def fill(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Do the work. A cancelled one has no outcome; who waits for it is cancelled too."""
        try:
            self._value = await function(*arguments)
        except Exception as error:
            self._error = error
        self._done.set()


Outcome = Future


AsyncQuickLock = functools.partial(anyio.Lock, fast_acquire=True)
"""A lock that gives the event loop no turn when it is free: that would cost a hundred times as much as taking it."""

QuickLock = threading.Lock


class AsyncLanes:
    """Runs work beside its caller: at most `width` pieces at once, begun in the order in which they came.

    Left without an error, it waits for what was begun and what waits; with one, it cancels them.
    """

    def __init__(self, width: int) -> None:
        self._free = width
        self._waiting = deque[tuple[AsyncOutcome[Any], Callable[..., Any], tuple[Any, ...]]]()
        self._group: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._group is not None
        if error is not None:
            self._waiting.clear()
            self._group.cancel_scope.cancel()
        await self._group.__aexit__(None, None, None)

    def start(self, function: Callable[..., Any], *arguments: Any) -> AsyncOutcome[Any]:
        """Begin an async function as soon as there is a free lane."""
        outcome = AsyncOutcome[Any]()
        self._waiting.append((outcome, function, arguments))
        if self._free:
            assert self._group is not None
            self._free -= 1
            self._group.start_soon(self._run)
        return outcome

    async def _run(self) -> None:
        while self._waiting:
            outcome, function, arguments = self._waiting.popleft()
            await outcome.fill(function, arguments)
        self._free += 1


class Lanes:
    """The same with threads. Left with an error, it waits for what was begun, and forgets what waits."""

    def __init__(self, width: int) -> None:
        self._pool = ThreadPoolExecutor(width, thread_name_prefix="chroma-async-lane")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=error is not None)

    def start(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Begin a function as soon as there is a free lane."""
        return self._pool.submit(function, *arguments)


class AsyncSignal:
    """Is set or not, and can be waited for."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def is_set(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        self._event.set()

    def clear(self) -> None:
        if self._event.is_set():
            self._event = anyio.Event()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, `timeout` seconds at most; return whether it is."""
        with anyio.move_on_after(timeout):
            await self._event.wait()
        return self._event.is_set()


Signal = threading.Event


class AsyncWaker(AsyncSignal):
    """One that the end of the interpreter sets, in the version for threads."""

    is_over = False


class Waker(threading.Event):
    """The same, set before threads are joined at the end of the interpreter: else who waits for it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        _wakers.add(self)

    @property
    def is_over(self) -> bool:
        return _ending.is_set()


_wakers: Final[weakref.WeakSet[Waker]] = weakref.WeakSet()
_ending: Final = threading.Event()


def _wake_all() -> None:
    _ending.set()
    for waker in list(_wakers):
        waker.set()


before_threads_are_joined(_wake_all)


class AsyncFeed:
    """The items of an iterable, in lists of all that there are: `async for items in feed`, in a context.

    What is not async is read by one thread of its own from beginning to end, so that it may block, and a little ahead. An
    item is handed over when it is there, whatever the one after it takes.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._ahead = _Ahead()
        self._news = AsyncSignal()
        self._lanes = AsyncLanes(1)
        self._iterator: Any = None

    async def __aenter__(self) -> Self:
        await self._lanes.__aenter__()
        if hasattr(self._source, "__aiter__"):
            self._iterator = aiter(self._source)
        else:
            self._lanes.start(self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ahead.stop()
        await self._lanes.__aexit__(kind, error, traceback)
        if inspect.isasyncgen(self._iterator):
            await self._iterator.aclose()

    async def _read(self) -> None:
        read = functools.partial(self._ahead.fill, self._source, self._tell)
        own = anyio.CapacityLimiter(1)  # it may take hours: none of the threads that all share
        await anyio.to_thread.run_sync(read, abandon_on_cancel=True, limiter=own)

    def _tell(self) -> None:
        anyio.from_thread.run_sync(self._news.set)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Any]:
        if self._iterator is not None:
            return [await anext(self._iterator)]
        while True:
            ended = self._ahead.ended  # asked first: what came before the end is taken after it
            items = self._ahead.take()
            if items:
                return items
            if ended:
                self._ahead.raise_error()
                raise StopAsyncIteration
            await self._news.wait()
            await anyio.sleep(GATHER_SECONDS)
            self._news.clear()


class Feed:
    """The same in the caller's thread, one item at a time."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._iterator: Iterator[Any] = iter(())

    def __enter__(self) -> Self:
        self._iterator = _of_async(self._source) if hasattr(self._source, "__aiter__") else iter(self._source)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[Any]:
        return [next(self._iterator)]


def _of_async(source: Any) -> Iterator[Any]:
    """The items of an async iterable, which is run in an event loop of its own."""
    loop = BackgroundLoop()
    iterator = aiter(source)

    async def following() -> list[Any]:
        try:
            return [await anext(iterator)]
        except StopAsyncIteration:
            return []

    try:
        while items := loop.call(following):
            yield items[0]
    finally:
        loop.close()


class _Ahead:
    """Items between the thread that reads them and the loop that wants them."""

    def __init__(self) -> None:
        self._room = threading.Condition()
        self._items: list[Sized] = []
        self._bytes = 0
        self._error: Exception | None = None
        self._stopped = False
        self.ended = False

    def fill(self, source: Iterable[Sized], tell: Callable[[], None]) -> None:
        """Read the source to its end, or until told to stop; in a thread."""
        try:
            for item in source:
                with self._room:
                    self._room.wait_for(lambda: self._stopped or self._bytes < AHEAD_BYTES)
                    if self._stopped:
                        return
                    self._items.append(item)
                    self._bytes += item.size_bytes
                    is_first = len(self._items) == 1
                if is_first:
                    tell()
        except Exception as error:
            self._error = error
        finally:
            self.ended = True
            if not self._stopped:
                tell()

    def take(self) -> list[Sized]:
        with self._room:
            items, self._items, self._bytes = self._items, [], 0
            self._room.notify()
        return items

    def stop(self) -> None:
        with self._room:
            self._stopped = True
            self._room.notify()

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error
