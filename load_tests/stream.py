"""One client streams a great many records: how fast they are durable, what both sides hold, and what readers notice.

Records are those of the data set, then the same with noise. A stream is one request whose body flows for minutes, as an
Arrow IPC stream or as NDJSON, which waits in a file before the time is taken, or the parts that our own client makes and
sends. A reader asks at a steady pace, before and beside it.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import io
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from load_tests import bodies
from load_tests.acceptance.family import Role, members
from load_tests.api import Api
from load_tests.bench import N_RESULTS
from load_tests.data import Dataset
from load_tests.errors import RequestFailed, WrongAnswer
from load_tests.generator import Address, Lane, run_lane
from load_tests.growth import Supply
from load_tests.pipes import expect
from load_tests.requests import RequestFile
from load_tests.servers import LocalServer, Program, memory_of, running
from load_tests.targets import Verdict

Way = Literal["arrow", "ndjson", "client"]
WAYS: Final[tuple[Way, ...]] = get_args(Way)

PER_SECOND_MIN: Final[dict[Way, float]] = {"arrow": 20_000, "ndjson": 8_000, "client": 20_000}
P99_TIMES_MAX: Final = 3.0
SERVER_ROLES: Final[tuple[Role, ...]] = ("worker", "compactor", "builder")
MEMORY_GROWTH_MAX: Final = 1.25
"""From the second quarter of a stream to its last one: flat, but for noise."""

_COLLECTION = "load-test-stream"
_BATCH = 1_000
_PEER_RECORDS = 20_000
_QUERY_SECONDS = 0.05
_SLICE_SECONDS = 5.0
_CHECKED = 200
_MEBIBYTE = 2**20
_WHO = "the client that streams"
_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Beside:
    """What is stored before a stream, for a reader to ask for; how long it asks before it: 0 stands for no reader."""

    records: int = 20_000
    idle_seconds: float = 15.0


@dataclass(frozen=True, slots=True)
class Look:
    """One second of a stream: how many lines are durable, and what processes hold that can't be evicted, in MiB."""

    seconds: float
    position: int
    client_mib: float
    worker_mib: float
    compactor_mib: float
    builder_mib: float
    """Of the process that builds a graph; 0 while there is none."""


@dataclass(slots=True)
class Streamed:
    """What came of one stream. Times in seconds or milliseconds, as they say."""

    way: Way
    records: int
    seconds: float = 0.0
    applied_seconds: float | None = None
    """From the first byte until all is applied."""
    idle_p99_ms: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    looks: list[Look] = field(default_factory=list[Look])

    @property
    def per_second(self) -> float:
        """Records that were acknowledged and durable, a second."""
        return self.records / self.seconds

    def most(self, name: str) -> float:
        """The most that a kind of process held, in MiB."""
        return max((getattr(look, name) for look in self.looks), default=0.0)

    def growth(self, name: str) -> float | None:
        """From the second quarter to the last one, of the middle values; None for a stream that was too short to say."""
        values = [getattr(look, name) for look in self.looks]
        quarter = len(values) // 4
        if quarter < 3:
            return None
        return float(np.median(values[3 * quarter :]) / np.median(values[quarter : 2 * quarter]))

    def verdicts(self) -> Iterator[tuple[str, Verdict]]:
        """What became of each target."""
        least = PER_SECOND_MIN[self.way]
        yield "records/s", Verdict(f"{self.per_second:,.0f}", f">= {least:,.0f}", self.per_second >= least)
        if self.idle_p99_ms:
            times = self.p99_ms / self.idle_p99_ms
            yield "query p99 beside it", Verdict(f"{times:.2f} x", f"<= {P99_TIMES_MAX:g} x", times <= P99_TIMES_MAX)
        for name, role in (("client_mib", "client"), ("worker_mib", "worker")):
            grown = self.growth(name)
            if grown is not None:
                target = f"<= {MEMORY_GROWTH_MAX:g} x"
                yield f"memory of the {role}", Verdict(f"{grown:.2f} x", target, grown <= MEMORY_GROWTH_MAX)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        verdicts = [{"of": name} | asdict(verdict) for name, verdict in self.verdicts()]
        return asdict(self) | {"per_second": self.per_second, "verdicts": verdicts}


