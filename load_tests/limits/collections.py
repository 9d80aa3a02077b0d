"""Many small collections: what processes take to make them, and to read each of them, embedded and as a server.

python -m load_tests.limits.collections --collections 10000
"""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from chroma_async import HttpClient, PersistentClient
from chroma_async.client._sync.client import ClientAPI
from chroma_async.errors import ServerUnreachableError
from chroma_async.settings import EngineSettings
from load_tests.servers import LocalServer, our_program

T = TypeVar("T")

ROWS = 10
NDIM = 32
START_SECONDS_MAX = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collections", type=int, default=10_000)
    count: int = parser.parse_args().collections
    with tempfile.TemporaryDirectory(prefix="load-test-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "data"
        client = PersistentClient(path, engine=EngineSettings(durability="off"))  # else fsyncs take most of the time
        _measured(f"make {count} collections of {ROWS}", lambda: _make(client, count))
        _measured("wait until all is applied", lambda: _settle(client, count))
        _measured("read each", lambda: _read(client, count))
        client.close()
        _size(path)

        def opened() -> PersistentClient:
            again = PersistentClient(path)
            again.get_collection(_name(0)).count()
            return again

        client = _measured("open again", opened)
        _measured("read each", lambda: _read(client, count))
        _measured("read each again", lambda: _read(client, count))
        client.close()
        _serve(Path(folder), count)


def _serve(home: Path, count: int) -> None:
    """Read each by HTTP from a server with two workers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    server = LocalServer(our_program(2), home, port)

    def started() -> ClientAPI:
        server.spawn()
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                client = HttpClient(host="127.0.0.1", port=port)
                client.get_collection(_name(0)).count()
            except ServerUnreachableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return client

    try:
        client = _measured("start a server", started, server)
        _measured("read each", lambda: _read(client, count), server)
        _measured("read each again", lambda: _read(client, count), server)
        client.close()
    finally:
        server.stop()


def _measured(what: str, work: Callable[[], T], server: LocalServer | None = None) -> T:
    """Do it, and print what it took, and what each process holds afterwards: this one, or those of a server."""
    begin = time.perf_counter()
    done = work()
    seconds = time.perf_counter() - begin
    pids = [os.getpid()] if server is None else server.pids()
    held = ", ".join(f"{_resident(pid) / 2**20:.0f} MiB and {_descriptors(pid)} descriptors" for pid in pids)
    print(f"{what}: {seconds:.1f} s; {held}", flush=True)
    return done


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _name(number: int) -> str:
    return f"collection-{number}"


def _rows(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((ROWS, NDIM)).astype(np.float32)


def _make(client: ClientAPI, count: int) -> None:
    for number in range(count):
        collection = client.create_collection(_name(number))
        ids = [f"{number}-{row}" for row in range(ROWS)]
        collection.add(ids=ids, embeddings=_rows(number), documents=ids, metadatas=[{"n": number}] * ROWS)


def _settle(client: ClientAPI, count: int) -> None:
    """Wait until nothing waits to be applied."""
    for number in range(count):
        while client.get_collection(_name(number)).get_indexing_status().num_unindexed_ops:
            time.sleep(0.1)


def _read(client: ClientAPI, count: int) -> None:
    for number in range(count):
        collection = client.get_collection(_name(number))
        found = collection.query(query_embeddings=_rows(number)[3], n_results=1)
        assert found["ids"] == [[f"{number}-3"]], found
        assert collection.count() == ROWS


def _size(path: Path) -> None:
    total = sum(entry.stat().st_blocks * 512 for entry in path.rglob("*") if entry.is_file())
    print(f"on disk: {total / 2**20:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
