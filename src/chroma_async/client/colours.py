"""What async and sync code do differently, in pairs: the sync twin of `async_x` is `x`, of `AsyncX` it is `X`.

`scripts/unasync.py` turns the one name into the other; everything else in `_async` is the same in both colours.
"""

from __future__ import annotations

import inspect
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary

import anyio
import anyio.lowlevel
import anyio.to_thread

from chroma_async.client.background import BackgroundLoop

__all__ = [
    "AsyncCaller",
    "AsyncConnectable",
    "AsyncLock",
    "Caller",
    "Connectable",
    "Lock",
    "async_sleep",
    "running_loop",
    "sleep",
]

async_sleep = anyio.sleep
sleep = time.sleep

T = TypeVar("T")


def running_loop() -> object:
    """The event loop that runs in this thread; connections can't be used in another one than their own."""
    token = anyio.lowlevel.current_token()
    return getattr(token, "native_token", token)


class AsyncLock:
    """A lock among the tasks of an event loop; those of another one don't wait for it."""

    def __init__(self) -> None:
        self._locks: WeakKeyDictionary[object, anyio.Lock] = WeakKeyDictionary()

    async def __aenter__(self) -> None:
        await self._locks.setdefault(running_loop(), anyio.Lock()).acquire()

    async def __aexit__(self, *_: object) -> None:
        self._locks[running_loop()].release()


Lock = threading.Lock


class AsyncCaller:
    """Runs functions of users, such as embedding functions: async ones are awaited, others run in a worker thread."""

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if is_async(function):
            return await function(*arguments)
        result = await anyio.to_thread.run_sync(function, *arguments)
        return await result if inspect.isawaitable(result) else result

    async def aclose(self) -> None:
        """Nothing is held."""


class Caller:
    """Runs functions of users; async ones in one background loop, so that what they keep between calls stays usable."""

    def __init__(self) -> None:
        self._background = BackgroundLoop()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if is_async(function):
            return self._background.call(function, *arguments)
        result = function(*arguments)
        return self._background.call(_finish, result) if inspect.isawaitable(result) else result

    def close(self) -> None:
        self._background.close()


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine, as far as can be told before the call."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


async def _finish(result: Awaitable[Any]) -> Any:
    return await result


class AsyncConnectable(ABC):
    """Connects when awaited, when entered, or at the first call that needs it."""

    def _begin(self) -> None:  # noqa: B027 - its twin connects here
        """Nothing can be awaited in a constructor."""

    @abstractmethod
    async def connect(self) -> None: ...

    @abstractmethod
    async def aclose(self) -> None: ...

    async def close(self) -> None:
        """Close; the same as `aclose`."""
        await self.aclose()

    def __await__(self) -> Generator[Any, Any, Self]:
        return self._connected().__await__()

    async def _connected(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise
        return self


class Connectable(ABC):
    """Connects when constructed, as Chroma's clients do."""

    def _begin(self) -> None:
        self._connected()

    @abstractmethod
    def connect(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    def _connected(self) -> Self:
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self


async def async_shielded(work: Awaitable[None]) -> None:
    """Do what must be done even when its caller is cancelled."""
    with anyio.CancelScope(shield=True):
        await work


def shielded(done: None) -> None:
    """Nothing cancels a thread: it is done."""