def stream(program: Program, base: Dataset, way: Way, records: int, say: Callable[[Look], None], beside: Beside) -> Streamed:
    """Stream into a new server and check what is there afterwards.

    Raises:
        LoadTestError: it fails, or something is missing, or not as it was sent.
    """
    result = Streamed(way, records)
    with running(program) as server, tempfile.TemporaryDirectory(prefix="load-test-stream-") as directory:
        api = Api(server.address)
        records_path = api.create_collection(_COLLECTION)
        place = Path(directory)
        _fill(api, records_path, base, beside.records, place)
        reader = _Reader(server, records_path, base, place) if beside.idle_seconds else None
        if reader is not None:
            result.idle_p99_ms = float(np.percentile(reader.asked(beside.idle_seconds), 99))
        latencies = _stream_beside(server, api, records_path, reader, result, base, beside, say)
        if latencies:
            result.p50_ms, result.p99_ms = np.percentile(latencies, [50, 99]).tolist()
        _check(api, records_path, base, records, stored_before=beside.records)
    return result


def _fill(api: Api, records_path: str, base: Dataset, records: int, place: Path) -> None:
    first = Supply(base, prefix="base").part(0, records)
    requests = RequestFile.write(place / "base", bodies.ingest_batches(first, 500))
    run_lane(api.address, Lane(path=f"{records_path}/add", requests=requests, connections=2))
    while api.unindexed(records_path):
        time.sleep(0.1)


class _Reader:
    """One connection that asks at a steady pace; latencies count from when a query was due."""

    def __init__(self, server: LocalServer, records_path: str, base: Dataset, place: Path) -> None:
        queries = (bodies.query(base, number, N_RESULTS) for number in range(min(200, len(base.queries))))
        requests = RequestFile.write(place / "queries", queries)
        self._address = server.address
        self._path, self._requests = f"{records_path}/query", requests

    def asked(self, seconds: float) -> list[float]:
        """Latencies in milliseconds."""
        lane = Lane(
            path=self._path, requests=self._requests, connections=1, seconds=seconds, interval_seconds=_QUERY_SECONDS
        )
        return [1000 * latency for latency in run_lane(self._address, lane).latencies_seconds]


def _stream_beside(
    server: LocalServer,
    api: Api,
    records_path: str,
    reader: _Reader | None,
    result: Streamed,
    base: Dataset,
    beside: Beside,
    say: Callable[[Look], None],
) -> list[float]:
    """Stream, look every second, ask all the while; return what the reader saw, in milliseconds."""
    ours, theirs = _CONTEXT.Pipe()
    arguments = (result.way, server.address, records_path, base, result.records, theirs)
    process = _CONTEXT.Process(target=_send, args=arguments, daemon=True)
    process.start()
    theirs.close()
    latencies: list[float] = []
    over = threading.Event()

    def read() -> None:
        while reader is not None and not over.is_set():
            latencies.extend(reader.asked(min(_SLICE_SECONDS, beside.idle_seconds)))

    reading = threading.Thread(target=read)
    try:
        expect(ours, "ready", _WHO)
        ours.send("go")
        reading.start()
        began = time.monotonic()
        while not ours.poll(1.0):
            look = _look(server, api, records_path, process.pid or 0, time.monotonic() - began)
            result.looks.append(look)
            say(look)
        result.seconds = float(expect(ours, "done", _WHO))
        while (waiting := api.unindexed(records_path)) and time.monotonic() - began < 4 * result.seconds + 60:
            time.sleep(0.2)
        result.applied_seconds = None if waiting else time.monotonic() - began
    finally:
        over.set()
        process.kill()
        process.join()
        if reading.is_alive():
            reading.join()
    return latencies


