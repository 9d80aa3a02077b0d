"""`kill`: a process is killed in the middle of writes, again and again; what was acknowledged is there, once.

Five writers upsert and delete records of their own, four of them over HTTP, one by an embedded client in a process of its
own on the server's directory. Each repeats a batch until it is acknowledged, so that in a pause the history is known to the
last record: what get, query and count say must be equal to it.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from load_tests.acceptance.doors import EmbeddedDoor, HttpDoor, Record
from load_tests.acceptance.family import compactor_of, errors_in, is_alive, members
from load_tests.acceptance.verdict import Verdict
from load_tests.data import Dataset, Floats
from load_tests.errors import RequestFailed
from load_tests.servers import LocalServer, Program, running

Target = Literal["worker", "compactor", "supervisor", "server", "client"]

TARGETS: tuple[Target, ...] = ("worker", "compactor", "supervisor", "server", "client")
RECOVERY_SECONDS_MAX = 20.0
APPLIED_SECONDS_MAX = 30.0

_COLLECTION = "accept-kill"
_HTTP_WRITERS = 4
_WRITERS = _HTTP_WRITERS + 1
_IDS = 400
"""Of each writer. They are written round and round, so that the load does not grow with the rounds."""
_BATCH = 20
_DELETING = 4
"""Every so many batches one deletes; what it deleted is written again in the next round through the ids."""
_PAUSE_SECONDS = 0.05
"""Between two batches of a writer: something is to be killed in the middle, not the processor to be kept busy."""
_BEFORE_SECONDS = (0.1, 0.8)
_POLL_SECONDS = 0.01
_NEAR = 1e-4
_SAMPLE = 4
_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Batch:
    """One write: `rows` of the data and `records` by id, or a deletion of the ids where there are none."""

    ids: list[str]
    rows: list[int]
    records: list[Record]

    @property
    def deletes(self) -> bool:
        return not self.rows


@dataclass(slots=True)
class Ledger:
    """What must be there: row of the data, and record, by id. And how the writers fare."""

    stored: dict[str, tuple[int, Record]] = field(default_factory=dict[str, tuple[int, Record]])
    writes: int = 0
    records: int = 0
    last_sent_at: float = 0.0
    """When the newest request was sent that has been acknowledged."""
    unanswered: int = 0
    parked: int = 0
    """Writers that wait for the pause to end, and have nothing under way."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def acknowledge(self, batch: Batch, sent_at: float) -> None:
        with self.lock:
            self.writes += 1
            self.records += len(batch.ids)
            self.last_sent_at = max(self.last_sent_at, sent_at)
            for key in batch.ids:
                self.stored.pop(key, None)
            self.stored.update(zip(batch.ids, zip(batch.rows, batch.records, strict=True), strict=False))


@dataclass(slots=True)
class Found:
    """What was wrong, added up over all rounds."""

    lost: int = 0
    doubled: int = 0
    others: int = 0
    """Records that should not be there, or are not as they were written."""


class WritingDoor(Protocol):
    """What a writer needs. Errors are `RequestFailed`; the outcome of the write is then unknown."""

    def upsert(self, ids: Sequence[str], vectors: Floats, records: Sequence[Record]) -> None: ...

    def delete(self, ids: Sequence[str]) -> None: ...

    def close(self) -> None:
        """Let go of what broke; the next call begins anew."""
        ...


@dataclass(slots=True)
class _Scene:
    server: LocalServer
    dataset: Dataset
    records_path: str
    verdict: Verdict
    client: ClientDoor
    ledger: Ledger = field(default_factory=Ledger)
    found: Found = field(default_factory=Found)
    go: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)


def accept_kill(program: Program, dataset: Dataset, verdict: Verdict, *, rounds: int, seed: int | None = None) -> None:
    """Write without end, kill something in each round, and compare everything with the history afterwards."""
    seed = random.randrange(10**6) if seed is None else seed
    verdict.facts["seed"] = seed
    dice = random.Random(seed)
    times: dict[str, list[float]] = {}
    with running(program) as server:
        with HttpDoor(server.address) as door:
            path = door.create(_COLLECTION)
        scene = _Scene(server, dataset, path, verdict, ClientDoor(server.directory))
        with _writers(scene):
            for number, target in zip(range(rounds), _targets(dice), strict=False):
                for name, seconds in _round(scene, target, dice, number).items():
                    times.setdefault(f"{target} killed: {name}", []).append(seconds)
        _judge_end(scene)
    _report(scene, times, rounds)


