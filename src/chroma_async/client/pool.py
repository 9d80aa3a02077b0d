"""Connections to a server, in pairs as in `colours.py`: each event loop has its own, and threads share theirs.

An async request travels in a task of its own: httpcore loses a connection for good when a request is cancelled before it is
being sent, or while it tidies up. So who is cancelled leaves at once, and the request is ended in good order behind them.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast
from weakref import WeakKeyDictionary

import anyio
import httpx

from chroma_async.client.colours import running_loop

__all__ = ["AsyncPool", "AsyncPools", "Pool", "Pools"]

T = TypeVar("T")

CLOSED: Final = "this client is closed; open another one"


class AsyncPool:
    """The connections of one event loop."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._errands: set[_Errand[Any]] = set()
        self.build_request = client.build_request

    async def send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        """Send a request. An answer that is a stream is closed by `let_go`."""

        async def sending() -> httpx.Response:
            response = await self._client.send(request, stream=stream)
            if stream and errand.is_left:
                await response.aclose()
            return response

        errand = _Errand(sending, self._errands)
        request.extensions["trace"] = errand.follow
        try:
            return await errand.result()
        except BaseException:
            if stream and errand.value is not None:  # it came in the same turn of the loop in which its caller left
                _Errand(errand.value.aclose, self._errands).is_left = True
            raise

    async def let_go(self, response: httpx.Response) -> None:
        """Close an answer, whether or not it was read to its end."""
        await _Errand(response.aclose, self._errands).result()

    async def aclose(self) -> None:
        left = [errand for errand in self._errands if errand.is_left]
        for errand in left:
            errand.cancel()
        await self._client.aclose()
        for errand in left:
            await errand.ended.wait()


class _Errand(Generic[T]):
    """Work in a task of its own. Its caller may be cancelled at any time, a request only once it is being sent."""

    def __init__(self, work: Callable[[], Awaitable[T]], under_way: set[_Errand[Any]]) -> None:
        self._under_way = under_way
        self._scope = anyio.CancelScope()
        self._error: BaseException | None = None
        self._is_sending = False
        self.is_left = False
        self.value: T | None = None
        self.ended = anyio.Event()
        self.cancel = self._scope.cancel
        under_way.add(self)
        _start(partial(self._run, work))

    async def result(self) -> T:
        try:
            await self.ended.wait()
        except BaseException:
            self.is_left = True
            if self._is_sending:
                self.cancel()
            raise
        error, self._error = self._error, None
        if error is not None:
            raise error
        value, self.value = self.value, None  # the answer knows its request, and that one us
        return cast("T", value)

    async def follow(self, event: str, _: object) -> None:
        """Told by httpcore how far the request is."""
        if event.endswith("send_request_headers.started"):
            self._is_sending = True
            if self.is_left:
                self.cancel()

    async def _run(self, work: Callable[[], Awaitable[T]]) -> None:
        try:
            with self._scope:
                self.value = await work()
        except BaseException as error:
            self._error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._under_way.discard(self)
            self.ended.set()


def _start(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Begin a task that belongs to no other."""
    loop = running_loop()
    if isinstance(loop, asyncio.AbstractEventLoop):
        task = loop.create_task(run(), name="chroma-async-request")
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
    else:
        importlib.import_module("trio").lowlevel.spawn_system_task(run)


_tasks: Final[set[asyncio.Task[None]]] = set()
"""The event loop alone would forget them."""


class AsyncPools:
    """The connections of a client: a pool for each event loop. A forked child begins anew, and leaves its parent's alone."""

    def __init__(self, make: Callable[[], httpx.AsyncClient]) -> None:
        self._make = make
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._pools: WeakKeyDictionary[object, AsyncPool] = WeakKeyDictionary()

    async def own(self) -> AsyncPool:
        """Return the pool of the running event loop.

        Raises:
            RuntimeError: the client is closed.
        """
        if self._closed:
            raise RuntimeError(CLOSED)
        if self._process != os.getpid():
            self._begin()
        loop = running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            pool = AsyncPool(self._make())
            with self._lock:
                for ended in [known for known in self._pools if _is_closed(known)]:
                    del self._pools[ended]  # its pool would keep it
                self._pools[loop] = pool
        return pool

    async def aclose(self) -> None:
        """Close the pool of the running loop; only its own loop can close one, so others are left to their ends."""
        self._closed = True
        if self._process != os.getpid():
            return
        with self._lock:
            pool = self._pools.pop(running_loop(), None)
            self._pools.clear()
        if pool is not None:
            await pool.aclose()


def _is_closed(loop: object) -> bool:
    return isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed()


class Pool:
    """The connections that threads share."""

    def __init__(self, client: httpx.Client) -> None:
        self.build_request = client.build_request
        self.send = client.send
        self.close = client.close

    def let_go(self, response: httpx.Response) -> None:
        response.close()


class Pools:
    """The same with one pool for all threads."""

    def __init__(self, make: Callable[[], httpx.Client]) -> None:
        self._make = make
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._pool: Pool | None = None

    def own(self) -> Pool:
        if self._closed:
            raise RuntimeError(CLOSED)
        if self._process != os.getpid():
            self._begin()
        with self._lock:
            if self._pool is None:
                self._pool = Pool(self._make())
            return self._pool

    def close(self) -> None:
        self._closed = True
        if self._process != os.getpid():
            return
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
