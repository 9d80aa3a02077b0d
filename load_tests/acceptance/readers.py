"""Processes beside an ingest: readers with a timetable, and an embedded engine that looks for what was acknowledged."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from load_tests.acceptance.doors import EmbeddedDoor, HttpDoor, Record
from load_tests.data import Floats
from load_tests.errors import RequestFailed
from load_tests.generator import Address

_INTERVAL_SECONDS = 0.05
_END_SECONDS_MAX = 60.0
_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(slots=True)
class Reading:
    """What readers saw: seconds from when a query was due to its answer, and what was wrong."""

    seconds: list[float] = field(default_factory=list[float])
    violations: list[str] = field(default_factory=list[str])


@contextmanager
def readers(address: Address, records_path: str, queries: Floats, count: int) -> Generator[Reading, None, None]:
    """Query from `count` connections of another process, 20 times a second each; the reading is complete at the end."""
    reading = Reading()
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_read, args=(theirs, address, records_path, queries, count), daemon=True)
    process.start()
    try:
        yield reading
        ours.send(None)
        if not ours.poll(_END_SECONDS_MAX):
            raise RequestFailed("the readers do not come to an end")
        seen: Reading = ours.recv()
        reading.seconds.extend(seen.seconds)
        reading.violations.extend(seen.violations)
        process.join(_END_SECONDS_MAX)
    finally:
        process.kill()
        process.join()


def _read(pipe: Pipe, address: Address, records_path: str, queries: Floats, count: int) -> None:
    reading, stop = Reading(), threading.Event()
    bodies = [_query_body(query) for query in queries]
    threads = [
        threading.Thread(target=_read_until, args=(stop, HttpDoor(address, records_path), bodies, number, reading))
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    pipe.recv()
    stop.set()
    for thread in threads:
        thread.join()
    pipe.send(reading)


def _query_body(query: Floats) -> bytes:
    include = ["documents", "metadatas", "distances"]
    return orjson.dumps({"query_embeddings": [query.tolist()], "n_results": 10, "include": include})


def _read_until(stop: threading.Event, door: HttpDoor, bodies: Sequence[bytes], first: int, reading: Reading) -> None:
    due, number, least = time.monotonic(), first * len(bodies) // 2, 0
    while not stop.is_set():
        try:
            answer = door.call("POST", f"{door.records_path}/query", bodies[number % len(bodies)])
            reading.seconds.append(time.monotonic() - due)
            least = _check(answer, least, reading)
        except RequestFailed as error:
            reading.violations.append(f"a query during the ingest failed: {error}")
            return
        number += 1
        due = max(due + _INTERVAL_SECONDS, time.monotonic())
        stop.wait(max(0.0, due - time.monotonic()))


def _check(answer: Any, least: int, reading: Reading) -> int:
    """Check one answer while nothing is ever deleted; return how many results the next one must have at least."""
    ids, distances = answer["ids"][0], answer["distances"][0]
    if len(set(ids)) != len(ids):
        reading.violations.append(f"a query returned an id twice. ids={ids}")
    if len(ids) < least:
        reading.violations.append(f"a query returned fewer results than one before it. results={len(ids)} before={least}")
    if any(later < earlier for earlier, later in itertools.pairwise(distances)):
        reading.violations.append(f"a query's distances are not in order. distances={distances}")
    if None in answer["documents"][0]:
        reading.violations.append(f"a query returned a record without its document. ids={ids}")
    return max(least, len(ids))


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """An acknowledged batch, as it must be found."""

    ids: list[str]
    records: list[Record]
    vectors: Floats


class EmbeddedWitness:
    """An embedded engine in another process on the same directory: it reads batches as soon as it is told of them."""

    def __init__(self, directory: Path, collection: str) -> None:
        self._told: Queue[Batch | None] = _CONTEXT.Queue()
        self._ours, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_witness, args=(self._told, theirs, directory, collection), daemon=True)
        self._process.start()
        if not self._ours.poll(_END_SECONDS_MAX):
            raise RequestFailed("the embedded engine did not open the directory")
        self._ours.recv()

    def tell(self, batch: Batch) -> None:
        """Let it look for a batch."""
        self._told.put(batch)

    def finish(self) -> tuple[int, int, list[str]]:
        """Number of batches looked for, the collection's count, and violations."""
        self._told.put(None)
        try:
            if not self._ours.poll(_END_SECONDS_MAX):
                raise RequestFailed("the embedded engine does not come to an end")
            result: tuple[int, int, list[str]] = self._ours.recv()
            self._process.join(_END_SECONDS_MAX)
            return result
        finally:
            self._process.kill()
            self._process.join()


def _witness(told: Queue[Batch | None], pipe: Pipe, directory: Path, collection: str) -> None:
    door = EmbeddedDoor(directory, collection)
    violations: list[str] = []
    checked = 0
    pipe.send(True)
    while (batch := told.get()) is not None:
        violations += missing(batch, door.get(batch.ids), "an embedded engine")
        found = door.vectors(batch.ids)
        expected = zip(batch.ids, batch.vectors, strict=True)
        if any(key not in found or not np.array_equal(found[key], vector) for key, vector in expected):
            violations.append(f"an embedded engine reads other vectors than were acknowledged. first={batch.ids[0]!r}")
        checked += 1
    pipe.send((checked, door.count(), violations))
    door.close()


def missing(batch: Batch, found: dict[str, Record], reader: str) -> list[str]:
    """What a read that began after the acknowledgement of a batch does not show of it."""
    expected = dict(zip(batch.ids, batch.records, strict=True))
    wrong = [key for key, record in expected.items() if found.get(key) != record]
    return [f"{reader} does not see what was acknowledged. records={len(wrong)} first={wrong[0]!r}"] if wrong else []
