"""A real server for an application of the test's own, on a free port of this machine, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette

STOP_SECONDS_MAX = 10.0


@contextlib.contextmanager
def serving(app: Starlette) -> Iterator[str]:
    """Yield the base URL."""
    bound = socket.create_server(("127.0.0.1", 0))
    port = bound.getsockname()[1]
    config = Config()
    config.bind = [f"fd://{bound.detach()}"]
    config.graceful_timeout = 1.0
    config.loglevel = "ERROR"
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def run() -> None:
        with contextlib.closing(loop):
            loop.run_until_complete(serve(app, config, shutdown_trigger=stop.wait))

    thread = threading.Thread(target=run, name="loopback")
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(STOP_SECONDS_MAX)
        assert not thread.is_alive()
