"""Connections to a server, in pairs as in `colours.py`: each event loop has its own, and threads share theirs.

An async request travels in a task of its own: httpcore loses a connection for good when a request is cancelled before it is
being sent, or while it tidies up. So who is cancelled leaves at once, and the request is ended in good order behind them.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, Self, TypeVar, cast
from weakref import WeakKeyDictionary

import anyio
import httpx

from chroma_async.client.colours import running_loop

__all__ = ["AsyncPool", "AsyncPools", "Pool", "Pools"]

T = TypeVar("T")

CLOSED: Final = "this client is closed; open another one"

CONNECTING: Final = frozenset({"connection.connect_tcp.started", "connection.connect_unix_socket.started"})
"""What httpcore tells when it begins a connection. What is raised then ends it in good order."""


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
        errand.start()
        try:
            return await errand.result()
        except BaseException:
            if stream and errand.value is not None:  # it came in the same turn of the loop in which its caller left
                _Errand(errand.value.aclose, self._errands).start().is_left = True
            raise

    async def let_go(self, response: httpx.Response) -> None:
        """Close an answer, whether or not it was read to its end."""
        await _Errand(response.aclose, self._errands).start().result()

    async def aclose(self) -> None:
        left = [errand for errand in self._errands if errand.is_left]
        for errand in left:
            errand.cancel()
        await self._client.aclose()
        for errand in left:
            await errand.ended.wait()


class _NobodyWaits(Exception):
    """A request is given up before it has a connection."""


class _Errand(Generic[T]):
    """Work in a task of its own. Its caller may leave at any time; a request ends before it connects, or while sent."""

    def __init__(self, work: Callable[[], Awaitable[T]], under_way: set[_Errand[Any]]) -> None:
        self._work = work
        self._task: object = None
        self._under_way = under_way
        self._scope = anyio.CancelScope()
        self._error: BaseException | None = None
        self._is_sending = False
        self.is_left = False
        self.value: T | None = None
        self.ended = anyio.Event()
        self.cancel = self._scope.cancel

    def start(self) -> Self:
        """Begin a task that belongs to no other."""
        self._under_way.add(self)
        loop = running_loop()
        if isinstance(loop, asyncio.AbstractEventLoop):
            self._task = loop.create_task(self._run(), name="chroma-async-request")
        else:
            spawn = importlib.import_module("trio").lowlevel.spawn_system_task
            spawn(self._run, context=contextvars.copy_context())
        return self

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

    async def follow(self, event: str, told: dict[str, Any]) -> None:
        """Told by httpcore how far the request is."""
        if event in CONNECTING:
            if self.is_left:
                raise _NobodyWaits
        elif event.endswith("send_request_headers.started") and told["request"].method != b"CONNECT":  # that is a proxy's
            self._is_sending = True
            if self.is_left:
                self.cancel()

    async def _run(self) -> None:
        try:
            with self._scope:
                self.value = await self._work()
        except BaseException as error:
            self._error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._under_way.discard(self)
            self.ended.set()


class _Own(Generic[T]):
    """What one process has of a client: pools by event loop, or one for all threads."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.pools: WeakKeyDictionary[object, T] = WeakKeyDictionary()


class _Renewing:
    """The lock of who begins anew in a forked child."""

    lock = threading.Lock()

    @classmethod
    def renew(cls) -> None:
        cls.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Renewing.renew)


class _PoolsOfProcess(Generic[T]):
    """The pools of a client. A forked child begins anew, and leaves its parent's alone."""

    def __init__(self) -> None:
        self._closed = False
        self._owned = _Own[T]()

    def _own_of(self, key: object, make: Callable[[], T]) -> T:
        own = self._of_process()
        pool = own.pools.get(key)
        if pool is None or self._closed:
            with own.lock:
                if self._closed:
                    raise RuntimeError(CLOSED)
                for ended in [known for known in own.pools if _is_closed(known)]:
                    del own.pools[ended]  # its pool would keep it
                pool = own.pools.get(key)
                if pool is None:
                    pool = own.pools[key] = make()
        return pool

    def _of_process(self) -> _Own[T]:
        if self._owned.process != os.getpid():
            with _Renewing.lock:
                if self._owned.process != os.getpid():
                    self._owned = _Own[T]()
        return self._owned

    def _closed_of(self, key: object) -> T | None:
        """Forget all pools; return the one that is to be closed."""
        self._closed = True
        if self._owned.process != os.getpid():
            return None
        with self._owned.lock:
            pool = self._owned.pools.pop(key, None)
            self._owned.pools.clear()
        return pool


class AsyncPools(_PoolsOfProcess[AsyncPool]):
    """The connections of a client: a pool for each event loop."""

    def __init__(self, make: Callable[[], httpx.AsyncClient]) -> None:
        super().__init__()
        self._make = make

    async def own(self) -> AsyncPool:
        """Return the pool of the running event loop.

        Raises:
            RuntimeError: the client is closed.
        """
        return self._own_of(running_loop(), lambda: AsyncPool(self._make()))

    async def aclose(self) -> None:
        """Close the pool of the running loop; only its own loop can close one, so others are left to their ends."""
        pool = self._closed_of(running_loop())
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


class Pools(_PoolsOfProcess[Pool]):
    """The same with one pool for all threads."""

    def __init__(self, make: Callable[[], httpx.Client]) -> None:
        super().__init__()
        self._make = make

    def own(self) -> Pool:
        return self._own_of(Pool, lambda: Pool(self._make()))

    def close(self) -> None:
        pool = self._closed_of(Pool)
        if pool is not None:
            pool.close()