def _look(server: LocalServer, api: Api, records_path: str, client: int, seconds: float) -> Look:
    roles = {role: [memory_of(pid) for pid in members(server, role)] for role in SERVER_ROLES}
    held = {role: max(sizes, default=0) / _MEBIBYTE for role, sizes in roles.items()}
    position = api.stream_position(records_path, _COLLECTION)
    return Look(seconds, position, memory_of(client) / _MEBIBYTE, held["worker"], held["compactor"], held["builder"])


def _check(api: Api, records_path: str, base: Dataset, records: int, *, stored_before: int) -> None:
    """Everything is there, once, and some of it as it was sent."""
    position, count = api.stream_position(records_path, _COLLECTION), api.count(records_path)
    if (position, count) != (records, records + stored_before):
        raise WrongAnswer(f"not everything is there. position={position} count={count} sent={records}")
    supply = Supply(base)
    sample = min(_CHECKED, records)
    part = supply.part(0, sample)
    found = api.vectors(records_path, part.ids)
    if len(found) != sample or any(
        not np.array_equal(np.asarray(found[key], dtype=np.float32), vector)
        for key, vector in zip(part.ids, part.vectors, strict=True)
    ):
        raise WrongAnswer("records are not as they were sent")


# ---- the client's process


def _send(way: Way, address: Address, records_path: str, base: Dataset, records: int, pipe: Pipe) -> None:
    """Prepare the body, wait for the word, send it, and tell how long that took."""
    parts = _parts(base, records)
    with ExitStack() as stack:
        body: Iterable[bytes] = ()
        if way != "client":
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="load-test-stream-")))
            requests = RequestFile.write(place / "body", _arrow(parts) if way == "arrow" else map(_ndjson, parts))
            body = map(bytes, stack.enter_context(requests.open()))
        pipe.send(("ready", None))
        pipe.recv()
        began = time.monotonic()
        try:
            if way == "client":
                asyncio.run(_send_by_client(address, parts))
            else:
                _send_body(f"http://{address.host}:{address.port}{records_path}/ingest?stream_id={_COLLECTION}", way, body)
        except Exception as error:
            pipe.send(("failed", repr(error)))
            raise
        pipe.send(("done", time.monotonic() - began))


def _parts(base: Dataset, records: int) -> Iterator[Dataset]:
    supply = Supply(base)
    for first in range(0, records, _BATCH):
        yield supply.part(first, min(_BATCH, records - first))


def _send_body(url: str, way: Way, content: Iterable[bytes]) -> None:
    """One request, whose answer is read when all of it was sent."""
    import httpx

    kinds = {"arrow": "application/vnd.apache.arrow.stream", "ndjson": "application/x-ndjson"}
    response = httpx.post(url, content=content, headers={"content-type": kinds[way]}, timeout=600)
    last = orjson.loads(response.content.splitlines()[-1])
    if not last.get("done"):
        raise RequestFailed(f"the stream ended early. status={response.status_code} last={last}")


def _ndjson(part: Dataset) -> bytes:
    vectors = part.vectors.astype("<f4", copy=False)
    lines = [
        orjson.dumps(
            {
                "id": part.ids[row],
                "embedding": base64.b64encode(vectors[row].data).decode(),
                "document": part.documents[row],
                "metadata": part.metadatas[row],
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )
        for row in range(len(part))
    ]
    return b"".join(lines)


def _arrow(parts: Iterator[Dataset]) -> Iterator[bytes]:
    """An Arrow IPC stream, in a piece for each batch."""
    pa: Any = importlib.import_module("pyarrow")
    writer, sink = None, _Pieces()
    for part in parts:
        batch = record_batch(part)
        writer = writer or pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), batch.schema)
        writer.write_batch(batch)
        yield sink.taken()
    if writer is not None:
        writer.close()
        yield sink.taken()


