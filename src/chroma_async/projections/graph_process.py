"""Graphs built by a process of their own, which gives its memory back by ending.

A graph of half a million vectors takes some 200 MB while it is built. The process gets its order as one line, and writes the
file; the line that it answers says how that went. Its input stays open as long as who asked lives and wants the graph.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from chroma_async.errors import StorageCorrupt
from chroma_async.projections.graphs import ORDER_FORMAT, GraphOrder, WrittenGraph, write_graph
from chroma_async.seams.limits import causes

LOOK_SECONDS: Final = 0.2
"""How often who waits for a graph asks whether it is wanted."""

COMMAND: Final = ("-P", "-m", "chroma_async.projections.graph_process")
"""Of this interpreter; what lies in the directory of its user is no module for it."""


class Failure(msgspec.Struct, frozen=True, tag=True):
    """What went wrong, as an error that the caller of `write_graph` could have got.

    `code` is that of an OSError which it was or came from. `lacks_memory`: it came from want of memory.
    """

    message: str
    is_damage: bool = False
    lacks_memory: bool = False
    code: int | None = None

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Of an error that was raised here."""
        chain = list(causes(error))
        codes = (cause.errno for cause in chain if isinstance(cause, OSError))
        return cls(
            message=str(error),
            is_damage=isinstance(error, StorageCorrupt),
            lacks_memory=any(isinstance(cause, MemoryError) for cause in chain),
            code=next(codes, None),
        )

    def error(self) -> Exception:
        """The error to be raised there, with what it came from."""
        cause: Exception | None = None
        if self.lacks_memory:
            cause = MemoryError(self.message)
        elif self.code is not None:
            cause = OSError(self.code, os.strerror(self.code))
        if not self.is_damage:
            return cause or RuntimeError(self.message)
        error = StorageCorrupt(self.message)
        error.__cause__ = cause
        return error


class Written(msgspec.Struct, frozen=True, tag=True):
    """It went well."""

    graph: WrittenGraph


_ORDERS: Final = msgspec.json.Decoder(GraphOrder)
_ANSWERS: Final = msgspec.json.Decoder(Written | Failure)
"""Made when the module is loaded: see `projections.manifest`."""


def write_graph_elsewhere(order: GraphOrder, is_wanted: Callable[[], bool]) -> WrittenGraph | None:
    """Have a process of its own, of this thread's priority, carry an order out; see `WriteGraph`.

    Raises:
        RuntimeError: the process has failed otherwise; it has said why on the standard error stream.
    """
    pipe, modules = subprocess.PIPE, os.pathsep.join(path or os.curdir for path in sys.path)
    environment = {**os.environ, "PYTHONPATH": modules}  # an application may have found its modules in its own way
    command = (sys.executable, *COMMAND)
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, env=environment) as process:
        try:
            if not _sent(msgspec.json.encode(order) + b"\n", process, is_wanted):
                return None
            while not _has_ended(process):
                if not is_wanted():
                    return None
        finally:
            process.kill()
        return _outcome(process)


def _sent(line: bytes, process: subprocess.Popen[bytes], is_wanted: Callable[[], bool]) -> bool:
    """Whether a process has taken a line, which may be more than a pipe holds, or has ended; else it is not wanted."""
    assert process.stdin is not None
    descriptor = process.stdin.fileno()
    os.set_blocking(descriptor, False)
    with selectors.DefaultSelector() as selector, suppress(BrokenPipeError):
        selector.register(descriptor, selectors.EVENT_WRITE)
        while line:
            if selector.select(LOOK_SECONDS):
                line = line[os.write(descriptor, line) :]
            elif not is_wanted():
                return False
    return True


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(LOOK_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _outcome(process: subprocess.Popen[bytes]) -> WrittenGraph:
    assert process.stdout is not None
    said, code = process.stdout.read(), process.returncode
    if code == -signal.SIGKILL:
        raise MemoryError("the process that built a graph was killed, as by a system that lacks memory")
    if code or not said:
        raise RuntimeError(f"the process that built a graph has failed. exit_code={code}")
    answer = _ANSWERS.decode(said)
    if isinstance(answer, Failure):
        raise answer.error()
    return answer.graph


def main() -> None:
    """Be that process."""
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return  # who asked has ended meanwhile
    answer: Written | Failure
    try:
        order = _order(line)
        threading.Thread(target=_end_with_who_asked, name="lifeline", daemon=True).start()
        written = write_graph(order, lambda: True)
        assert written is not None
        answer = Written(written)
    except Exception as error:
        answer = Failure.of(error)
        if isinstance(answer.error(), RuntimeError):
            traceback.print_exc()
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    sys.stdout.buffer.flush()


def _order(line: bytes) -> GraphOrder:
    """Read an order.

    Raises:
        RuntimeError: another release wrote it.
    """
    try:
        order = _ORDERS.decode(line)
    except msgspec.DecodeError:
        order = None
    if order is None or order.format != ORDER_FORMAT:
        raise RuntimeError("another release of chroma_async was installed than the one that runs: restart the server")
    return order


def _end_with_who_asked() -> None:
    """End this process when nobody waits for it any more, however that came about."""
    while os.read(sys.stdin.fileno(), 1024):
        continue
    os._exit(1)


if __name__ == "__main__":
    main()
