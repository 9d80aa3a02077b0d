"""An event loop in a thread of its own, for those who call from ordinary threads.

The engine is async, and a sync client has no loop; user functions may be async as well. anyio's blocking portal bridges the
two. What needs care is the end: the engine's worker threads are joined when the interpreter goes down, and an engine that is
still open would be waited for forever. So loops close before that moment, by `threading._register_atexit`, the hook that
`concurrent.futures` uses for the same reason; `atexit` runs too late, after the joining.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread as _executors  # registers its own hook first, so that ours runs before it
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import Any, Final, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

T = TypeVar("T")


class BackgroundLoop:
    """Starts at first use; usable from many threads; closed by `close`, or before the interpreter ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stack: ExitStack | None = None
        self._portal: BlockingPortal | None = None
        self._process = os.getpid()

    def call(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run the async function in the loop, and wait for its result."""
        return self._running_portal().call(function, *arguments)

    def hold(self, resource: AbstractAsyncContextManager[T]) -> T:
        """Enter the context in the loop, and leave it when the loop closes. It is entered and left by one task."""
        portal = self._running_portal()
        assert self._stack is not None
        return self._stack.enter_context(portal.wrap_async_context_manager(resource))

    def close(self) -> None:
        """Leave what is held, stop the loop and its thread. A later use starts another one."""
        with self._lock:
            stack, self._stack, self._portal = self._stack, None, None
        if stack is not None and self._process == os.getpid():
            stack.close()

    def _running_portal(self) -> BlockingPortal:
        if self._process != os.getpid():
            raise RuntimeError("this client was opened before a fork; open another one in the child process")
        with self._lock:
            if self._portal is None or self._stack is None:
                self._stack = ExitStack()
                self._portal = self._stack.enter_context(start_blocking_portal(name="chroma-async-loop"))
                _running.add(self)
            return self._portal


_running: Final[weakref.WeakSet[BackgroundLoop]] = weakref.WeakSet()


def _close_all() -> None:
    for loop in list(_running):
        loop.close()


_before_threads_are_joined: Callable[[Callable[[], None]], object] = getattr(threading, "_register_atexit", atexit.register)
_before_threads_are_joined(_close_all)
assert _executors is not None
