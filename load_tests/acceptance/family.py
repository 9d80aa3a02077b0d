"""The processes of a server as the system sees them: which is which, what they hold, and who answers a connection."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from chroma_async.seams.lock_file import holder_of
from load_tests.servers import LocalServer

Role = Literal["supervisor", "worker", "compactor", "builder"]
"""A builder lives as long as it builds one graph."""

OPEN_ROLES: Final[tuple[Role, ...]] = ("worker", "compactor")
"""Of the processes that hold a collection open."""

_WATCH_SECONDS = 0.5
_TITLES: dict[str, Role] = {"chroma-async: worker": "worker", "chroma-async: compactor": "compactor"}
_BUILDER = "chroma_async.projections.graph_process"


def members(server: LocalServer, role: Role) -> list[int]:
    """Process ids of the server's living processes of one role, oldest first."""
    return sorted(pid for pid in server.pids() if role_of(pid, server) == role)


def role_of(pid: int, server: LocalServer) -> Role | None:
    """What a process of the server does; None: it is none that lives, or has just begun."""
    assert server.process is not None
    if pid == server.process.pid:
        return "supervisor"
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0")
    except OSError:
        return None
    return "builder" if _BUILDER in title.split("\0") else _TITLES.get(title)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not waited for yet does not.

    Of a killed process a thread may live on for as long as the disk keeps it, and with it all that the process had open.
    """
    with suppress(OSError):
        return any(_state(task) not in "ZX" for task in Path(f"/proc/{pid}/task").iterdir())
    return False


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def descriptors(pid: int) -> int:
    """Number of open file descriptors."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def who_answers(server_port: int, pids: Iterable[int], client_port: int) -> int | None:
    """Which of some workers has accepted the connection from a local port; None if none of them has."""
    inode = _server_side_inode(server_port, client_port)
    return next((pid for pid in pids if inode and inode in _sockets(pid)), None)


def _server_side_inode(server_port: int, client_port: int) -> str | None:
    ends = (f":{server_port:04X}", f":{client_port:04X}")
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(ends[0]) and fields[2].endswith(ends[1]):
            return fields[9]
    return None


def _sockets(pid: int) -> set[str]:
    found: set[str] = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def compactor_of(directory: Path) -> int | None:
    """Process id of who holds the compactor's lock of a data directory, as it wrote it there; None if it is gone."""
    try:
        pid = int((directory / "compactor.lock").read_text().strip() or 0)
    except (OSError, ValueError):
        return None
    return pid if pid and is_alive(pid) else None


def holds_log(pid: int, directory: Path) -> bool:
    """Whether a process has the right to write to the log: stopping it now would stop all writers."""
    return any(holder_of(directory / name) == pid for name in ("log.lock", "log.gate"))


def log_bytes(directory: Path) -> int:
    """Length of the log's file and of SQLite's journal beside it."""
    files = (directory / f"log.sqlite3{suffix}" for suffix in ("", "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def errors_in(server: LocalServer) -> list[str]:
    """Lines of the server's log that tell of an error."""
    lines = server.log.read_text(errors="replace").splitlines() if server.log.exists() else []
    return [line for line in lines if "Traceback" in line or " ERROR " in line or line.startswith("ERROR")]


@dataclass(slots=True)
class Peaks:
    """Most memory (proportional set size, bytes) that the processes of each role had together, and most disk."""

    memory_bytes: dict[str, int] = field(default_factory=dict[str, int])
    disk_bytes: int = 0
    log_bytes: int = 0


@contextmanager
def watched(server: LocalServer) -> Generator[Peaks, None, None]:
    """Look at memory and disk of a server twice a second."""
    peaks, stop = Peaks(), threading.Event()

    def watch() -> None:
        while not stop.wait(_WATCH_SECONDS):
            _look(server, peaks)

    thread = threading.Thread(target=watch, name="peaks", daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()


def _look(server: LocalServer, peaks: Peaks) -> None:
    sums: dict[str, int] = {}
    for pid in server.pids() if server.process is not None else []:
        role: str = role_of(pid, server) or "other"
        sums[role] = sums.get(role, 0) + (pss_bytes(pid) or 0)
    for role, size in sums.items():
        peaks.memory_bytes[role] = max(size, peaks.memory_bytes.get(role, 0))
    peaks.disk_bytes = max(peaks.disk_bytes, server.disk_bytes())
    peaks.log_bytes = max(peaks.log_bytes, log_bytes(server.directory))


def pss_bytes(pid: int) -> int | None:
    """Proportional set size of a process; None where unknown or gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)


def settled_disk_bytes(server: LocalServer, *, seconds_max: float = 20.0) -> int:
    """Blocks of the data directory, once they have not changed for two seconds."""
    deadline, size, since = time.monotonic() + seconds_max, -1, time.monotonic()
    while time.monotonic() < deadline:
        now = server.disk_bytes()
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > 2.0:
            break
        time.sleep(0.2)
    return size
