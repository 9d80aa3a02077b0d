"""What the server's child processes have in common: their orders, and how they end.

A child is tied to its parent by two pipes. Of the lifeline it has the reading end: nothing is ever written there, and its
end means that the parent is gone, however it died. Of the status pipe it has the writing end: it takes one line, as soon as
the child is at work or knows that it never will be, and its end tells the parent that the child is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Literal

import msgspec

from chroma_async.engine.search_times import SearchTimes
from chroma_async.errors import FormatError, LogCorrupt, LogHole, StorageCorrupt
from chroma_async.server.loads import Loads
from chroma_async.server.memory import give_back
from chroma_async.settings import AuthSettings, EngineSettings, ServerSettings

Role = Literal["worker", "compactor"]

READY: Final = b"ready"
EXIT_HOPELESS: Final = 2
"""A child's way to say that starting it again won't help; its line of status is the reason."""

STOPPING_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

_HOPELESS: Final = (FormatError, LogCorrupt, LogHole, StorageCorrupt, OSError, sqlite3.DatabaseError)
_STATUS_BYTES_MAX: Final = 2048
"""Below what a pipe takes at once."""

_ORPHAN_SECONDS: Final = 5.0

logger = logging.getLogger("chroma_async.server")


class Orders(msgspec.Struct, frozen=True):
    """All that a child process needs to know. `socket`, `lifeline`, `status`, `loads` and `searches` are numbers of
    descriptors.

    `name` is one that no other child has at the same time, and its replacement inherits, as it does `place`, a worker's
    among the workers; `metrics` is the directory in which all of them count, `loads` the file in which workers say what they
    have to do, `searches` the one in which they say what is searched, None where there is only one worker.
    """

    role: Role
    path: str
    socket: int
    lifeline: int
    status: int
    loads: int | None = None
    searches: int | None = None
    name: str = ""
    place: int = 0
    metrics: str | None = None
    engine: EngineSettings = msgspec.field(default_factory=EngineSettings)
    server: ServerSettings = msgspec.field(default_factory=ServerSettings)
    auth: AuthSettings = msgspec.field(default_factory=AuthSettings)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Those that the child works with."""
        shared = (number for number in (self.loads, self.searches) if number is not None)
        listening = (self.socket,) if self.role == "worker" else ()  # nobody else keeps it open when workers close it
        return *listening, self.lifeline, self.status, *shared

    def open_loads(self) -> Loads | None:
        """What workers have to do, as the one of these orders sees it; None where it is the only one."""
        return None if self.loads is None else Loads(self.loads, self.server.workers, self.place)

    def open_searches(self) -> SearchTimes:
        """When collections were searched last, by any worker."""
        return SearchTimes(self.searches)

    def to_argument(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_argument(cls, text: str) -> Orders:
        return msgspec.json.decode(text, type=cls)


class Duty:
    """A child's orders, how it says that it is at work, and how it learns that it is to stop."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.stop = asyncio.Event()
        self.at_work = False

    def report_ready(self) -> None:
        """Tell the parent that this child is at work."""
        self.at_work = True
        self._report(READY)

    def report_hopeless(self, reason: str) -> None:
        """Tell the parent why this child can't begin."""
        self._report(" ".join(reason.split()).encode()[:_STATUS_BYTES_MAX])

    def _report(self, line: bytes) -> None:
        with suppress(BrokenPipeError):  # the parent is gone: the lifeline says so
            os.write(self.orders.status, line + b"\n")


Work = Callable[[Duty], Coroutine[Any, Any, None]]
"""A child's work: it calls `report_ready`, and returns soon after `stop` is set."""


def run_child(orders: Orders, work: Work) -> int:
    """Do a child's work until it is told to stop or its parent is gone; return the exit code.

    The signals that stop it may be blocked until now: it does not miss one.
    """
    duty = Duty(orders)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_work_until_told(work, duty))
    except _HOPELESS as error:
        if duty.at_work:
            raise
        duty.report_hopeless(reason_of(error, orders.path))
        return EXIT_HOPELESS
    return 0


async def _work_until_told(work: Work, duty: Duty) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, duty.stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING_SIGNALS)
    _watch_lifeline(loop, duty)
    give_back()
    await work(duty)


def reason_of(error: Exception, path: str) -> str:
    """Return why a directory can't be served, in a line for the person who started the server."""
    if isinstance(error, OSError):
        return f"can't open the data directory; choose another --path. path={path!r} ({error.strerror or error})"
    return f"can't use the data directory: {error}"


def _watch_lifeline(loop: asyncio.AbstractEventLoop, duty: Duty) -> None:
    """Stop when the parent dies: in order if possible, but within some seconds even if the event loop hangs."""
    server = duty.orders.server
    seconds_max = server.drain_seconds + server.graceful_seconds + _ORPHAN_SECONDS

    def watch() -> None:
        while os.read(duty.orders.lifeline, 1024):
            continue
        logger.warning("parent.lost")
        try:
            loop.call_soon_threadsafe(duty.stop.set)
        except RuntimeError:
            return  # the loop is closed: this process is ending already
        time.sleep(seconds_max)
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes event loops, imported by the first call; None: uvloop is not installed, so asyncio does."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
