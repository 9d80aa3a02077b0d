"""`ingest`: real records go in while others read; nobody misses what was acknowledged, and the neighbours are right."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from load_tests.acceptance.doors import EmbeddedDoor, HttpDoor, Record, door_of_each_worker
from load_tests.acceptance.family import (
    OPEN_ROLES,
    Peaks,
    descriptors,
    errors_in,
    holds_log,
    log_bytes,
    members,
    pss_bytes,
    settled_disk_bytes,
    watched,
    who_answers,
)
from load_tests.acceptance.neighbours import SPACES, ExactScan
from load_tests.acceptance.readers import Batch, EmbeddedWitness, missing, readers
from load_tests.acceptance.verdict import Verdict
from load_tests.bodies import ingest_batches
from load_tests.data import Dataset
from load_tests.errors import WrongAnswer
from load_tests.requests import RequestFile
from load_tests.servers import LocalServer, Program, running

K = 10
RECALL_MIN = 0.97
APPLIED_SECONDS_MAX = 120.0
MEMORY_MIB_MAX = 2048.0
LOG_MIB_MAX = 96.0
"""What may be left of the log when all is applied: free pages and SQLite's journal, which are used again."""
DESCRIPTORS_MAX = 32
"""More descriptors than before that a worker may have open after thousands of requests."""

_BATCH = 500
_WRITERS = 4
_READERS = 2
_SAMPLED = 4
"""Every so manyth batch is looked for by others as soon as it is acknowledged."""
_QUERIES_AT_ONCE = 50
_CONNECTS = 300
_GRAPH_ROWS_MIN = 2_000
_GRAPH_SECONDS_MAX = 600.0
_MIB = 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """What one collection goes through."""

    server: LocalServer
    dataset: Dataset
    space: str
    requests: RequestFile
    verdict: Verdict
    is_watched: bool
    """Whether batches are looked for by others, and readers query meanwhile."""

    @property
    def collection(self) -> str:
        """Its name."""
        return f"accept-{self.space}"


def accept_ingest(program: Program, dataset: Dataset, directory: Path, verdict: Verdict) -> None:
    """Ingest the data three times, once for each distance, and judge what readers saw and queries find."""
    with running(program) as server:
        with watched(server) as peaks:
            open_before = {pid: descriptors(pid) for pid in members(server, "worker")}
            scans: dict[str, ExactScan] = {}
            for space in SPACES:
                stored = with_lengths(dataset, space)
                scans[space] = ExactScan(space, stored.ids, stored.vectors, stored.queries)
                requests = RequestFile.write(directory / f"{space}.bodies", ingest_batches(stored, _BATCH))
                course = Course(server, stored, space, requests, verdict, is_watched=space == SPACES[0])
                _run(course, scans[space])
        _judge_resources(server, verdict, peaks, open_before)
        for line in errors_in(server):
            verdict.violations.append(f"the server's log has an error: {line[:300]}")
        server.stop()
        _judge_graphs(server.directory, dataset, scans, verdict)


def with_lengths(dataset: Dataset, space: str) -> Dataset:
    """The data with lengths between 0.8 and 1.25 for l2 and ip: of unit vectors, all distances have the same neighbours."""
    if space == "cosine":
        return dataset
    lengths = np.exp(np.random.default_rng(11).uniform(np.log(0.8), np.log(1.25), len(dataset)))
    return replace(dataset, vectors=(dataset.vectors * lengths[:, None]).astype(np.float32))


# ---- one collection


def _run(course: Course, exact: ExactScan) -> None:
    door = HttpDoor(course.server.address)
    path = door.create(course.collection, course.space)
    doors = door_of_each_worker(course.server, path)
    witness = EmbeddedWitness(course.server.directory, course.collection) if course.is_watched else None
    hold = _Hold(course.server)
    try:
        if witness is None:
            seconds = _write_all(course, path, doors, None, hold.begin)
        else:
            with readers(course.server.address, path, course.dataset.queries, _READERS) as reading:
                seconds = _write_all(course, path, doors, witness, hold.begin)
            _note_latencies(course.verdict, reading.seconds)
            course.verdict.violations.extend(reading.violations)
        _judge_tail(course, doors, exact)
    finally:
        hold.end()
    _note_speed(course, seconds)
    _wait_applied(course, door)
    _judge_applied(course, doors, exact)
    if witness is not None:
        checked, count, violations = witness.finish()
        course.verdict.violations.extend(violations)
        course.verdict.add("batches read by an embedded engine right after the answer", checked, at_least=1)
        course.verdict.require(count == len(course.dataset), f"an embedded engine counts {count} records")


