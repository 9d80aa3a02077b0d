"""Churn: the same ids written again and again, and what the data directory takes in the end, against one that never churned.

python -m load_tests.limits.churn --ids 10000 --rounds 100
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from chroma_async import PersistentClient
from chroma_async.client._sync.client import ClientAPI
from chroma_async.settings import EngineSettings

NDIM: Final = 64
BATCH: Final = 1_000
SETTLE_SECONDS: Final = 4.0
"""Journals are emptied when nothing was applied for a second or two."""
SETTINGS: Final = EngineSettings(durability="off")  # as many bytes, and fewer fsyncs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="load-test-", ignore_cleanup_errors=True) as folder:
        live = churned_bytes(Path(folder) / "live", options.ids, 1)
        begin = time.perf_counter()
        churned = churned_bytes(Path(folder) / "churned", options.ids, options.rounds)
    seconds = time.perf_counter() - begin
    written = options.ids * options.rounds
    print(f"written once: {live / 2**20:.1f} MiB; {options.rounds} times: {churned / 2**20:.1f} MiB, {churned / live:.2f} x")
    print(f"{written} records in {seconds:.0f} s")


def churned_bytes(path: Path, ids: int, rounds: int) -> int:
    """Return the bytes that a directory takes after each of the ids was written so often, and all was applied."""
    client = PersistentClient(path, engine=SETTINGS)
    client.create_collection("churn")
    for number in range(rounds):
        write_round(client, ids, number)
    settled_bytes = _settle(client, path)
    assert client.get_collection("churn").count() == ids
    client.close()
    return settled_bytes


def write_round(client: ClientAPI, ids: int, number: int) -> None:
    """Write every id; every second round deletes it before, so that it becomes another record."""
    collection = client.get_collection("churn")
    random = np.random.default_rng(number)
    for first in range(0, ids, BATCH):
        names = [f"id-{row}" for row in range(first, min(first + BATCH, ids))]
        if number % 2:
            collection.delete(ids=names)
        collection.upsert(
            ids=names,
            embeddings=random.standard_normal((len(names), NDIM)).astype(np.float32),
            documents=[f"round {number} of {name}: {random.integers(10**12)}" for name in names],
            metadatas=[{"round": number, "tag": f"{name}-{number}"} for name in names],
        )


def _settle(client: ClientAPI, path: Path) -> int:
    """Wait until nothing waits and the directory keeps its size for some seconds; return that."""
    size, since = -1, time.monotonic()
    while time.monotonic() - since < SETTLE_SECONDS:
        waits = client.get_collection("churn").get_indexing_status().num_unindexed_ops
        found = directory_bytes(path)
        if waits or found != size:
            size, since = found, time.monotonic()
        time.sleep(0.1)
    return size


def directory_bytes(path: Path) -> int:
    """Bytes that the files of a directory take on the disk."""
    total = 0
    for entry in path.rglob("*"):
        try:
            total += entry.stat().st_blocks * 512 if entry.is_file() else 0
        except FileNotFoundError:
            continue  # removed just now
    return total


if __name__ == "__main__":
    main()
