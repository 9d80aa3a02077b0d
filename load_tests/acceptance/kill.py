"""`kill`: the server, or a part of it, is killed in the middle of an ingest; nothing acknowledged is lost or doubled."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np

from load_tests.acceptance.doors import EmbeddedDoor, HttpDoor, Record
from load_tests.acceptance.family import compactor_of, errors_in, is_alive, members
from load_tests.acceptance.verdict import Verdict
from load_tests.data import Dataset
from load_tests.errors import RequestFailed
from load_tests.servers import LocalServer, Program, running

Target = Literal["worker", "compactor", "supervisor", "server"]

TARGETS: tuple[Target, ...] = ("worker", "compactor", "supervisor", "server")
RECOVERY_SECONDS_MAX = 20.0
APPLIED_SECONDS_MAX = 30.0

_COLLECTION = "accept-kill"
_WRITERS = 4
_BATCH = 50
_PAUSE_SECONDS = 0.1
"""Between two batches of a writer: the server is to be killed in the middle, not the processor to be kept busy."""
_BEFORE_SECONDS = (0.3, 1.5)
_POLL_SECONDS = 0.01


@dataclass(slots=True)
class Ledger:
    """What was sent, and what was acknowledged: rows of the data by id."""

    sent: dict[str, int] = field(default_factory=dict[str, int])
    acknowledged: dict[str, int] = field(default_factory=dict[str, int])
    last_sent_at: float = 0.0
    """When the newest request was sent that has been acknowledged."""
    unanswered: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def snapshot(self) -> dict[str, int]:
        """What is acknowledged now."""
        with self.lock:
            return dict(self.acknowledged)


@dataclass(frozen=True, slots=True)
class _Scene:
    server: LocalServer
    dataset: Dataset
    records_path: str
    ledger: Ledger
    verdict: Verdict


def accept_kill(program: Program, dataset: Dataset, verdict: Verdict, *, rounds: int, seed: int | None = None) -> None:
    """Ingest without end, kill something in each round, and look for every acknowledged record afterwards."""
    seed = random.randrange(10**6) if seed is None else seed
    verdict.facts["seed"] = seed
    dice = random.Random(seed)
    times: dict[str, list[float]] = {}
    with running(program) as server:
        with HttpDoor(server.address) as door:
            path = door.create(_COLLECTION)
        scene = _Scene(server, dataset, path, Ledger(), verdict)
        with _writers(scene):
            for number, target in zip(range(rounds), _targets(dice), strict=False):
                for name, seconds in _round(scene, target, dice, number).items():
                    times.setdefault(f"{target} killed: {name}", []).append(seconds)
        _judge_end(scene)
    for name, seconds_of_rounds in sorted(times.items()):
        limit = APPLIED_SECONDS_MAX if "applied" in name else RECOVERY_SECONDS_MAX
        verdict.add(name, max(seconds_of_rounds), "s", at_most=limit)
    verdict.add("rounds", rounds)
    verdict.add("records acknowledged", len(scene.ledger.acknowledged), at_least=rounds * _BATCH)
    verdict.add("batches sent again, their answers lost", scene.ledger.unanswered)


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


# ---- writing


@contextmanager
def _writers(scene: _Scene) -> Generator[None, None, None]:
    """Four writers until the block ends; each repeats a batch until it is acknowledged."""
    stop = threading.Event()
    threads = [threading.Thread(target=_write, args=(scene, number, stop), daemon=True) for number in range(_WRITERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(RECOVERY_SECONDS_MAX)
            scene.verdict.require(not thread.is_alive(), "a writer gets no answer any more")


def _write(scene: _Scene, writer: int, stop: threading.Event) -> None:
    door = HttpDoor(scene.server.address, scene.records_path)
    ledger, batch = scene.ledger, 0
    while not stop.is_set():
        ids, rows = _batch(scene.dataset, writer, batch)
        records = [_record(scene.dataset, row) for row in rows]
        with ledger.lock:
            ledger.sent.update(zip(ids, rows, strict=True))
        sent_at = _until_acknowledged(ledger, door, partial(door.add, ids, scene.dataset.vectors[rows], records))
        with ledger.lock:
            ledger.acknowledged.update(zip(ids, rows, strict=True))
            ledger.last_sent_at = max(ledger.last_sent_at, sent_at)
        batch += 1
        stop.wait(_PAUSE_SECONDS)
    door.close()


def _until_acknowledged(ledger: Ledger, door: HttpDoor, send: Callable[[], None]) -> float:
    """Send again and again; return when the request was sent that was answered."""
    while True:
        sent_at = time.monotonic()
        try:
            send()
        except RequestFailed:
            with ledger.lock:
                ledger.unanswered += 1
            door.close()
            time.sleep(_POLL_SECONDS)
        else:
            return sent_at


def _batch(dataset: Dataset, writer: int, batch: int) -> tuple[list[str], list[int]]:
    """Ids and rows of one batch; after the last row the first comes again, under another id."""
    first = (batch * _WRITERS + writer) * _BATCH
    numbers = range(first, first + _BATCH)
    rows = [number % len(dataset) for number in numbers]
    return [f"{dataset.ids[row]}-{number // len(dataset)}" for number, row in zip(numbers, rows, strict=True)], rows


def _record(dataset: Dataset, row: int) -> Record:
    return Record(dataset.documents[row], dataset.metadatas[row])


# ---- one round


def _round(scene: _Scene, target: Target, dice: random.Random, number: int) -> dict[str, float]:
    """Kill a target while writers are at work; return how many seconds later each part of the server is back."""
    name = f"round {number}, after kill -9 of the {target}"
    directory, ledger = scene.server.directory, scene.ledger
    _let_them_write(ledger, dice.uniform(*_BEFORE_SECONDS))
    promised = ledger.snapshot()
    old_compactor = compactor_of(directory)
    killed_at = time.monotonic()
    _kill(scene.server, target, dice)

    def wait(condition: Callable[[], bool], what: str) -> float:
        if not _wait(condition, RECOVERY_SECONDS_MAX + APPLIED_SECONDS_MAX):
            raise RequestFailed(f"{name}: {what} never came\n{scene.server.last_words()}")
        return time.monotonic() - killed_at

    with _door(scene) as door:
        times = {"longest until reads are answered": wait(lambda: _answers(door), "an answer")}
        written = sum(door.status())
        times["longest until writes are acknowledged"] = wait(lambda: ledger.last_sent_at > killed_at, "an acknowledgement")
        if target != "worker":
            back = wait(lambda: compactor_of(directory) not in (None, old_compactor), "a compactor")
            times["longest until a new compactor is at work"] = back
        applied = wait(lambda: _applied(door) >= written, "the end of applying")
        times["longest until writes of the round are applied"] = applied
        _judge_round(scene, door, promised, name)
    return times


def _let_them_write(ledger: Ledger, seconds: float) -> None:
    before = len(ledger.acknowledged)
    time.sleep(seconds)
    if not _wait(lambda: len(ledger.acknowledged) > before, RECOVERY_SECONDS_MAX):
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


def _applied(door: HttpDoor) -> int:
    try:
        return door.status()[0]
    except RequestFailed:  # the worker that answered ended, as an orphan does
        return 0


def _kill(server: LocalServer, target: Target, dice: random.Random) -> None:
    """Kill the target, and start the server again when it was the server."""
    assert server.process is not None
    if target == "worker" or target == "compactor":
        os.kill(dice.choice(members(server, target)), signal.SIGKILL)
        return
    children = [*members(server, "worker"), *members(server, "compactor")]
    os.kill(server.process.pid, signal.SIGKILL)
    for pid in children if target == "server" else []:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.process.wait()
    server.process = None
    _start_again(server, children)


def _start_again(server: LocalServer, children: list[int]) -> None:
    """Start the server as soon as the children of the one before have let go of its port, as they do by themselves."""
    if not _wait(lambda: not any(is_alive(pid) for pid in children), RECOVERY_SECONDS_MAX):
        raise RequestFailed(f"children outlive their parent. pids={children}")
    server.spawn()


def _judge_round(scene: _Scene, door: HttpDoor, promised: dict[str, int], name: str) -> None:
    """What was acknowledged before the kill is there, what is there was sent, and nothing is there twice."""
    found = door.ids()
    with scene.ledger.lock:
        sent = set(scene.ledger.sent)
    stored = set(found)
    lost, unknown = promised.keys() - stored, stored - sent
    doubled = [key for key, count in Counter(found).items() if count > 1]
    scene.verdict.require(not lost, f"{name}: acknowledged records are lost. records={len(lost)} some={sorted(lost)[:3]}")
    scene.verdict.require(not doubled, f"{name}: records are there twice. records={len(doubled)} some={doubled[:3]}")
    scene.verdict.require(not unknown, f"{name}: records were never sent. records={len(unknown)} some={sorted(unknown)[:3]}")


def _judge_end(scene: _Scene) -> None:
    """All is acknowledged now: a worker and an embedded engine have exactly that, as it was sent."""
    expected = scene.ledger.snapshot()
    embedded = EmbeddedDoor(scene.server.directory, _COLLECTION)
    with _door(scene) as door:
        for reader, name in ((door, "a worker"), (embedded, "an embedded engine")):
            found = reader.all()
            same = len(found) == len(expected) == reader.count() and dict(found).keys() == expected.keys()
            scene.verdict.require(same, f"at the end, {name} has other records than were acknowledged. records={len(found)}")
            wrong = [key for key, record in found if key in expected and record != _record(scene.dataset, expected[key])]
            scene.verdict.require(not wrong, f"at the end, {name} has records of other contents. some={wrong[:3]}")
    some = list(expected)[:: max(1, len(expected) // 500)]
    vectors = embedded.vectors(some)
    wrong = [key for key in some if not np.array_equal(vectors.get(key), scene.dataset.vectors[expected[key]])]
    scene.verdict.require(not wrong, f"at the end, vectors are not those that were acknowledged. some={wrong[:3]}")
    embedded.close()
    for line in errors_in(scene.server):
        scene.verdict.violations.append(f"the server's log has an error: {line[:300]}")