def _report(scene: _Scene, times: dict[str, list[float]], rounds: int) -> None:
    verdict, ledger, found = scene.verdict, scene.ledger, scene.found
    for name, seconds in sorted(times.items()):
        verdict.add(name, max(seconds), "s", at_most=RECOVERY_SECONDS_MAX)
    verdict.add("longest recovery", max(max(seconds) for seconds in times.values()), "s", at_most=RECOVERY_SECONDS_MAX)
    verdict.add("rounds", rounds)
    verdict.add("writes acknowledged", ledger.writes, at_least=rounds)
    verdict.add("records written or deleted by them", ledger.records)
    verdict.add("writes sent again, their answers lost", ledger.unanswered)
    verdict.add("records lost", found.lost, at_most=0)
    verdict.add("records doubled", found.doubled, at_most=0)
    verdict.add("records of other contents, or that should not be there", found.others, at_most=0)


def _targets(dice: random.Random) -> Iterator[Target]:
    """All targets in random order, again and again, none twice in a row: the server gives up children that only die."""
    last: Target | None = None
    while True:
        order = list(TARGETS)
        dice.shuffle(order)
        if order[0] == last:
            order.reverse()
        yield from order
        last = order[-1]


# ---- the embedded client


class ClientDoor:
    """An embedded client in a process of its own; when that was killed, the next call starts another one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: BaseProcess | None = None
        self._pipe: Pipe | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.is_alive() else None

    def upsert(self, ids: Sequence[str], vectors: Floats, records: Sequence[Record]) -> None:
        """See `WritingDoor`."""
        self._call(list(ids), vectors, list(records))

    def delete(self, ids: Sequence[str]) -> None:
        """See `WritingDoor`."""
        self._call(list(ids), None, [])

    def _call(self, ids: list[str], vectors: Floats | None, records: list[Record]) -> None:
        pipe = self._pipe or self._start()
        try:
            pipe.send((ids, vectors, records))
            refusal = pipe.recv()
        except (OSError, EOFError) as error:
            raise RequestFailed(f"the embedded client got no answer. reason={error!r}") from error
        if refusal is not None:
            raise RequestFailed(f"the embedded client was refused: {refusal}")

    def _start(self) -> Pipe:
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve_client, args=(self._directory, theirs), daemon=True)
        self._process.start()
        theirs.close()
        return self._pipe

    def close(self) -> None:
        """End the process if it has not ended."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            self._process.join(RECOVERY_SECONDS_MAX)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process = None


def _serve_client(directory: Path, pipe: Pipe) -> None:
    door = EmbeddedDoor(directory, _COLLECTION)
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            ids, vectors, records = pipe.recv()
            try:
                if vectors is None:
                    door.delete(ids)
                else:
                    door.upsert(ids, vectors, records)
            except Exception as error:  # whatever it is, the writer sends the batch again
                pipe.send(repr(error))
            else:
                pipe.send(None)
    door.close()


# ---- writing


