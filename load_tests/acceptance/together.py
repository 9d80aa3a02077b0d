"""`together`: two workers, an embedded engine and the command line use one directory at once, and agree at the end."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Final, Protocol, cast

import numpy as np

from load_tests.acceptance.doors import CommandDoor, Door, EmbeddedDoor, HttpDoor, Record, door_of_each_worker
from load_tests.acceptance.family import errors_in, members, who_answers
from load_tests.acceptance.verdict import Verdict
from load_tests.data import Dataset
from load_tests.errors import LoadTestError, RequestFailed
from load_tests.generator import Address
from load_tests.servers import LocalServer, Program, running

NAMES: Final = ("worker 1", "worker 2", "embedded", "command line")

_COLLECTION = "accept-together"
_BATCH = 20
_TOLD = 3
"""New records of each batch that the others are told of; these are never changed."""
_END_SECONDS_MAX = 180.0
_SAMPLE = 100
_NEAR = 1e-4
_CONTEXT = multiprocessing.get_context("spawn")


class ChangingDoor(Door, Protocol):
    """A door that can also change and delete."""

    def upsert(self, ids: Sequence[str], vectors: np.ndarray, records: Sequence[Record]) -> None:
        """Write records whether they exist or not."""
        ...

    def update(self, ids: Sequence[str], vectors: np.ndarray, records: Sequence[Record]) -> None:
        """Change documents and metadata of records, whose vectors these are."""
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Delete records."""
        ...

    def nearest(self, vectors: np.ndarray, count: int) -> list[tuple[list[str], list[float]]]:
        """Ids and distances of the nearest records of each vector."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as its writer knows it, and the row of the data that its vector is."""

    row: int
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a participant's process needs. The shared files are loaded there: nothing large is sent."""

    name: str
    number: int
    directory: Path
    data_file: Path
    address: Address
    records_path: str
    worker: int | None
    """Process id of the worker to write to; None for those who open the directory themselves."""
    server_port: int
    seconds: float
    seed: int


@dataclass(slots=True)
class Outcome:
    """What a participant did and saw."""

    name: str
    state: dict[str, Stored] = field(default_factory=dict[str, Stored])
    deleted: set[str] = field(default_factory=set[str])
    writes: Counter[str] = field(default_factory=Counter[str])
    reads: int = 0
    seen_of_others: int = 0
    violations: list[str] = field(default_factory=list[str])


def accept_together(
    program: Program, dataset: Dataset, verdict: Verdict, *, seconds: float, seed: int | None = None
) -> None:
    """Let four kinds of process write and read for a while, then compare what each of them sees with all histories."""
    seed = random.randrange(10**6) if seed is None else seed
    verdict.facts["seed"] = seed
    with running(program) as server:
        with HttpDoor(server.address) as door:
            path = door.create(_COLLECTION)
        data_file = server.home / "vectors.npy"
        np.save(data_file, dataset.vectors)
        outcomes = _run_all(server, path, data_file, seconds, seed)
        _judge(server, path, dataset, outcomes, verdict)
        for line in errors_in(server):
            verdict.violations.append(f"the server's log has an error: {line[:300]}")


# ---- participants


def _run_all(server: LocalServer, path: str, data_file: Path, seconds: float, seed: int) -> list[Outcome]:
    workers = members(server, "worker")
    queues: list[Queue[dict[str, Record]]] = [_CONTEXT.Queue() for _ in NAMES]
    started: list[tuple[BaseProcess, Pipe]] = []
    try:
        for number, name in enumerate(NAMES):
            orders = Orders(
                name=name,
                number=number,
                directory=server.directory,
                data_file=data_file,
                address=server.address,
                records_path=path,
                worker=workers[number] if number < len(workers) and name.startswith("worker") else None,
                server_port=server.port,
                seconds=seconds,
                seed=seed + number,
            )
            ours, theirs = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=_participate, args=(orders, theirs, queues), daemon=True)
            process.start()
            started.append((process, ours))
        for _, pipe in started:
            _receive(pipe)
        for _, pipe in started:
            pipe.send(None)
        return [_receive(pipe, seconds) for _, pipe in started]
    finally:
        for begun, _ in started:
            begun.kill()
            begun.join()


