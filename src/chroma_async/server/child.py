"""What the server's child processes have in common: their orders, and how they end.

A child is told everything by one command line argument, and is tied to its parent by two pipes. Its standard input is the
lifeline: nothing is ever written to it, and its end means that the parent is gone, however it died. Its standard output
takes one line, as soon as the child is at work.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from chroma_async.errors import FormatError
from chroma_async.server.logs import configure_logs
from chroma_async.settings import EngineSettings, ServerSettings

READY_LINE: Final = b"ready\n"
EXIT_HOPELESS: Final = 2
"""A child's way to say that starting it again won't help."""

_ORPHAN_SECONDS: Final = 5.0

logger = logging.getLogger("chroma_async.server")


@dataclass(frozen=True, slots=True)
class Orders:
    """All that a child process needs to know. `socket` is the number of the listening socket's descriptor."""

    path: str
    socket: int
    engine: EngineSettings = field(default_factory=EngineSettings)
    server: ServerSettings = field(default_factory=ServerSettings)

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
        os.write(sys.stdout.fileno(), READY_LINE)


Work = Callable[[Duty], Coroutine[Any, Any, None]]
"""A child's work: it calls `report_ready`, and returns soon after `stop` is set."""


def run_child(name: str, work: Work) -> int:
    """Do a child's work until it is told to stop or its parent is gone; return the exit code."""
    duty = Duty(Orders.from_argument(sys.argv[1]))
    configure_logs(duty.orders.server.log_level)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_work_until_told(work, duty))
    except (FormatError, OSError) as error:
        if duty.at_work:
            raise
        logger.error("%s.fail error=%s reason=%s", name, type(error).__name__, error)
        return EXIT_HOPELESS
    return 0


async def _work_until_told(work: Work, duty: Duty) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, duty.stop.set)
    _watch_lifeline(loop, duty.stop, duty.orders.server.graceful_seconds + _ORPHAN_SECONDS)
    await work(duty)


def _watch_lifeline(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, seconds_max: float) -> None:
    """Stop when the parent dies: in order if possible, but within `seconds_max` even if the event loop hangs."""

    def watch() -> None:
        while os.read(0, 1024):
            continue
        logger.warning("parent.lost")
        try:
            loop.call_soon_threadsafe(stop.set)
        except RuntimeError:
            return  # the loop is closed: this process is ending already
        time.sleep(seconds_max)
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
