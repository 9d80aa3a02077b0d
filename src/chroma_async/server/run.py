"""Starting a server: what can be wrong is found out, and said in one line, before anything runs."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import resource
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from chroma_async.errors import ChromaError, FormatError
from chroma_async.server.child import Orders
from chroma_async.server.listen import ListenError, listen, url_of
from chroma_async.server.logs import configure_logs
from chroma_async.server.supervisor import Child, GaveUp, RestartPolicy, Supervisor
from chroma_async.settings import EngineSettings, ServerSettings

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1

logger = logging.getLogger("chroma_async.supervisor")


class StartError(Exception):
    """The server can't start; the message is one line for the person who started it."""


def run_server(path: Path, engine: EngineSettings, server: ServerSettings) -> int:
    """Serve a data directory until SIGTERM, SIGINT or SIGHUP; return the exit code.

    Raises:
        StartError: the address or the directory can't be used; nothing was started.
    """
    configure_logs(server.log_level)
    try:
        bound = listen(server.host, server.port)
    except ListenError as error:
        raise StartError(str(error)) from error
    with bound:
        absolute = path.absolute()
        check_directory(absolute, engine)
        _raise_descriptor_limit()
        orders = Orders(path=str(absolute), socket=bound.fileno(), engine=engine, server=server)
        try:
            orderly = asyncio.run(_supervise(orders, bound))
        except GaveUp as error:
            logger.error("server.fail reason=%s", error)
            return EXIT_FAILED
    return EXIT_OK if orderly else EXIT_FAILED


def check_directory(path: Path, engine: EngineSettings) -> None:
    """Open the data directory, creating it if need be, and close it again.

    Raises:
        StartError: it can't be written, is not a data directory, or has a format of another version.
    """
    try:
        asyncio.run(_open_and_close(path, engine))
    except (FormatError, ChromaError) as error:
        raise StartError(f"can't use the data directory: {error}") from error
    except OSError as error:
        reason = error.strerror or error
        raise StartError(f"can't open the data directory; choose another --path. path={str(path)!r} ({reason})") from error


async def _open_and_close(path: Path, engine: EngineSettings) -> None:
    from chroma_async.engine import open_engine

    async with open_engine(path, engine, compact=False):
        return


async def _supervise(orders: Orders, bound: socket.socket) -> bool:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    policy = RestartPolicy()
    argument = orders.to_argument()
    workers = [
        Child("worker", "chroma_async.server.worker", argument, orders.socket, policy) for _ in range(orders.server.workers)
    ]
    compactor = Child("compactor", "chroma_async.server.compactor", argument, orders.socket, policy)
    supervisor = Supervisor(workers, compactor, orders.server.graceful_seconds)
    return await supervisor.run(stop, lambda: _print_welcome(orders, url_of(bound)))


def _print_welcome(orders: Orders, url: str) -> None:
    lines = (
        f"chroma-async {importlib.metadata.version('chroma-async')}",
        f"  url      {url}",
        f"  path     {orders.path}",
        f"  workers  {orders.server.workers}",
    )
    print("\n".join(lines), flush=True)


def _raise_descriptor_limit() -> None:
    """Allow as many open files and connections as the system lets us; children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