class _Hold:
    """Stops the compactor's process for a while, so that the end of the ingest stays in the tail, to be searched there."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self._stopped: list[int] = []

    def begin(self) -> None:
        """Stop it, wherever it is, but for the short moments in which writers wait for it."""
        self._stopped = members(self._server, "compactor")
        for pid in self._stopped:
            os.kill(pid, signal.SIGSTOP)
            while holds_log(pid, self._server.directory):
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.005)
                os.kill(pid, signal.SIGSTOP)

    def end(self) -> None:
        """Let it go on."""
        for pid in self._stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._stopped = []


class _Shared:
    """Batches that the writers share out among themselves."""

    def __init__(self, count: int, near_the_end: Callable[[], None]) -> None:
        self._numbers = iter(range(count))
        self._last = count - _WRITERS
        self._near_the_end = near_the_end
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[int]:
        while True:
            with self._lock:
                number = next(self._numbers, None)
                if number == self._last:
                    self._near_the_end()
            if number is None:
                return
            yield number


def _write_all(
    course: Course, path: str, doors: dict[int, HttpDoor], witness: EmbeddedWitness | None, near_the_end: Callable[[], None]
) -> float:
    """Add everything from four connections; return the seconds from the first request to the last acknowledgement."""
    locks = {pid: threading.Lock() for pid in doors}
    with course.requests.open() as bodies:
        numbers = _Shared(len(bodies), near_the_end)

        def write(_: int) -> None:
            door = HttpDoor(course.server.address, path)
            for number in numbers:
                door.call("POST", f"{path}/add", bytes(bodies[number]))
                if witness is not None and number % _SAMPLED == 0:
                    batch = _batch(course.dataset, number)
                    witness.tell(batch)
                    answered_by = who_answers(course.server.port, doors, door.local_port)
                    for pid, other in doors.items():
                        if pid != answered_by:
                            with locks[pid]:
                                found = other.get(batch.ids)
                            course.verdict.violations.extend(missing(batch, found, "the other worker"))
            door.close()

        started = time.monotonic()
        with ThreadPoolExecutor(_WRITERS) as pool:
            list(pool.map(write, range(_WRITERS)))
        return time.monotonic() - started


def _batch(dataset: Dataset, number: int) -> Batch:
    rows = range(number * _BATCH, min((number + 1) * _BATCH, len(dataset)))
    records = [Record(dataset.documents[row], dataset.metadatas[row]) for row in rows]
    return Batch([dataset.ids[row] for row in rows], records, dataset.vectors[rows.start : rows.stop])


def _note_latencies(verdict: Verdict, seconds: Sequence[float]) -> None:
    milliseconds = np.asarray(seconds) * 1000
    for name, share in (("p50", 50), ("p99", 99), ("worst", 100)):
        verdict.add(f"query during the ingest, {name}", float(np.percentile(milliseconds, share)), "ms")


def _note_speed(course: Course, seconds: float) -> None:
    how = "beside readers and checks" if course.is_watched else "nothing beside it"
    course.verdict.add(f"{course.space}: acknowledged, {how}", len(course.dataset) / seconds, "vectors/s")


def _wait_applied(course: Course, door: HttpDoor) -> None:
    started = time.monotonic()
    while door.status()[1]:
        if time.monotonic() - started > APPLIED_SECONDS_MAX:
            break
        time.sleep(0.02)
    seconds = time.monotonic() - started
    course.verdict.add(f"{course.space}: until applied", seconds, "s", at_most=APPLIED_SECONDS_MAX)


# ---- recall


def _judge_tail(course: Course, doors: dict[int, HttpDoor], exact: ExactScan) -> None:
    """Search while the end of the ingest is not applied, many queries at once."""
    some = next(iter(doors.values()))
    waiting = some.status()[1]
    course.verdict.add(f"{course.space}: records in the tail", waiting, at_least=1)
    queries = course.dataset.queries
    answers = [
        answer
        for first in range(0, len(queries), _QUERIES_AT_ONCE)
        for answer in some.nearest(queries[first : first + _QUERIES_AT_ONCE], K)
    ]
    _note_recall(course.verdict, f"{course.space}: recall@10 with that tail", exact, answers)


def _judge_applied(course: Course, doors: dict[int, HttpDoor], exact: ExactScan) -> None:
    for pid, door in doors.items():
        count = door.count()
        course.verdict.require(count == len(course.dataset), f"{course.collection}: worker {pid} counts {count} records")
        ids = door.ids()
        same = len(ids) == len(set(ids)) and set(ids) == set(course.dataset.ids)
        course.verdict.require(same, f"{course.collection}: worker {pid} does not have each id once. ids={len(ids)}")
    turns = itertools.cycle(doors.values())
    answers = [next(turns).nearest(query[None, :], K)[0] for query in course.dataset.queries]
    _note_recall(course.verdict, f"{course.space}: recall@10 at default settings", exact, answers)


def _note_recall(verdict: Verdict, name: str, exact: ExactScan, answers: Sequence[tuple[list[str], list[float]]]) -> None:
    try:
        verdict.add(name, exact.recall(answers, K), at_least=RECALL_MIN)
    except WrongAnswer as error:
        verdict.violations.append(f"{name}: {error}")


def _judge_graphs(directory: Path, dataset: Dataset, scans: dict[str, ExactScan], verdict: Verdict) -> None:
    """Open the directory with settings that ask for graphs at once, and search those, one query at a time."""
    from chroma_async import EngineSettings

    started = time.monotonic()
    with _embedded(directory, f"accept-{SPACES[0]}", EngineSettings(graph_rows_min=_GRAPH_ROWS_MIN)) as door:
        if len(dataset) < _GRAPH_ROWS_MIN:
            return
        while len(list(directory.glob("collections/*/segments/*/*.usearch"))) < len(SPACES):
            if time.monotonic() - started > _GRAPH_SECONDS_MAX:
                verdict.violations.append(f"no graphs after {_GRAPH_SECONDS_MAX:g} seconds")
                return
            time.sleep(0.2)
        verdict.add("graphs of all three built in", time.monotonic() - started, "s")
        verdict.facts["graphs"] = _graph_use(len(dataset), dataset.vectors.shape[1])
        for space, exact in scans.items():
            door.use(f"accept-{space}")
            answers = [door.nearest(query[None, :], K)[0] for query in dataset.queries]
            _note_recall(verdict, f"{space}: recall@10 with a graph", exact, answers)


def _graph_use(rows: int, ndim: int) -> str:
    """Whether the planner searches a graph of that size, which it does where a scan would cost more."""
    from chroma_async.core.planner import SearchGraph, SegmentCounts, plan_search

    counts = SegmentCounts(rows=rows, graph_rows=rows, allowed=rows, ndim=ndim, scan_dims=ndim)
    plan = plan_search(counts, n_results=K, batch=1, ef_search=100)
    return "searched" if isinstance(plan, SearchGraph) else "built, but a scan of so few records is cheaper"


@contextmanager
def _embedded(directory: Path, collection: str, engine: object) -> Generator[EmbeddedDoor, None, None]:
    door = EmbeddedDoor(directory, collection, engine=engine)
    try:
        yield door
    finally:
        door.close()


# ---- resources


def _judge_resources(server: LocalServer, verdict: Verdict, peaks: Peaks, before: dict[int, int]) -> None:
    for role, size in sorted(peaks.memory_bytes.items()):
        verdict.add(f"most memory (PSS), {role}", size / _MIB, "MiB", at_most=MEMORY_MIB_MAX)
    for role in OPEN_ROLES:
        now = sum(pss_bytes(pid) or 0 for pid in members(server, role))
        verdict.add(f"memory at the end (PSS), {role}", now / _MIB, "MiB")
    _connect_again_and_again(server)
    after = {pid: descriptors(pid) for pid in members(server, "worker")}
    verdict.require(after.keys() == before.keys(), f"a worker was replaced. before={list(before)} after={list(after)}")
    grown = max((after[pid] - before[pid] for pid in after.keys() & before.keys()), default=0)
    verdict.add("descriptors more than at the start, of a worker", grown, at_most=DESCRIPTORS_MAX)
    verdict.add("most disk", peaks.disk_bytes / _MIB, "MiB")
    verdict.add("disk when settled", settled_disk_bytes(server) / _MIB, "MiB")
    verdict.add("longest log", peaks.log_bytes / _MIB, "MiB")
    verdict.add("log when settled", log_bytes(server.directory) / _MIB, "MiB", at_most=LOG_MIB_MAX)


def _connect_again_and_again(server: LocalServer) -> None:
    """Clients that come and go: each connection is opened, used once and closed."""
    for _ in range(_CONNECTS):
        with HttpDoor(server.address) as door:
            door.call("GET", "/api/v2/heartbeat")
    time.sleep(1.0)