class _Pieces(io.RawIOBase):
    """A file of which what was written is taken away."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(self._pieces[-1])

    def taken(self) -> bytes:
        """All that was written since the last time."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def record_batch(part: Dataset) -> Any:
    """Some records as Arrow has them, metadata as JSON."""
    pa: Any = importlib.import_module("pyarrow")
    flat = pa.array(np.ascontiguousarray(part.vectors, dtype=np.float32).reshape(-1))
    columns = {
        "id": pa.array(part.ids),
        "embedding": pa.FixedSizeListArray.from_arrays(flat, part.vectors.shape[1]),
        "document": pa.array(part.documents),
        "metadata": pa.array([orjson.dumps(metadata).decode() for metadata in part.metadatas]),
    }
    return pa.record_batch(columns)


async def _send_by_client(address: Address, parts: Iterator[Dataset]) -> None:
    from chroma_async import AsyncHttpClient

    async with AsyncHttpClient(f"http://{address.host}:{address.port}") as client:
        collection = await client.get_collection(_COLLECTION, embedding_function=None)
        report = await collection.ingest_from(map(record_batch, parts), stream_id=_COLLECTION)
    if report.bad_lines:
        raise RequestFailed(f"lines were passed over. some={report.errors[:3]}")


# ---- what is shown


def print_streams(streams: list[Streamed], peer: tuple[str, float] | None, facts: dict[str, str], console: Console) -> None:
    """Show machine, figures and targets."""
    for key, value in facts.items():
        console.print(f"{key:10} {value}", highlight=False)
    table = Table(title="streams of one client")
    for heading in ("", *(f"{item.way}, {item.records:,}" for item in streams)):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    rows: dict[str, list[str]] = {
        "records/s, acknowledged and durable": [f"{item.per_second:,.0f}" for item in streams],
        "until all is applied, s": [f"{item.applied_seconds:,.0f}" if item.applied_seconds else "-" for item in streams],
        "query p99 before, ms": [f"{item.idle_p99_ms:.1f}" for item in streams],
        "query p50 / p99 beside it, ms": [f"{item.p50_ms:.1f} / {item.p99_ms:.1f}" for item in streams],
        "client, most MiB": [f"{item.most('client_mib'):,.0f}" for item in streams],
        "a worker, most MiB": [f"{item.most('worker_mib'):,.0f}" for item in streams],
        "compactor, most MiB": [f"{item.most('compactor_mib'):,.0f}" for item in streams],
        "who builds a graph, most MiB": [f"{item.most('builder_mib'):,.0f}" for item in streams],
    }
    for name, values in rows.items():
        table.add_row(name, *values)
    console.print(table)
    for item in streams:
        for name, verdict in item.verdicts():
            met = "met" if verdict.met else "missed"
            console.print(f"{item.way}: {name} {verdict.ratio}, target {verdict.target}: {met}", highlight=False)
    if peer is not None:
        label, rate = peer
        console.print(f"{label}: add, one writer, batches of 500, 20,000 records: {rate:,.0f} records/s", highlight=False)


def peer_rate(program: Program, base: Dataset) -> float:
    """Records a second of a peer's `add`, one writer."""
    with running(program) as server, tempfile.TemporaryDirectory(prefix="load-test-stream-") as directory:
        api = Api(server.address)
        records_path = api.create_collection(_COLLECTION)
        part = Supply(base).part(0, _PEER_RECORDS)
        requests = RequestFile.write(Path(directory) / "base", bodies.ingest_batches(part, 500))
        result = run_lane(server.address, Lane(path=f"{records_path}/add", requests=requests, connections=1))
        if api.count(records_path) != _PEER_RECORDS:
            raise WrongAnswer("the peer lacks records")
    return _PEER_RECORDS / result.seconds
