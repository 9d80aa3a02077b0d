"""How a child process begins: forked from a parent that has imported everything, or executed anew.

A forked child is there within milliseconds, and shares what was imported with its parent and siblings. For that the parent
must have one thread only, and hold nothing that two processes can't own: no open database, no event loop that a child would
go on with, no random state. So the parent opens nothing, its own loop is left behind by `fork`, and databases, loops and
threads are made by the child. On macOS the system's libraries (numpy calculates with one) do not survive a fork, so there
children are executed.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from typing import Final, NoReturn

import anyio
import anyio.lowlevel

from chroma_async.server.child import STOPPING_SIGNALS, Orders, Role, Work, loop_factory, run_child
from chroma_async.server.logs import configure_logs
from chroma_async.server.shared_metrics import share_metrics
from chroma_async.settings import HttpServer

Begin = Callable[[Orders], int]
"""Starts the process that the orders are for, in a process group of its own; returns its id."""

EXIT_BROKEN: Final = 1

_STDIN, _STDOUT, _STDERR = 0, 1, 2


def fork(orders: Orders) -> int:
    """Begin a child as a copy of this process, which has one thread and has called `preload`. The child never returns."""
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal that came before the child has handlers of its own would otherwise reach the parent's.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING_SIGNALS)
    pid = os.fork()
    if pid == 0:
        _live(orders)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def execute(orders: Orders) -> int:
    """Begin a child as a new interpreter."""
    for descriptor in orders.descriptors:
        os.set_inheritable(descriptor, True)
    command = (sys.executable, "-P", "-m", "chroma_async.server.begin", orders.to_argument())
    actions = ((os.POSIX_SPAWN_OPEN, _STDIN, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, _STDERR, _STDOUT))
    try:
        return os.posix_spawn(
            sys.executable,
            command,
            os.environ,
            file_actions=actions,
            setpgroup=0,
            setsigmask=(),
            setsigdef=STOPPING_SIGNALS,
        )
    finally:
        for descriptor in orders.descriptors:  # the next child may have others
            os.set_inheritable(descriptor, False)


GC_THRESHOLDS: Final = (50_000, 20, 50)
"""Of children. A batch of records is thousands of dictionaries without a cycle among them: to look for one after each 700 of
them, as Python does by itself, takes a fifth of the compactor's time."""

BEGIN: Final[Begin] = execute if sys.platform == "darwin" else fork


def preload(http_server: HttpServer) -> None:
    """Import what children need, and keep the collector from touching it, so that its pages stay shared."""
    gc.disable()
    from chroma_async.server.worker import serve_by

    _works()
    serve_by(http_server)
    loop_factory()  # imports uvloop
    _set_title()
    anyio.run(anyio.lowlevel.checkpoint)  # imports what anyio imports only where a loop runs
    gc.enable()
    gc.freeze()


def _works() -> Mapping[Role, Work]:
    from chroma_async.server import compactor, worker

    return {"worker": worker.work, "compactor": compactor.work}


def _live(orders: Orders) -> NoReturn:
    """Be the child from here on, whatever happens: the frames below belong to the parent."""
    code = EXIT_BROKEN
    try:
        _leave_parent(orders)
        code = _do(orders)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _leave_parent(orders: Orders) -> None:
    """Give up what a fork inherits and an executed program would not: handlers, group, descriptors.

    The parent's end of the lifeline is among the descriptors: whoever kept it would keep orphans alive.
    """
    signal.set_wakeup_fd(-1)
    for number in STOPPING_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, which then ends its children in order
    os.dup2(_STDERR, _STDOUT)
    os.dup2(os.open(os.devnull, os.O_RDONLY), _STDIN)
    _close_all_but({_STDIN, _STDOUT, _STDERR, *orders.descriptors})


def _close_all_but(wanted: Container[int]) -> None:
    for descriptor in [int(name) for name in os.listdir("/dev/fd")]:
        if descriptor not in wanted:
            with suppress(OSError):  # the one that listed them is gone already
                os.close(descriptor)


def _do(orders: Orders) -> int:
    gc.set_threshold(*GC_THRESHOLDS)
    _show_role(orders)
    if orders.metrics is not None:
        share_metrics(orders.metrics, orders.name)
    return run_child(orders, _works()[orders.role])


def _show_role(orders: Orders) -> None:
    """Let `ps` and `top` tell children apart."""
    set_title = _set_title()
    if set_title is not None:
        set_title(f"chroma-async: {orders.role}")


def _set_title() -> Callable[[str], None] | None:
    """What gives this process a title; None: setproctitle is not installed."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return None
    return setproctitle


def main() -> int:
    """Be an executed child."""
    orders = Orders.from_argument(sys.argv[1])
    configure_logs(orders.server.log_level, orders.server.access_log)
    return _do(orders)


if __name__ == "__main__":
    sys.exit(main())