def _receive(pipe: Pipe, seconds: float = 0.0) -> Outcome:
    if not pipe.poll(seconds + _END_SECONDS_MAX):
        raise RequestFailed("a participant does not come to an end")
    outcome: Outcome = pipe.recv()
    return outcome


def _participate(orders: Orders, pipe: Pipe, queues: list[Queue[dict[str, Record]]]) -> None:
    vectors = np.load(orders.data_file, mmap_mode="r")
    participant = _Participant(orders, _open(orders), vectors, queues)
    pipe.send(participant.outcome)
    pipe.recv()
    deadline = time.monotonic() + orders.seconds
    try:
        while time.monotonic() < deadline:
            participant.step()
    except LoadTestError as error:
        participant.outcome.violations.append(f"{orders.name}: {error}")
    except Exception as error:  # whatever a client raises is a broken promise, to be reported with the rest
        participant.outcome.violations.append(f"{orders.name}: {type(error).__name__}: {error}")
    pipe.send(participant.outcome)
    for queue in queues:
        queue.cancel_join_thread()


def _open(orders: Orders) -> Door:
    if orders.name == "embedded":
        return EmbeddedDoor(orders.directory, _COLLECTION)
    if orders.name == "command line":
        return CommandDoor(orders.directory, _COLLECTION)
    while True:
        door = HttpDoor(orders.address, orders.records_path)
        door.count()
        if who_answers(orders.server_port, [orders.worker or 0], door.local_port) is not None:
            return door
        door.close()


