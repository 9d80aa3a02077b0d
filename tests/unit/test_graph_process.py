"""Graphs that a process of its own builds: the same files, and no process that outlives who asked for it."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.support.engines import PATH, TINY, Records, compactor_at, create_collection, engine_at, settle
from tests.support.manifests import manifest_of
from tests.support.processes import children_of
from tests.support.waiting import wait_until

from chroma_async.errors import StorageCorrupt
from chroma_async.index.hnsw import GraphFile
from chroma_async.model import HnswConfiguration, Vectors
from chroma_async.projections import graph_process
from chroma_async.projections.blocks import extended, rows_of_a_block
from chroma_async.projections.graph_process import Failure, write_graph_elsewhere
from chroma_async.projections.graphs import GraphOrder, write_graph
from chroma_async.projections.manifest import GraphRef, SegmentRef
from chroma_async.protocol import CreateCollection
from chroma_async.protocol.collection_json import ConfigurationInput, HnswInput
from chroma_async.seams.limits import FULL, NO_HANDLES, NO_MEMORY, limit_error

pytestmark = pytest.mark.anyio

LONG = HnswConfiguration(ef_construction=2_000)
"""With some ten thousand rows it takes many seconds."""

SECONDS = 20.0


def clusters(rows: int, ndim: int = 32) -> Vectors:
    random = np.random.default_rng(5)
    centres = random.standard_normal((40, ndim))[random.integers(0, 40, rows)]
    return (centres + 0.2 * random.standard_normal((rows, ndim))).astype(np.float32)


def order_of(directory: Path, vectors: Vectors, configuration: HnswConfiguration | None = None) -> GraphOrder:
    """An order for a graph of these vectors, which are written as a segment of their own."""
    folder = directory / "segments" / "1"
    folder.mkdir(parents=True)
    (folder / "vectors.f32").write_bytes(vectors.tobytes())
    (folder / "slots.i64").write_bytes(np.arange(len(vectors), dtype=np.int64).tobytes())
    block_rows = rows_of_a_block(vectors.shape[1])
    return GraphOrder(
        directory=str(directory),
        segment=SegmentRef(1, len(vectors), block_rows=block_rows),
        dimension=vectors.shape[1],
        sums=sums_of(vectors),
        begun=None,
        configuration=configuration or HnswConfiguration(),
        threads=1,
        file="graph.building",
    )


def sums_of(vectors: Vectors) -> list[int]:
    return list(extended({}, 0, vectors, rows_of_a_block(vectors.shape[1])).values())


def builders_of(process: int) -> list[int]:
    """Ids of the processes that build graphs for a process."""
    return [child for child in children_of(process) if b"graph_process" in command_of(child)]


def command_of(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_process_of_its_own_writes_the_same_graph(tmp_path: Path) -> None:
    vectors = clusters(17_000)
    here, elsewhere = (
        order_of(tmp_path / name, vectors, HnswConfiguration(space="cosine")) for name in ("here", "elsewhere")
    )
    written, also = write_graph(here, lambda: True), write_graph_elsewhere(elsewhere, lambda: True)
    assert written is not None
    assert also == written  # one thread builds the same bytes
    graph = GraphFile(elsewhere.path, rows=len(vectors), crc=also.crc)
    assert graph.dims is not None  # of codes
    assert graph.search(vectors[:1], 1, ef=100)[0].tolist() == [0]


def test_a_graph_that_was_begun_is_grown(tmp_path: Path) -> None:
    vectors = clusters(3_000)
    whole = order_of(tmp_path, vectors)
    segment = msgspec.structs.replace(whole.segment, rows=2_000)
    half = msgspec.structs.replace(whole, segment=segment, sums=sums_of(vectors[:2_000]), file="first.usearch")
    written = write_graph_elsewhere(half, lambda: True)
    assert written is not None
    begun = GraphRef("first.usearch", 2_000, written.crc)
    grown = write_graph_elsewhere(msgspec.structs.replace(whole, begun=begun), lambda: True)
    assert grown is not None
    graph = GraphFile(whole.path, rows=3_000, crc=grown.crc)
    assert {graph.search(vectors[[row]], 1, ef=100)[0][0] for row in (0, 1_999, 2_000, 2_999)} == {0, 1_999, 2_000, 2_999}


def test_a_graph_that_nobody_wants_is_given_up(tmp_path: Path) -> None:
    order = order_of(tmp_path, clusters(20_000), LONG)
    begun = time.monotonic()
    assert write_graph_elsewhere(order, lambda: not builders_of(os.getpid())) is None
    assert time.monotonic() - begun < SECONDS
    assert not builders_of(os.getpid())
    assert not order.path.exists()


def ended_by(order: GraphOrder, number: signal.Signals) -> BaseException | None:
    """What is raised when the process that builds a graph gets a signal."""
    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(write_graph_elsewhere, order, lambda: True)
        (builder,) = wait_until(lambda: builders_of(os.getpid()))
        os.kill(builder, number)
        return building.exception(SECONDS)


def test_a_builder_that_is_killed_counts_as_want_of_memory(tmp_path: Path) -> None:
    error = ended_by(order_of(tmp_path, clusters(20_000), LONG), signal.SIGKILL)
    assert isinstance(error, MemoryError)
    limit = limit_error(error, tmp_path)
    assert limit is not None
    assert limit.reason == NO_MEMORY


def test_another_signal_is_no_want_of_memory(tmp_path: Path) -> None:
    error = ended_by(order_of(tmp_path, clusters(20_000), LONG), signal.SIGTERM)
    assert isinstance(error, RuntimeError)
    assert f"exit_code={-signal.SIGTERM}" in str(error)


def test_a_builder_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    order = order_of(tmp_path, clusters(20_000), LONG)
    asks = (
        "import sys, msgspec\n"
        "from chroma_async.projections.graph_process import write_graph_elsewhere\n"
        "from chroma_async.projections.graphs import GraphOrder\n"
        "write_graph_elsewhere(msgspec.json.decode(sys.argv[1], type=GraphOrder), lambda: True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", asks, msgspec.json.encode(order).decode()]) as process:
        (builder,) = wait_until(lambda: builders_of(process.pid))
        process.kill()
    wait_until(lambda: b"graph_process" not in command_of(builder))
    assert not order.path.exists()


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_builder_whose_order_never_came_ends_without_a_word(share: float, tmp_path: Path) -> None:
    """Who asked has ended while it began."""
    line = msgspec.json.encode(order_of(tmp_path, clusters(200)))
    command = [sys.executable, *graph_process.COMMAND]
    ended = subprocess.run(command, input=line[: int(share * len(line))], capture_output=True, timeout=SECONDS, check=False)
    assert (ended.stdout, ended.stderr) == (b"", b"")


def test_damaged_vectors_are_told(tmp_path: Path) -> None:
    vectors = clusters(9_000)
    order = order_of(tmp_path, vectors)
    path = tmp_path / "segments" / "1" / "vectors.f32"
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(StorageCorrupt, match="do not match their checksum"):
        write_graph_elsewhere(order, lambda: True)


def test_what_the_system_refuses_is_told(tmp_path: Path) -> None:
    order = msgspec.structs.replace(order_of(tmp_path, clusters(200)), file="nowhere/graph.building")
    with pytest.raises(OSError, match="No such file") as raised:
        write_graph_elsewhere(order, lambda: True)
    assert raised.value.errno == errno.ENOENT


def test_a_process_that_can_not_begin_is_no_silent_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_process, "COMMAND", ("-c", "raise SystemExit(3)"))
    with pytest.raises(RuntimeError, match="exit_code=3"):
        write_graph_elsewhere(order_of(tmp_path, clusters(200)), lambda: True)


@pytest.mark.parametrize(
    ("cause", "reason"),
    [(OSError(errno.EMFILE, "x"), NO_HANDLES), (OSError(errno.ENOSPC, "x"), FULL), (MemoryError(), NO_MEMORY)],
)
def test_limits_of_the_machine_are_known_as_such_by_who_asked(cause: Exception, reason: str, tmp_path: Path) -> None:
    raised = StorageCorrupt("file can't be read")
    raised.__cause__ = cause
    for error in (cause, raised):
        told = msgspec.json.decode(msgspec.json.encode(Failure.of(error)), type=Failure).error()
        assert isinstance(told, type(error))
        limit = limit_error(told, tmp_path)
        assert limit is not None
        assert limit.reason == reason


def test_what_is_no_limit_and_no_damage_is_told_as_it_is() -> None:
    error = Failure.of(ZeroDivisionError("float division")).error()
    assert isinstance(error, RuntimeError)
    assert str(error) == "float division"
    assert isinstance(Failure.of(OSError("no number")).error(), RuntimeError)
    assert type(Failure.of(StorageCorrupt("lost")).error()) is StorageCorrupt


@pytest.mark.parametrize("change", [{"format": 999}, {"dimension": "another type"}])
def test_an_order_of_another_release_is_refused(
    change: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    order = msgspec.structs.replace(order_of(tmp_path, clusters(200)), **change)
    with pytest.raises(RuntimeError, match="restart the server"):
        write_graph_elsewhere(order, lambda: True)
    assert not order.path.exists()
    assert "RuntimeError" in capfd.readouterr().err


@pytest.mark.parametrize("is_wanted", [True, False])
def test_an_order_may_be_longer_than_a_pipe(is_wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = msgspec.structs.replace(order_of(tmp_path, clusters(200)), sums=[2**32] * 100_000)
    if is_wanted:
        with pytest.raises(StorageCorrupt, match="found=100000"):
            write_graph_elsewhere(order, lambda: True)
        return
    monkeypatch.setattr(graph_process, "COMMAND", ("-c", "import time; time.sleep(60)"))
    begun = time.monotonic()
    assert write_graph_elsewhere(order, lambda: False) is None
    assert time.monotonic() - begun < SECONDS


async def test_a_compactor_publishes_what_a_process_of_its_own_has_built(tmp_path: Path) -> None:
    settings = replace(TINY, graph_rows_min=100, segment_rows_max=1_000, apply_bytes_max=2**20)
    vectors = clusters(1_500)
    async with engine_at(tmp_path, settings) as engine, compactor_at(tmp_path, settings, apart=True) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add([f"r{row}" for row in range(len(vectors))], vectors)
        await settle(compactor)
        graphs = [segment.graph for segment in manifest_of(tmp_path, records.id).segments]
        assert [graph and graph.rows for graph in graphs] == [1_000, 500]
        found = await records.query(vectors[[3, 1_200]], 1)
        assert found.columns[0].ids + found.columns[1].ids == ["r3", "r1200"]
        assert not list(tmp_path.rglob("*.building"))


async def test_a_process_ends_with_the_compactor_that_asked(tmp_path: Path) -> None:
    settings = replace(TINY, graph_rows_min=10_000, segment_rows_max=10**6, apply_bytes_max=2**25)
    vectors = clusters(20_000)
    async with engine_at(tmp_path, settings) as engine:
        hnsw = HnswInput(ef_construction=LONG.ef_construction)
        create = CreateCollection(**PATH, name="things", configuration=ConfigurationInput(hnsw=hnsw))
        records = Records(engine, (await engine.dispatch(create)).id)
        await records.add([f"r{row}" for row in range(len(vectors))], vectors)
        async with compactor_at(tmp_path, settings, apart=True) as compactor:
            while await compactor.step():
                pass
            (builder,) = await asyncio.to_thread(wait_until, lambda: builders_of(os.getpid()))
        assert not command_of(builder)
        assert manifest_of(tmp_path, records.id).segments[0].graph is None
        assert not list(tmp_path.rglob("*.building"))
