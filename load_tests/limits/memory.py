"""Less memory than data: the same requests with all of the machine's memory, and within less, page cache included.

python -m load_tests.limits.memory --data ../shared/data --records 1000000 --mib 1000

The server is put into a control group of its own, so this is for root on Linux. Before each turn what the system has
of the data directory in memory is dropped. `--chroma-bin` measures Chroma's server in the same way, for which 200,000
records or less take long enough.
"""

from __future__ import annotations

import argparse
import http.client
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from load_tests import bodies, machine
from load_tests.api import Api
from load_tests.bench import N_RESULTS
from load_tests.data import FILTERS, Dataset, load
from load_tests.errors import LoadTestError, RequestFailed, Unavailable
from load_tests.growth import Supply
from load_tests.servers import LocalServer, our_program, peer_program, running

GROUPS: Final = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
"""Where control groups of memory are made, of version 1 and of version 2."""

BASE_RECORDS_MAX: Final = 50_000
CHUNK: Final = 10_000
BATCH: Final = 500
BUSY: Final = frozenset({429, 503})
QUIET_SECONDS: Final = 3.0
EXIT_SECONDS: Final = 2.0
"""For a server that has closed its connections to be seen to have ended."""

FIRST_ANSWER_SECONDS: Final = 120.0
MEBIBYTE: Final = 2**20


@dataclass(frozen=True, slots=True)
class Group:
    """A control group: no process in it gets more memory, together with its pages of files, than the group may have."""

    folder: Path

    @property
    def is_first_version(self) -> bool:
        return (self.folder / "memory.limit_in_bytes").exists()

    def limit(self, mib: int | None) -> None:
        """Set the limit; None: none."""
        if self.is_first_version:
            (self.folder / "memory.limit_in_bytes").write_text("-1" if mib is None else str(mib * MEBIBYTE))
        else:
            (self.folder / "memory.max").write_text("max" if mib is None else str(mib * MEBIBYTE))

    def take(self, pid: int) -> None:
        """Take a process, and all that it begins from now on."""
        (self.folder / "cgroup.procs").write_text(str(pid))


@contextmanager
def group() -> Iterator[Group]:
    """A control group of this process, gone after use.

    Raises:
        Unavailable: none can be made.
    """
    place = next((place for place in GROUPS if _has_memory(place)), None)
    if place is None:
        raise Unavailable("no control groups of memory are here: this is for Linux, where they are mounted")
    folder = place / f"load-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        raise Unavailable(f"no control group can be made, which is for root. path={folder} reason={error}") from error
    try:
        if not any((folder / name).exists() for name in ("memory.max", "memory.limit_in_bytes")):
            raise Unavailable(f"memory can't be limited here: it is not in {place}/cgroup.subtree_control")
        yield Group(folder)
    finally:
        folder.rmdir()


def _has_memory(place: Path) -> bool:
    if place.name == "memory":
        return place.is_dir()
    controllers = place / "cgroup.controllers"
    return controllers.exists() and "memory" in controllers.read_text().split()


@dataclass(frozen=True, slots=True)
class Work:
    """Requests of one kind; `body` gives that of a number."""

    name: str
    route: str
    body: Callable[[int], bytes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--mib", type=int, action="append", help="a limit; may be repeated (1000)")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each kind of request, twice")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--chroma-bin", type=Path)
    options = parser.parse_args()
    programs = [our_program(options.workers)]
    if options.chroma_bin is not None:
        peer = peer_program(options.chroma_bin)
        assert peer is not None
        programs.append(peer)
    try:
        dataset = load(options.data, min(options.records, BASE_RECORDS_MAX))
        for key, value in machine.describe().items():
            print(f"{key:10} {value}")
        for program in programs:
            with group() as confined, running(program) as server:
                measure(server, confined, dataset, options.records, [None, *(options.mib or [1000])], options.seconds)
    except LoadTestError as error:
        raise SystemExit(str(error)) from error


