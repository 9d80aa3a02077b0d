"""Starting a server: what can be wrong is found out, and said in one line, before anything runs."""

from __future__ import annotations

import asyncio
import importlib.util
import ipaddress
import logging
import os
import resource
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from chroma_async.engine.directory import prepare_directory
from chroma_async.engine.search_times import SEARCH_TIMES_BYTES
from chroma_async.errors import FormatError
from chroma_async.seams import SystemFiles
from chroma_async.server.begin import BEGIN, Begin, fork, preload
from chroma_async.server.child import STOPPING_SIGNALS, Orders, Role, reason_of
from chroma_async.server.listen import AddressTaken, inherited, listen, listen_unix, url_of
from chroma_async.server.loads import forget_load, loads_file
from chroma_async.server.logs import configure_logs
from chroma_async.server.memory import keep_blocks
from chroma_async.server.shared_file import shared_file
from chroma_async.server.shared_metrics import metrics_directory
from chroma_async.server.start_error import StartError
from chroma_async.server.supervisor import Asked, Child, GaveUp, NeverBegan, RestartPolicy, Supervisor
from chroma_async.server.tls import tls_context
from chroma_async.server.tracing import check_tracing
from chroma_async.settings import AuthSettings, EngineSettings, HttpServer, ServerSettings

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1

TAKEN_SECONDS: Final = 5.0
"""How long a server that starts waits for its address: workers whose parent was killed need a moment to notice and leave."""

_TAKEN_LOOK_SECONDS: Final = 0.1

logger = logging.getLogger("chroma_async.supervisor")


def run_server(
    path: Path,
    engine: EngineSettings,
    server: ServerSettings,
    *,
    auth: AuthSettings | None = None,
    begin: Begin = BEGIN,
) -> int:
    """Serve a data directory until SIGTERM, SIGINT or SIGHUP; return the exit code. `begin` starts its processes.

    Raises:
        StartError: the address, the directory or a file of credentials can't be used, or the HTTP server is not installed;
            nothing was started.
    """
    configure_logs(server.log_level, server.access_log)
    auth = auth or AuthSettings()
    _check_server(server.http_server)
    _check_access(auth, server)
    scheme = "http" if tls_context(server) is None else "https"
    check_tracing()
    with ExitStack() as stack:
        bound = _listen(server, stack)
        check_directory(path.absolute(), allow_network=engine.allow_network_file_system)
        keep_blocks()
        _raise_descriptor_limit()
        if begin is fork:
            preload(server.http_server)
        orders = _orders(path.absolute(), bound, engine, server, auth, stack)
        try:
            orderly = asyncio.run(_supervise(orders, begin, url_of(bound, scheme), bound.close))
        except NeverBegan as error:
            raise StartError(str(error)) from error
        except GaveUp as error:
            logger.error("server.fail reason=%s", error)
            return EXIT_FAILED
    return EXIT_OK if orderly else EXIT_FAILED


def _orders(
    path: Path,
    bound: socket.socket,
    engine: EngineSettings,
    server: ServerSettings,
    auth: AuthSettings,
    stack: ExitStack,
) -> Orders:
    """The orders of a worker, from which those of each child are made; the stack keeps open what they name."""
    lifeline, _writing_end = os.pipe()
    several = server.workers > 1
    return Orders(
        role="worker",
        path=str(path),
        socket=bound.fileno(),
        lifeline=lifeline,
        status=-1,
        metrics=stack.enter_context(metrics_directory()) if server.metrics else None,
        loads=stack.enter_context(loads_file(server.workers)) if several else None,
        searches=stack.enter_context(shared_file("searches", SEARCH_TIMES_BYTES)) if several else None,
        engine=engine,
        server=server,
        auth=auth,
    )


def _listen(server: ServerSettings, stack: ExitStack) -> socket.socket:
    """The socket that systemd has handed over, a unix socket, or one of TCP."""
    taken = inherited()
    return _bind(server, stack) if taken is None else stack.enter_context(taken)


def _bind(server: ServerSettings, stack: ExitStack) -> socket.socket:
    """Listen, as soon as nobody else does."""
    end = None
    while True:
        try:
            if server.unix_socket is not None:
                return stack.enter_context(listen_unix(Path(server.unix_socket)))
            return stack.enter_context(listen(server.host, server.port))
        except AddressTaken:
            if end is None:
                logger.warning("address.wait seconds_max=%g reason='somebody listens there'", TAKEN_SECONDS)
                end = time.monotonic() + TAKEN_SECONDS
            elif time.monotonic() >= end:
                raise
            time.sleep(_TAKEN_LOOK_SECONDS)


def _check_server(name: HttpServer) -> None:
    if name == "uvicorn" and not all(map(importlib.util.find_spec, ("uvicorn", "httptools"))):
        raise StartError("uvicorn is not installed: pip install 'chroma-async[server,uvicorn]', or choose another --server")


def _check_access(auth: AuthSettings, server: ServerSettings) -> None:
    """Read every file that says who may come in: better no server than one that lets nobody in, or everybody."""
    access = None
    if auth != AuthSettings():
        from chroma_async.server.auth.build import build_access

        access = build_access(auth, server.trusted_proxies, check=True)
    if access is None and server.unix_socket is None and not _is_loopback(server.host):
        reason = "whoever reaches the port may do everything; --auth-... options say whom to let in"
        logger.warning("auth.none host=%s reason=%r", server.host, reason)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_directory(path: Path, *, allow_network: bool = False) -> None:
    """Make sure that a data directory is ours, creating it if need be. No file of it stays open.

    Raises:
        StartError: it can't be written, is not a data directory, or has a format of another version.
    """
    try:
        prepare_directory(path, SystemFiles(), allow_network=allow_network)
    except (FormatError, OSError) as error:
        raise StartError(reason_of(error, str(path))) from error


async def _supervise(orders: Orders, begin: Begin, url: str, release: Callable[[], None]) -> bool:
    asked = Asked()
    loop = asyncio.get_running_loop()
    for number in STOPPING_SIGNALS:
        loop.add_signal_handler(number, asked.note, number)
    policy = RestartPolicy()

    def child(role: Role, name: str, place: int = 0) -> Child:
        own = replace(orders, role=role, name=name, place=place)

        def ended() -> None:
            if role == "worker" and orders.loads is not None:
                forget_load(orders.loads, place)

        return Child(role, lambda status: begin(replace(own, status=status)), policy, ended)

    workers = [child("worker", f"worker-{number}", number) for number in range(orders.server.workers)]
    stop_seconds = orders.server.drain_seconds + orders.server.graceful_seconds
    supervisor = Supervisor(workers, child("compactor", "compactor"), stop_seconds, release)
    return await supervisor.run(asked, lambda: _print_welcome(orders, url))


def _print_welcome(orders: Orders, url: str) -> None:
    import importlib.metadata

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
