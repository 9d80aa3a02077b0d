"""An event loop in a thread of its own, for those who call from ordinary threads.

The engine is async, and a sync client has no loop; user functions may be async as well. anyio's blocking portal bridges the
two. What needs care is the end: the engine's worker threads are joined when the interpreter goes down, and an engine that is
still open would be waited for forever. So loops close before that moment, by `threading._register_atexit`, the hook that
`concurrent.futures` uses for the same reason; `atexit` runs too late, after the joining. It closes the loops that threads
have begun meanwhile: one that is still there when the interpreter goes down would be waited for, too.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  # pyright: ignore[reportUnusedImport] - its hook comes first
import os
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from typing import Any, Final, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from chroma_async.client.single import Single

T = TypeVar("T")


class BackgroundLoop(Single):
    """Starts at first use; usable from many threads; closed by `close`, when forgotten, or before the interpreter ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stack: ExitStack | None = None
        self._portal: BlockingPortal | None = None
        self._thread: int | None = None
        self._process = os.getpid()

    def call(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run the async function in the loop, and wait for its result."""
        return self._running_portal().call(function, *arguments)

    def hold(self, resource: AbstractAsyncContextManager[T]) -> T:
        """Enter the context in the loop, and leave it when the loop closes. It is entered and left by one task."""
        portal = self._running_portal()
        assert self._stack is not None
        held = self._stack.enter_context(portal.wrap_async_context_manager(resource))
        atexit.unregister(_close_all)  # it comes before what the resource has left for the end, such as removing its files
        atexit.register(_close_all)
        return held

    def close(self) -> None:
        """Leave what is held, stop the loop and its thread. A later use starts another one."""
        if self._process != os.getpid():
            self._abandon()
            return
        with self._lock:
            stack, self._stack, self._portal = self._stack, None, None
        if stack is not None:
            stack.close()

    def _abandon(self) -> None:
        """In a forked child there is no loop, only its remains: mark the portal as stopped, so that nobody waits for it."""
        portal, self._portal = self._portal, None
        if portal is not None:
            with suppress(StopIteration, RuntimeError):  # a loop in debug mode asks which thread this is
                portal.stop().send(None)
        self._stack = None

    def __del__(self) -> None:
        """Close in order: what is held would otherwise be cancelled at whatever it does.

        Not when the interpreter has ended: a loop that was begun since threads were joined stands still by then.
        """
        if sys.is_finalizing():
            return
        if threading.get_ident() == self._thread:
            threading.Thread(target=_close_stack, args=(self._stack,)).start()
        else:
            self.close()

    def check_process(self) -> None:
        """Raise RuntimeError in a forked child: the loop's thread is not there."""
        if self._process != os.getpid():
            raise RuntimeError("this client was opened before a fork; open another one in the child process")

    def _running_portal(self) -> BlockingPortal:
        self.check_process()
        with self._lock:
            if self._portal is None or self._stack is None:
                self._stack = ExitStack()
                self._portal = self._stack.enter_context(start_blocking_portal(name="chroma-async-loop"))
                self._thread = self._portal.call(threading.get_ident)
                _running.add(self)
            return self._portal


def _close_stack(stack: ExitStack | None) -> None:
    if stack is not None:
        stack.close()


_running: Final[weakref.WeakSet[BackgroundLoop]] = weakref.WeakSet()


def _close_all() -> None:
    for loop in list(_running):
        loop.close()


before_threads_are_joined: Callable[[Callable[[], None]], object] = getattr(threading, "_register_atexit", atexit.register)
before_threads_are_joined(_close_all)
atexit.register(_close_all)