def measure(
    server: LocalServer, confined: Group, base: Dataset, records: int, limits: list[int | None], seconds: float
) -> None:
    """Fill a server, then ask it within each limit, and print what that took."""
    api = Api(server.address)
    path = api.create_collection("load-test-memory")
    _fill(api, path, Supply(base), records)
    _settle(server, api, path)
    print(f"{server.label}: {records:,} records, {server.disk_bytes() / MEBIBYTE:,.0f} MiB on disk")
    works = _works(base, records)
    for mib in limits:
        server.stop()
        _forget(server.directory)
        confined.limit(mib)
        server.spawn()
        assert server.process is not None
        confined.take(server.process.pid)
        started = time.perf_counter()
        within = "no limit" if mib is None else f"{mib} MiB"
        try:
            api.first_answer(f"{path}/query", works[0].body(0), FIRST_ANSWER_SECONDS)
            print(f"{within}: first answer after {time.perf_counter() - started:.1f} s")
            for name in ("first", "second"):
                for work in works:
                    print(f"  {name} time, {work.name:12} {_asked(api, path, work, seconds)}")
        except (ConnectionError, LoadTestError):
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(EXIT_SECONDS)
            if server.process.returncode is None:
                raise
            print(f"{within}: the system has ended the server")
    server.stop()


def _fill(api: Api, path: str, supply: Supply, records: int) -> None:
    with closing(http.client.HTTPConnection(api.address.host, api.address.port)) as connection:
        for first in range(0, records, CHUNK):
            for body in bodies.ingest_batches(supply.part(first, min(CHUNK, records - first)), BATCH):
                while (status := _post(connection, f"{path}/add", body)) in BUSY:
                    time.sleep(0.2)
                if status >= 300:
                    raise RequestFailed(f"records were refused. status={status}")


def _settle(server: LocalServer, api: Api, path: str) -> None:
    """Wait until all is indexed and the server has nothing left to do."""
    busy = QUIET_SECONDS
    while busy > 0.1 * QUIET_SECONDS or api.unindexed(path):
        before = server.cpu_seconds()
        time.sleep(QUIET_SECONDS)
        busy = server.cpu_seconds() - before


def _forget(directory: Path) -> None:
    """Let the system drop what it has of a directory's files in memory."""
    for root, _, names in os.walk(directory):
        for name in names:
            descriptor = os.open(Path(root) / name, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _works(base: Dataset, records: int) -> list[Work]:
    rare, random = FILTERS["1 %"], np.random.default_rng(3)
    rows = random.integers(records, size=(len(base.queries), N_RESULTS))

    def query(number: int) -> bytes:
        return bodies.query(base, number % len(base.queries), N_RESULTS)

    def filtered(number: int) -> bytes:
        return bodies.query(base, number % len(base.queries), N_RESULTS, where=rare.where(number))

    def get(number: int) -> bytes:
        return bodies.get(ids=[f"record-{row}" for row in rows[number % len(rows)].tolist()])

    return [Work("query", "query", query), Work("filter 1 %", "query", filtered), Work("get 10 ids", "get", get)]


def _asked(api: Api, path: str, work: Work, seconds: float) -> str:
    """Ask for so long on one connection, one request after another."""
    took: list[float] = []
    with closing(http.client.HTTPConnection(api.address.host, api.address.port)) as connection:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            body = work.body(len(took))
            started = time.perf_counter()
            status = _post(connection, f"{path}/{work.route}", body)
            took.append(time.perf_counter() - started)
            if status != 200:
                raise RequestFailed(f"{work.name} was refused. status={status}")
    p50, p99 = np.percentile(took, [50, 99]) * 1000
    return f"p50 {p50:8.2f} ms  p99 {p99:8.2f} ms  {len(took) / sum(took):8,.0f} /s"


def _post(connection: http.client.HTTPConnection, route: str, body: bytes) -> int:
    connection.request("POST", route, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


if __name__ == "__main__":
    main()
