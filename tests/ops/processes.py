"""Programs that tests start: their output goes to a file, and they are ended by their own id, also when a test fails."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 40.0

CHROMA_ASYNC = Path(sys.executable).with_name("chroma-async")

HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""As systemd does: the socket is descriptor 3, and two variables say so."""


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    directory: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program; at the end it is asked to stop, and killed if it does not."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=clean_environment(environment or {}),
            pass_fds=pass_fds,
            cwd=directory,
        )
    try:
        yield process
    finally:
        stop(process)


def clean_environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what changes servers and clients."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHROMA_", "LISTEN_"))}
    return {**kept, **more}


def stop(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
    """End a process, and return its exit code."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a program is at work."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ended at once, exit_code={process.returncode}\n{end_of(log)}"
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"not at work after {START_SECONDS_MAX} s\n{end_of(log)}")


def end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-6000:] if log.exists() else ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def chroma_async(
    directory: Path, *options: str | Path, held: socket.socket | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run our server on `directory`/data. `held` is a listening socket that is handed over to it as systemd does."""
    log = directory / "server.log"
    started = log.read_bytes().count(b"  path ") if log.exists() else 0
    command: list[str | Path] = [CHROMA_ASYNC, "run", "--path", directory / "data", *options]
    if held is not None:
        command = [sys.executable, "-c", HAND_OVER, str(held.fileno()), *command]
    with running(command, log, pass_fds=() if held is None else (held.fileno(),), directory=directory) as process:
        wait_until(lambda: log.read_bytes().count(b"  path ") > started, process, log)
        yield process
        assert stop(process) == 0, f"the server did not stop in order\n{end_of(log)}"
