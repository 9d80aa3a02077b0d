"""The load generator: lanes of connections in processes of their own.

A lane is one kind of request on a number of connections, closed loop: each connection sends its next request when the
last one is answered. Lanes of one run start together, after all of them are connected. A paced lane instead has a
timetable, in which its connections take turns; its latencies count from when a request was due, so a stalled server can't
hide behind requests not sent.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import multiprocessing
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess

from load_tests.errors import RequestFailed
from load_tests.http import Connection, Response, post_head
from load_tests.requests import RequestFile

_READY_SECONDS_MAX = 60.0
_RETRY_SECONDS_DEFAULT = 0.2
_BUSY_STATUSES = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """What one group of connections sends."""

    path: str
    requests: RequestFile
    connections: int
    seconds: float | None = None
    """How long to go round and round through the requests; None: each one once."""
    interval_seconds: float | None = None
    """Time between two requests of each connection of a paced lane; None: as fast as answers come."""
    keep_answers: bool = False
    processes: int = 1

    def __post_init__(self) -> None:
        assert len(self.requests) > 0
        assert 1 <= self.processes <= self.connections


@dataclass(slots=True)
class LaneResult:
    """What a lane saw. Times are of one monotonic clock shared by all processes of the machine, in seconds."""

    started_at: float
    ended_at: float
    latencies_seconds: array[float] = field(default_factory=lambda: array("d"))
    answered_at: array[float] = field(default_factory=lambda: array("d"))
    answers: dict[int, bytes] = field(default_factory=dict[int, bytes])
    answer_bytes: int = 0
    busy_retries: int = 0
    reconnects: int = 0

    @property
    def count(self) -> int:
        """Number of requests answered."""
        return len(self.latencies_seconds)

    @property
    def seconds(self) -> float:
        """From the first request to the last answer."""
        return self.ended_at - self.started_at

    @property
    def per_second(self) -> float:
        """Requests answered per second."""
        return self.count / self.seconds

    def merge(self, other: LaneResult) -> None:
        """Add what another process of the same lane saw."""
        self.started_at = min(self.started_at, other.started_at)
        self.ended_at = max(self.ended_at, other.ended_at)
        self.latencies_seconds.extend(other.latencies_seconds)
        self.answered_at.extend(other.answered_at)
        self.answers.update(other.answers)
        self.answer_bytes += other.answer_bytes
        self.busy_retries += other.busy_retries
        self.reconnects += other.reconnects


@dataclass(frozen=True, slots=True)
class _Share:
    """The part of a lane that one process runs."""

    lane: Lane
    number: int

    @property
    def connections(self) -> int:
        return len(range(self.number, self.lane.connections, self.lane.processes))

    def shifts(self) -> list[float]:
        """By which part of the interval each connection of a paced lane is late, so that they take turns."""
        count = self.lane.connections
        return [position / count for position in range(self.number, count, self.lane.processes)]

    def indexes(self) -> Iterator[int]:
        count = len(self.lane.requests)
        if self.lane.seconds is None:
            return iter(range(self.number, count, self.lane.processes))
        first = self.number * count // self.lane.processes
        return itertools.cycle(itertools.chain(range(first, count), range(first)))


def run_lane(address: Address, lane: Lane, *, timeout_seconds: float = 1800.0) -> LaneResult:
    """Run one lane; see `run_lanes`."""
    return run_lanes(address, [lane], timeout_seconds=timeout_seconds)[0]


def run_lanes(address: Address, lanes: Sequence[Lane], *, timeout_seconds: float = 1800.0) -> list[LaneResult]:
    """Run lanes at the same time and return a result for each.

    Raises:
        RequestFailed: a request was refused or never answered; the server's log has the rest.
    """
    shares = [_Share(lane, number) for lane in lanes for number in range(lane.processes)]
    workers = [_start(address, share) for share in shares]
    try:
        for _, pipe in workers:
            _receive(pipe, _READY_SECONDS_MAX)
        for _, pipe in workers:
            pipe.send("go")
        return _collect(lanes, workers, timeout_seconds)
    finally:
        for process, pipe in workers:
            pipe.close()
            _end(process)


def _collect(lanes: Sequence[Lane], workers: Sequence[tuple[BaseProcess, Pipe]], timeout_seconds: float) -> list[LaneResult]:
    results: list[LaneResult] = []
    pipes = iter(pipe for _, pipe in workers)
    for lane in lanes:
        parts = [_receive(next(pipes), timeout_seconds) for _ in range(lane.processes)]
        assert all(isinstance(part, LaneResult) for part in parts)
        whole = parts[0]
        for part in parts[1:]:
            whole.merge(part)
        results.append(whole)
    return results


def _start(address: Address, share: _Share) -> tuple[BaseProcess, Pipe]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_worker, args=(address, share, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _end(process: BaseProcess) -> None:
    process.join(timeout=2.0)
    if process.is_alive():
        process.kill()
        process.join()


def _receive(pipe: Pipe, timeout_seconds: float) -> LaneResult:
    if not pipe.poll(timeout_seconds):
        raise RequestFailed(f"no end of the load in sight: is the server stuck? waited_seconds={timeout_seconds:g}")
    try:
        message = pipe.recv()
    except EOFError as error:
        raise RequestFailed("a load generator ended early; its message is above") from error
    if isinstance(message, str) and message != "ready":
        raise RequestFailed(message)
    return message  # type: ignore[no-any-return]


def _worker(address: Address, share: _Share, pipe: Pipe) -> None:
    with suppress(BrokenPipeError, EOFError, KeyboardInterrupt):  # the run was given up
        pipe.send(_result_or_reason(address, share, pipe))
    pipe.close()


def _result_or_reason(address: Address, share: _Share, pipe: Pipe) -> LaneResult | str:
    try:
        return asyncio.run(_run_share(address, share, pipe))
    except (RequestFailed, ConnectionRefusedError) as error:
        return f"{share.lane.path}: {error}"


async def _run_share(address: Address, share: _Share, pipe: Pipe) -> LaneResult:
    connections = [Connection(address.host, address.port) for _ in range(share.connections)]
    with share.lane.requests.open() as bodies:
        await asyncio.gather(*(connection.open() for connection in connections))
        gc.collect()
        gc.freeze()
        pipe.send("ready")
        pipe.recv()
        driver = _Driver(share, bodies)
        try:
            await asyncio.gather(*(driver.drive(*item) for item in zip(connections, share.shifts(), strict=True)))
        finally:
            for connection in connections:
                connection.close()
    driver.result.reconnects = sum(connection.reconnects for connection in connections)
    return driver.result


class _Driver:
    """Keeps the connections of one process busy and writes down what they see."""

    def __init__(self, share: _Share, bodies: Sequence[memoryview]) -> None:
        self._lane = share.lane
        self._bodies = bodies
        self._heads = [post_head(share.lane.path, len(body)) for body in bodies]
        self._indexes = share.indexes()
        now = time.perf_counter()
        self._deadline = now + share.lane.seconds if share.lane.seconds is not None else float("inf")
        self.result = LaneResult(started_at=now, ended_at=now)

    async def drive(self, connection: Connection, shift: float) -> None:
        """Send requests over one connection until they or the time run out."""
        for turn in itertools.count():
            due = await self._due(turn + shift)
            index = next(self._indexes, None) if due < self._deadline else None
            if index is None:
                return
            response = await self._exchange(connection, index)
            self._note(index, due, response)

    async def _due(self, turn: float) -> float:
        if self._lane.interval_seconds is None:
            return time.perf_counter()
        due = self.result.started_at + turn * self._lane.interval_seconds
        await asyncio.sleep(min(due, self._deadline) - time.perf_counter())
        return due

    async def _exchange(self, connection: Connection, index: int) -> Response:
        """Exchange one request; a busy server is asked again after the pause it names, on the same stopwatch."""
        while True:
            response = await connection.exchange(self._heads[index], self._bodies[index])
            if response.status not in _BUSY_STATUSES:
                break
            self.result.busy_retries += 1
            await asyncio.sleep(response.retry_after_seconds or _RETRY_SECONDS_DEFAULT)
        if not 200 <= response.status < 300:
            raise RequestFailed(f"request refused. status={response.status} body={response.body[:300]!r}")
        return response

    def _note(self, index: int, due: float, response: Response) -> None:
        now = time.perf_counter()
        self.result.latencies_seconds.append(now - due)
        self.result.answered_at.append(now)
        self.result.ended_at = now
        self.result.answer_bytes += len(response.body)
        if self._lane.keep_answers:
            self.result.answers[index] = response.body