@contextmanager
def _writers(scene: _Scene) -> Generator[None, None, None]:
    """All writers until the block ends."""
    doors: list[WritingDoor] = [_door(scene) for _ in range(_HTTP_WRITERS)]
    doors.append(scene.client)
    threads = [threading.Thread(target=_write, args=(scene, number, door), daemon=True) for number, door in enumerate(doors)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        scene.stop.set()
        scene.go.set()
        for thread in threads:
            thread.join(RECOVERY_SECONDS_MAX)
            scene.verdict.require(not thread.is_alive(), "a writer gets no answer any more")
        for door in doors:
            door.close()


def _write(scene: _Scene, writer: int, door: WritingDoor) -> None:
    number = 0
    while True:
        if not scene.go.is_set():
            with scene.ledger.lock:
                scene.ledger.parked += 1
            scene.go.wait()
            with scene.ledger.lock:
                scene.ledger.parked -= 1
        if scene.stop.is_set():
            return
        batch = _batch(scene.dataset, writer, number)
        sent_at = _until_acknowledged(scene, door, batch)
        scene.ledger.acknowledge(batch, sent_at)
        number += 1
        scene.stop.wait(_PAUSE_SECONDS)


def _until_acknowledged(scene: _Scene, door: WritingDoor, batch: Batch) -> float:
    """Send again and again; return when the request was sent that was answered."""
    while True:
        sent_at = time.monotonic()
        try:
            if batch.deletes:
                door.delete(batch.ids)
            else:
                door.upsert(batch.ids, scene.dataset.vectors[batch.rows], batch.records)
        except RequestFailed:
            with scene.ledger.lock:
                scene.ledger.unanswered += 1
            door.close()
            time.sleep(_POLL_SECONDS)
        else:
            return sent_at


def _batch(dataset: Dataset, writer: int, number: int) -> Batch:
    """The batch of a number. An id comes again so many batches later that no straggler of a killed process meets it."""
    ids = [f"{writer}-{(number * _BATCH + position) % _IDS}" for position in range(_BATCH)]
    if number % _DELETING == _DELETING - 1:
        return Batch(ids, [], [])
    rows = [((number * _BATCH + position) * _WRITERS + writer) % len(dataset) for position in range(_BATCH)]
    records = [Record(f"{key}: {dataset.documents[row]}", {"version": number}) for key, row in zip(ids, rows, strict=True)]
    return Batch(ids, rows, records)


@contextmanager
def _paused(scene: _Scene) -> Generator[None, None, None]:
    """No write is under way, and the outcome of every one is known, until the block ends."""
    scene.go.clear()
    if not _wait(lambda: scene.ledger.parked == _WRITERS, RECOVERY_SECONDS_MAX):
        raise RequestFailed(f"a writer gets no answer any more\n{scene.server.last_words()}")
    yield
    scene.go.set()


# ---- one round


def _round(scene: _Scene, target: Target, dice: random.Random, number: int) -> dict[str, float]:
    """Kill a target while writers are at work; return how many seconds later each part of the whole is back."""
    name = f"round {number}, after kill -9 of the {target}"
    directory, ledger = scene.server.directory, scene.ledger
    _let_them_write(scene, dice.uniform(*_BEFORE_SECONDS))
    killed_at = _kill(scene, target, dice)

    def wait(condition: Callable[[], bool], what: str) -> float:
        if not _wait(condition, RECOVERY_SECONDS_MAX + APPLIED_SECONDS_MAX):
            raise RequestFailed(f"{name}: {what} never came\n{scene.server.last_words()}")
        return time.monotonic() - killed_at

    with _door(scene) as door:
        times = {
            "longest until reads are answered": wait(lambda: _answers(door), "an answer"),
            "longest until writes are acknowledged": wait(lambda: ledger.last_sent_at > killed_at, "an acknowledgement"),
            "longest until somebody compacts": wait(lambda: compactor_of(directory) is not None, "a compactor"),
        }
        with _paused(scene):
            _judge(scene, door, dice, name)
    return times


def _let_them_write(scene: _Scene, seconds: float) -> None:
    scene.go.set()
    before = scene.ledger.writes
    time.sleep(seconds)
    if not _wait(lambda: scene.ledger.writes > before, RECOVERY_SECONDS_MAX):
        raise RequestFailed("nothing is acknowledged any more")


def _wait(condition: Callable[[], bool], seconds_max: float) -> bool:
    deadline = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _door(scene: _Scene) -> HttpDoor:
    return HttpDoor(scene.server.address, scene.records_path)


def _answers(door: HttpDoor) -> bool:
    try:
        door.count()
    except RequestFailed:
        return False
    return True


def _kill(scene: _Scene, target: Target, dice: random.Random) -> float:
    """Kill the target, start the server again when it was the server, and return when it was killed."""
    server = scene.server
    assert server.process is not None
    if target in ("worker", "compactor", "client"):
        if not _wait(lambda: _victims(scene, target, dice) != [], RECOVERY_SECONDS_MAX):
            raise RequestFailed(f"there is no {target} to be killed\n{server.last_words()}")
        killed_at = time.monotonic()
        for pid in _victims(scene, target, dice):
            os.kill(pid, signal.SIGKILL)
        return killed_at
    children = [*members(server, "worker"), *members(server, "compactor")]
    killed_at = time.monotonic()
    os.kill(server.process.pid, signal.SIGKILL)
    for pid in children if target == "server" else []:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.process.wait()
    server.process = None
    _start_again(server, children)
    return killed_at


def _victims(scene: _Scene, target: Target, dice: random.Random) -> list[int]:
    """One process. Who compacts is the holder of the lock, which may be the embedded client."""
    if target == "worker":
        return [dice.choice(workers)] if (workers := members(scene.server, "worker")) else []
    client = scene.client.pid
    if target == "client":
        return [client] if client is not None else []
    holder = compactor_of(scene.server.directory)
    ours = {*members(scene.server, "compactor"), client}
    return [holder] if holder in ours and holder is not None else members(scene.server, "compactor")


def _start_again(server: LocalServer, children: list[int]) -> None:
    """Start the server as soon as the children of the one before have let go of its port, as they do by themselves."""
    if not _wait(lambda: not any(is_alive(pid) for pid in children), RECOVERY_SECONDS_MAX):
        raise RequestFailed(f"children outlive their parent. pids={children}")
    server.spawn()


# ---- what must hold


class ReadingDoor(Protocol):
    """What judging needs."""

    def all(self) -> list[tuple[str, Record]]: ...

    def count(self) -> int: ...

    def vectors(self, ids: Sequence[str]) -> dict[str, Floats]: ...

    def nearest(self, vectors: Floats, count: int) -> list[tuple[list[str], list[float]]]: ...


def _judge(scene: _Scene, door: ReadingDoor, dice: random.Random, name: str) -> None:
    """Get, count and query say what the history says, of every record."""
    stored = scene.ledger.stored
    found = door.all()
    _compare(scene, [key for key, _ in found], f"{name}: get")
    wrong = [key for key, record in found if key in stored and record != stored[key][1]]
    scene.found.others += len(wrong)
    scene.verdict.require(not wrong, f"{name}: records are not as they were written. some={wrong[:3]}")
    count = door.count()
    scene.verdict.require(count == len(stored), f"{name}: the count is {count}, should be {len(stored)}")
    some = dice.sample(sorted(stored), min(_SAMPLE, len(stored)))
    if not some:
        return
    vectors = scene.dataset.vectors[[stored[key][0] for key in some]]
    for key, vector, (ids, distances) in zip(some, vectors, door.nearest(vectors, len(stored) + 1), strict=True):
        _compare(scene, ids, f"{name}: query")
        where = ids.index(key) if key in ids else -1
        near = where >= 0 and distances[where] < _NEAR and distances == sorted(distances)
        scene.verdict.require(near, f"{name}: a query with a record's vector does not say that it is near. id={key!r}")
        same = np.array_equal(door.vectors([key])[key], vector)
        scene.verdict.require(same, f"{name}: a vector is not the one that was written. id={key!r}")


def _compare(scene: _Scene, ids: list[str], name: str) -> None:
    stored, there = scene.ledger.stored, Counter(ids)
    lost, others = stored.keys() - there.keys(), there.keys() - stored.keys()
    doubled = [key for key, times in there.items() if times > 1]
    scene.found.lost += len(lost)
    scene.found.doubled += len(doubled)
    scene.found.others += len(others)
    require = scene.verdict.require
    require(not lost, f"{name}: acknowledged records are lost. records={len(lost)} some={sorted(lost)[:3]}")
    require(not doubled, f"{name}: records are there twice. records={len(doubled)} some={doubled[:3]}")
    require(not others, f"{name}: records should not be there. records={len(others)} some={sorted(others)[:3]}")


def _judge_end(scene: _Scene) -> None:
    """At the end a worker and an embedded engine say the same, now that everything is applied."""
    dice = random.Random(len(scene.ledger.stored))
    embedded = EmbeddedDoor(scene.server.directory, _COLLECTION)
    with _door(scene) as door:
        applied = _wait(lambda: door.status()[1] == 0, APPLIED_SECONDS_MAX)
        scene.verdict.require(applied, "at the end, entries are not applied in time")
        _judge(scene, door, dice, "at the end, a worker")
        _judge(scene, embedded, dice, "at the end, an embedded engine")
    vectors, expected = embedded.vectors(list(scene.ledger.stored)), scene.ledger.stored
    wrong = [
        key
        for key in expected
        if key not in vectors or not np.array_equal(vectors[key], scene.dataset.vectors[expected[key][0]])
    ]
    scene.verdict.require(not wrong, f"at the end, vectors are not those that were written. some={wrong[:3]}")
    embedded.close()
    for line in errors_in(scene.server):
        scene.verdict.violations.append(f"the server's log has an error: {line[:300]}")