class _Participant:
    """Writes records of its own, reads them back at once, and reads what others told it of."""

    def __init__(self, orders: Orders, door: Door, vectors: np.ndarray, queues: list[Queue[dict[str, Record]]]) -> None:
        self._orders = orders
        self._door = door
        self._vectors = vectors
        self._told = queues[orders.number]
        self._others = [queue for number, queue in enumerate(queues) if number != orders.number]
        self._dice = random.Random(orders.seed)
        self._next = 0
        self._kept: set[str] = set()
        self.outcome = Outcome(orders.name)

    def step(self) -> None:
        """Write something, then read."""
        if isinstance(self._door, CommandDoor):
            self._add(1)
        else:
            self._change(cast(ChangingDoor, self._door))
        self._read()
        count = self._door.count()
        if count < len(self.outcome.state):
            self._complain(f"the count is less than what this process alone has written. count={count}")
        self.outcome.reads += 2

    def _change(self, door: ChangingDoor) -> None:
        state, dice = self.outcome.state, self._dice
        changeable = sorted(state.keys() - self._kept)
        kind = dice.choice(["add", "add", "upsert", "update", "delete"]) if len(changeable) > _BATCH else "add"
        if kind == "add":
            self._add(_BATCH)
            return
        ids = dice.sample(changeable, _BATCH // 2)
        rows = [self._any_row() if kind == "upsert" else state[key].row for key in ids]
        records = [self._new_record(key) for key in ids]
        if kind == "upsert":
            door.upsert(ids, self._vectors[rows], records)
        elif kind == "update":
            door.update(ids, self._vectors[rows], records)
        else:
            door.delete(ids)
        self.outcome.writes[kind] += len(ids)
        for key, row, record in zip(ids, rows, records, strict=True):
            if kind == "delete":
                del state[key]
                self.outcome.deleted.add(key)
            else:
                state[key] = Stored(row, record)

    def _add(self, count: int) -> None:
        ids = [f"{self._orders.number}-{self._next + number}" for number in range(count)]
        self._next += count
        rows = [self._any_row() for _ in ids]
        records = [self._new_record(key) for key in ids]
        self._door.add(ids, self._vectors[rows], records)
        self.outcome.writes["add"] += count
        added = {key: Stored(row, record) for key, row, record in zip(ids, rows, records, strict=True)}
        self.outcome.state.update(added)
        told = {key: added[key].record for key in ids[:_TOLD]}
        self._kept.update(told)
        for queue in self._others:
            queue.put(told)

    def _any_row(self) -> int:
        """A row that no other participant uses."""
        share = len(self._vectors) // len(NAMES)
        return self._dice.randrange(share) * len(NAMES) + self._orders.number

    def _new_record(self, key: str) -> Record:
        version = self._dice.randrange(10**9)
        return Record(f"{key} in version {version}", {"writer": self._orders.number, "version": version})

    def _read(self) -> None:
        """Read some own records, some deleted ones and all that others told of, in one call."""
        told = self._hear()
        state, deleted = self.outcome.state, sorted(self.outcome.deleted)
        own = self._dice.sample(sorted(state), min(len(state), 2 * _BATCH))
        gone = self._dice.sample(deleted, min(len(deleted), _BATCH))
        found = self._door.get([*own, *gone, *told])
        wrong = [key for key in own if found.get(key) != state[key].record]
        risen = sorted(found.keys() & set(gone))
        unseen = [key for key, record in told.items() if found.get(key) != record]
        self.outcome.seen_of_others += len(told)
        if wrong:
            self._complain(f"own records are not as they were written. records={len(wrong)} first={wrong[0]!r}")
        if risen:
            self._complain(f"deleted records are back. ids={risen[:3]}")
        if unseen:
            self._complain(f"acknowledged records of others are not seen. records={len(unseen)} first={unseen[0]!r}")

    def _hear(self) -> dict[str, Record]:
        """What others have told of since the last time."""
        told: dict[str, Record] = {}
        try:
            while True:
                told.update(self._told.get_nowait())
        except Empty:
            return told

    def _complain(self, message: str) -> None:
        self.outcome.violations.append(f"{self._orders.name}: {message}")


# ---- the end


def _judge(server: LocalServer, path: str, dataset: Dataset, outcomes: list[Outcome], verdict: Verdict) -> None:
    expected: dict[str, Stored] = {}
    for outcome in outcomes:
        expected |= outcome.state
        verdict.violations.extend(outcome.violations)
        verdict.add(f"{outcome.name}: records written or deleted", outcome.writes.total(), at_least=1)
        verdict.add(f"{outcome.name}: reads", outcome.reads)
        verdict.add(f"{outcome.name}: records of others seen at once", outcome.seen_of_others, at_least=1)
    verdict.add("records at the end", len(expected), at_least=len(outcomes))
    doors = door_of_each_worker(server, path)
    embedded = EmbeddedDoor(server.directory, _COLLECTION)
    for pid, door in doors.items():
        _judge_view(f"worker {pid}", door, expected, verdict)
        _judge_nearest(f"worker {pid}", door, expected, dataset, verdict)
    _judge_view("a new embedded engine", embedded, expected, verdict)
    _judge_nearest("a new embedded engine", embedded, expected, dataset, verdict)
    _judge_view("the command line", CommandDoor(server.directory, _COLLECTION), expected, verdict)
    embedded.close()


def _judge_view(name: str, door: Door, expected: dict[str, Stored], verdict: Verdict) -> None:
    """Everything is there once and as it was written last, and the count says so too."""
    found, count = door.all(), door.count()
    ids = [key for key, _ in found]
    lost, unknown = expected.keys() - set(ids), set(ids) - expected.keys()
    verdict.require(not lost, f"{name} has lost records. records={len(lost)} some={sorted(lost)[:3]}")
    verdict.require(not unknown, f"{name} has records that should not be. records={len(unknown)} some={sorted(unknown)[:3]}")
    verdict.require(len(ids) == len(set(ids)), f"{name} has records twice. records={len(ids) - len(set(ids))}")
    verdict.require(count == len(expected), f"{name} counts wrongly. count={count} records={len(expected)}")
    wrong = [key for key, record in found if key in expected and record != expected[key].record]
    verdict.require(not wrong, f"{name} has records of other contents. records={len(wrong)} some={wrong[:3]}")


def _judge_nearest(name: str, door: ChangingDoor, expected: dict[str, Stored], dataset: Dataset, verdict: Verdict) -> None:
    """A record is among the ten nearest of its own vector, unless ten others have the very same one."""
    for key in list(expected)[:: max(1, len(expected) // _SAMPLE)]:
        vector = dataset.vectors[expected[key].row]
        ids, distances = door.nearest(vector[None, :], 10)[0]
        whole = len(ids) == len(set(ids)) == min(10, len(expected))
        found = key in ids or distances[-1] < _NEAR
        verdict.require(
            whole and found, f"{name}: a query with a record's vector misses it. id={key!r} got={ids} {distances}"
        )
