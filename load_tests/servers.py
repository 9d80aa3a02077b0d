"""Starting, watching and stopping the servers under test; the only place where they differ."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from load_tests.api import Api
from load_tests.errors import Unavailable
from load_tests.generator import Address

_START_SECONDS_MAX = 60.0
_STOP_SECONDS_MAX = 30.0


class Server(Protocol):
    """A server that answers at `address`. Only one that we started ourselves can be restarted and looked into."""

    @property
    def label(self) -> str:
        """Name and version, for people."""
        ...

    @property
    def address(self) -> Address:
        """Where it listens."""
        ...

    @property
    def local(self) -> LocalServer | None:
        """The server as one that we started, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Program:
    """How to start a kind of server."""

    label: str
    executable: Path
    options: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ("run",)
    """What stands before the place where to serve."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """On top of our own."""

    def command(self, directory: Path, port: int) -> list[str]:
        """The command that serves `directory` on `port`."""
        place = ["--path", str(directory), "--host", "127.0.0.1", "--port", str(port)]
        return [str(self.executable), *self.arguments, *place, *self.options]


def our_program(workers: int) -> Program:
    """This project's server, from the environment that runs the load tests.

    Raises:
        Unavailable: it is not installed there.
    """
    executable = Path(sys.executable).parent / "chroma-async"
    if not executable.is_file():
        raise Unavailable("chroma-async is not installed beside this python; install the project, or give --url")
    return Program(_label("chroma-async", executable, "chroma_async"), executable, ("--workers", str(workers)))


def peer_program(executable: Path | None, *, beside: Path | None = None) -> Program | None:
    """A real Chroma: `executable`, else the one beside the peers' python, else `chroma` on the PATH, else None.

    Raises:
        Unavailable: the executable that was named does not exist.
    """
    if executable is not None and not executable.is_file():
        raise Unavailable(f"no such chroma executable. path={str(executable)!r}")
    neighbour = beside.parent / "chroma" if beside else None
    on_path = shutil.which("chroma")
    found = executable or (neighbour if neighbour and neighbour.is_file() else None) or (Path(on_path) if on_path else None)
    return Program(_label("chroma", found, "chromadb"), found) if found else None


def distribution_version(name: str) -> str:
    """Version of a package that is installed beside this python.

    Raises:
        Unavailable: it is not.
    """
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise Unavailable(f"{name} is not installed; install the dependency group: pip install --group bench") from error


def _label(name: str, executable: Path, distribution: str) -> str:
    """Name with the version of the package beside the executable; the server's own answer is a constant."""
    python = executable.parent / "python"
    if not python.exists():
        return name
    question = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    answer = subprocess.run([str(python), "-c", question], capture_output=True, text=True, check=False)
    return f"{name} {answer.stdout.strip()}".strip()


@dataclass(frozen=True, slots=True)
class RemoteServer:
    """A server that somebody else runs."""

    url: str
    label: str = "server"
    local: LocalServer | None = None

    @property
    def address(self) -> Address:
        """Where the URL points to."""
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname:
            raise Unavailable(f"the url must look like http://host:port. url={self.url!r}")
        return Address(parts.hostname, parts.port or 8000)


@dataclass(slots=True)
class LocalServer:
    """A server process with a data directory of its own, both gone after use."""

    program: Program
    home: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def label(self) -> str:
        """Name and version."""
        return self.program.label

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address("127.0.0.1", self.port)

    @property
    def local(self) -> LocalServer:
        """Itself."""
        return self

    @property
    def directory(self) -> Path:
        """Its data directory, which the server makes itself."""
        return self.home / "data"

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.home / "server.log"

    def spawn(self) -> None:
        """Start the process without waiting for it to listen; in a session of its own, so that Ctrl-C is ours."""
        assert self.process is None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.program.command(self.directory, self.port),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.home,
                env={**_environment(), **self.program.environment},
                start_new_session=True,
            )

    def stop(self) -> None:
        """Ask the process to end, insist after a while, and leave none of its children behind."""
        if self.process is None:
            return
        children = self.pids()[1:]
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in children:
            _kill_member(pid, session=self.process.pid)
        self.process = None

    @property
    def ended(self) -> bool:
        """Whether the process is gone without having been asked to go."""
        return self.process is not None and self.process.poll() is not None

    def pids(self) -> list[int]:
        """The process and all that descend from it, itself first."""
        assert self.process is not None
        found = [self.process.pid]
        parents = _parents()
        for parent in found:
            found.extend(pid for pid, its_parent in parents.items() if its_parent == parent)
        return found

    def memory_bytes(self) -> int | None:
        """Proportional set size of the process tree: shared pages are counted once; None where unknown."""
        sizes = [_memory(pid).get("Pss") for pid in self.pids()]
        return sum(size for size in sizes if size is not None) if sizes[0] is not None else None

    def unevictable_bytes(self) -> dict[int, int]:
        """What each process holds; see `memory_of`. Empty where unknown."""
        return {pid: size for pid in self.pids() if (size := memory_of(pid))}

    def cpu_seconds(self) -> float:
        """Processor time of the process tree so far, with what its ended children took."""
        ticks = sum(int(field) for pid in self.pids() for field in _stat(pid)[11:15])
        return ticks / os.sysconf("SC_CLK_TCK")

    def disk_bytes(self) -> int:
        """What the data directory occupies, in blocks of the file system."""
        files = (Path(root) / name for root, _, names in os.walk(self.directory) for name in names)
        return sum(_occupied_bytes(file) for file in files)

    def last_words(self) -> str:
        """The end of the log."""
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""


def _environment() -> dict[str, str]:
    """Ours, but for a wish to keep no compiled modules: an installed server has them, and starts without compiling."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def memory_of(pid: int) -> int:
    """What the system could not take from a process by dropping clean pages of files, in bytes; 0 where unknown.

    Anonymous pages, or dirty private ones where those are more: most pages are both, so their sum would count twice.
    """
    sizes = _memory(pid)
    return max(sizes["Anonymous"], sizes["Private_Dirty"]) if sizes else 0


@contextmanager
def running(program: Program) -> Generator[LocalServer, None, None]:
    """Start a server in a fresh directory, wait for its heartbeat, and clean up afterwards.

    Raises:
        Unavailable: it did not come up; the message has the end of its log.
    """
    home = Path(tempfile.mkdtemp(prefix="load-test-"))
    server = LocalServer(program, home, _free_port())
    try:
        server.spawn()
        _wait(server)
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


def _wait(server: LocalServer) -> None:
    try:
        Api(server.address).wait_until_up(_START_SECONDS_MAX, give_up=lambda: server.ended)
    except Unavailable as error:
        raise Unavailable(f"{server.label} did not start: {error}\n{server.last_words()}") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _parents() -> dict[int, int]:
    """Parent of every process; empty where there is no /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(entry.name))
        if fields:
            parents[int(entry.name)] = int(fields[1])
    return parents


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on (state, parent, group, session, ...); empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _kill_member(pid: int, *, session: int) -> None:
    """End a process that outlived its parent, unless the number belongs to somebody else by now."""
    fields = _stat(pid)
    if fields and int(fields[3]) == session:
        os.kill(pid, signal.SIGKILL)


def _memory(pid: int) -> dict[str, int]:
    """Sizes in bytes by their names in /proc/PID/smaps_rollup; empty if the process is gone, or there is no such file."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {name: int(size.split()[0]) * 1024 for name, _, size in (line.partition(":") for line in lines)}


def _occupied_bytes(file: Path) -> int:
    try:
        return file.lstat().st_blocks * 512
    except FileNotFoundError:
        return 0
