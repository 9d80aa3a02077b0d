"""Many small collections: what one process takes to make them, and to read each of them, embedded or as a server.

python -m load_tests.limits.collections --collections 10000
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from chroma_async import PersistentClient
from chroma_async.client._sync.client import ClientAPI
from chroma_async.settings import EngineSettings

T = TypeVar("T")

ROWS = 10
NDIM = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collections", type=int, default=10_000)
    count: int = parser.parse_args().collections
    with tempfile.TemporaryDirectory(prefix="load-test-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "data"
        client = PersistentClient(path, engine=EngineSettings(durability="off"))  # else fsyncs take most of the time
        _measured(f"make {count} collections of {ROWS}", lambda: _make(client, count))
        _measured("wait until all is applied", lambda: _settle(path))
        _measured("read each", lambda: _read(client, count))
        client.close()
        _size(path)

        def opened() -> ClientAPI:
            again = PersistentClient(path)
            again.heartbeat()
            return again

        client = _measured("open again", opened)
        _measured("read each", lambda: _read(client, count))
        _measured("read each again", lambda: _read(client, count))
        client.close()


def _measured(what: str, work: Callable[[], T]) -> T:
    begin = time.perf_counter()
    done = work()
    seconds = time.perf_counter() - begin
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    descriptors = len(os.listdir("/proc/self/fd"))
    print(f"{what}: {seconds:.1f} s, {memory:.0f} MiB resident, {descriptors} file descriptors", flush=True)
    return done


def _name(number: int) -> str:
    return f"collection-{number}"


def _rows(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((ROWS, NDIM)).astype(np.float32)


def _make(client: ClientAPI, count: int) -> None:
    for number in range(count):
        collection = client.create_collection(_name(number))
        ids = [f"{number}-{row}" for row in range(ROWS)]
        collection.add(ids=ids, embeddings=_rows(number), documents=ids, metadatas=[{"n": number}] * ROWS)


def _settle(path: Path) -> None:
    """Wait until nothing has changed below the collections for two seconds."""
    quiet = time.monotonic()
    before = -1
    while time.monotonic() - quiet < 2:
        found = len(os.listdir(path / "collections"))
        if found != before:
            before, quiet = found, time.monotonic()
        time.sleep(0.2)


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
