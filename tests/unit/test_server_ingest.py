"""Ingest streams over HTTP: acknowledged while the body flows, never stuck, and ended as the documentation says."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from tests.support.engines import TINY, Records, contents, create_collection, delete_collection
from tests.support.streams import streaming
from tests.support.waiting import eventually

from chroma_async.engine import Engine, open_engine
from chroma_async.errors import InsufficientStorageError, RateLimitError
from chroma_async.protocol import Call, Ingest
from chroma_async.protocol.ingest import ARROW, NDJSON
from chroma_async.server import ingest
from chroma_async.server.app import create_app
from chroma_async.server.life import Life
from chroma_async.server.worker import serve_by
from chroma_async.settings import EngineSettings, HttpServer, ServerSettings

pytestmark = pytest.mark.anyio

MISSING = "6f1b4c60-5b1a-4b4e-9f5c-3b8d1f3d0001"
LARGE = replace(TINY, unapplied_bytes_max=2**30)


def lines(start: int, count: int, ndim: int = 2, text: str = "") -> bytes:
    vector = [0.5] * ndim
    return b"".join(
        orjson.dumps({"id": str(number), "embedding": vector, "document": text}) + b"\n"
        for number in range(start, start + count)
    )


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Server:
    """A server of one process, and what its engine is asked."""

    port: int
    engine: Engine
    place: str
    life: Life
    calls: list[Call[Any]]
    fail: Callable[[Call[Any]], Exception | None] = lambda _: None

    async def count(self) -> int:
        return await Records(self.engine, self.place).count()


@asynccontextmanager
async def serving(
    path: Path, name: HttpServer = "uvicorn", engine_settings: EngineSettings = LARGE, **settings: Any
) -> AsyncIterator[Server]:
    async with open_engine(path / "data", engine_settings, compact=False) as engine:
        place = (await create_collection(engine)).id
        life, stop = Life(), asyncio.Event()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            server = Server(listening.getsockname()[1], engine, place, life, [])

            async def dispatch(call: Call[Any]) -> Any:
                server.calls.append(call)
                error = server.fail(call)
                if error is not None:
                    raise error
                return await engine.dispatch(call)

            said = ServerSettings(**{"body_timeout_seconds": 2.0, "graceful_seconds": 1.0, **settings})
            app = create_app(dispatch, said, life=life)
            running = asyncio.create_task(serve_by(name)(app, said, os.dup(listening.fileno()), stop, life))
            try:
                yield server
            finally:
                stop.set()
                await running


BOTH = pytest.mark.parametrize(("name", "http2"), [("hypercorn", False), ("hypercorn", True), ("uvicorn", False)])


@BOTH
async def test_lines_are_acknowledged_while_the_body_flows(tmp_path: Path, name: HttpServer, http2: bool) -> None:
    async with serving(tmp_path, name) as server, streaming(server.port, server.place, http2=http2) as stream:
        seen = await stream.line()
        assert seen is not None
        assert seen["position"] == 0
        assert (stream.status, stream.headers["content-type"]) == (200, "application/x-ndjson")
        for number in range(1, 4):
            began = time.monotonic()
            await stream.send(lines(number - 1, 1))
            seen = await stream.line()
            assert seen is not None
            assert (seen["position"], await server.count()) == (number, number)
            assert time.monotonic() - began < 2
        await stream.send(b'{"id": "half')
        await stream.end()
        last = await stream.last()
        assert (last["position"], last["done"], [error["line"] for error in last["errors"]]) == (4, True, [3])


@BOTH
async def test_many_lines_become_few_calls(tmp_path: Path, name: HttpServer, http2: bool) -> None:
    async with serving(tmp_path, name) as server, streaming(server.port, server.place, http2=http2) as stream:
        for start in range(0, 20_000, 100):
            await stream.send(lines(start, 100))
        await stream.end()
        last = await stream.last()
        assert (last["position"], last["done"], last["errors"]) == (20_000, True, [])
        assert await server.count() == 20_000
        assert len(server.calls) < 60
        assert last["lsn"] == server.engine.follower.position


@BOTH
async def test_a_client_that_never_reads_gets_all_of_its_lines_in(tmp_path: Path, name: HttpServer, http2: bool) -> None:
    """Each line is bad, so that there is much more to say than fits between the two; memory does not grow by it."""
    async with serving(tmp_path, name) as server, streaming(server.port, server.place, http2=http2) as stream:
        if not http2:  # there, reading is what gives the sender room
            stream.reader._transport.pause_reading()  # type: ignore[attr-defined]
        before = 0
        bad = b'{"id": 5, "embedding": "%b"}\n' % (b"x" * 400) * 1000
        count = 12 if http2 else 120
        for number in range(count):
            await stream.send(bad)
            if number == count // 3:
                before = resident_bytes()
        await stream.send(lines(0, 1))
        await stream.end()
        await eventually(server.count)
        assert resident_bytes() - before < 60 * 2**20
        if http2:
            return
        stream.reader._transport.resume_reading()  # type: ignore[attr-defined]
        found = [line async for line in stream.lines()]
        named = sum(len(line.get("errors", [])) for line in found)
        dropped = sum(line.get("errors_dropped", 0) for line in found)
        assert found[-1]["done"]
        assert found[-1]["position"] == 120_001
        assert named + dropped == 120_000
        assert dropped


async def test_who_reads_nothing_at_the_end_is_left(tmp_path: Path) -> None:
    async with serving(tmp_path, body_timeout_seconds=0.3) as server, streaming(server.port, server.place) as stream:
        stream.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream.reader._transport.pause_reading()  # type: ignore[attr-defined]
        bad = b'{"id": 5, "embedding": "%b"}\n' % (b"x" * 400) * 1000
        for _ in range(100):
            await stream.send(bad)
        await stream.end()
        await eventually(lambda: len(asyncio.all_tasks()) <= 8, tell=asyncio.all_tasks)  # of the server and this test


async def test_a_slow_log_slows_the_sender_down_and_keeps_no_more_than_some_parts(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, streaming(server.port, server.place) as stream:
        server.fail = lambda _: RateLimitError("no room")
        sent = 0

        async def send() -> None:
            nonlocal sent
            text = "x" * 10_000
            for start in range(0, 10_000, 100):
                await stream.send(lines(start, 100, text=text))
                sent += 100

        async def is_held() -> bool:
            before, retried = sent, len(server.calls) + 10
            await eventually(lambda: len(server.calls) > retried or sent > before)
            return sent == before

        sending = asyncio.create_task(send())
        await eventually(is_held)
        assert sent < 4_000  # each of 10 kB: what is between the two, and what waits to be decoded
        assert await is_held()
        server.fail = lambda _: None
        await sending
        await stream.end()
        assert (await stream.last())["position"] == 10_000
        assert await server.count() == 10_000


@BOTH
async def test_a_refusal_before_the_first_acknowledgement_is_an_ordinary_answer(
    tmp_path: Path, name: HttpServer, http2: bool
) -> None:
    async with serving(tmp_path, name) as server:
        async with streaming(server.port, MISSING, http2=http2) as stream:
            answer = await stream.line()
            assert answer is not None
            assert (stream.status, answer["error"]) == (404, "NotFoundError")
        async with streaming(server.port, server.place, http2=http2, stream_id="s", position=5) as stream:
            await stream.send(lines(5, 1))
            answer = await stream.line()
            assert answer is not None
            assert (stream.status, answer["error"]) == (409, "StreamGapError")
            assert "go on at line 0" in answer["message"]
        for query, kind, status in (({"on_error": "x"}, "application/json", 400), ({}, "text/plain", 415)):
            async with streaming(server.port, server.place, content_type=kind, http2=http2, **query) as stream:
                await stream.send(lines(0, 1))
                await stream.line()
                assert stream.status == status
        assert await server.count() == 0


@BOTH
async def test_a_stream_of_a_deleted_collection_ends_with_an_error_in_its_last_line(
    tmp_path: Path, name: HttpServer, http2: bool
) -> None:
    async with serving(tmp_path, name) as server, streaming(server.port, server.place, http2=http2) as stream:
        await stream.send(lines(0, 3))
        while (seen := await stream.line()) is not None and seen["position"] < 3:
            pass
        await delete_collection(server.engine)
        await stream.send(lines(3, 3))
        last = await stream.line()
        assert last is not None
        assert (last["position"], last["error"], last["status"]) == (3, "NotFoundError", 404)
        assert "done" not in last


async def test_a_full_disk_ends_a_stream_which_goes_on_where_it_was(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        names = {"stream_id": "s", "session": "t"}
        async with streaming(server.port, server.place, **names) as stream:
            await stream.send(lines(0, 3))
            while (seen := await stream.line()) is not None and seen["position"] < 3:
                pass
            server.fail = lambda _: InsufficientStorageError("no room")
            await stream.send(lines(3, 3))
            last = await stream.line()
            assert last is not None
            assert (last["position"], last["status"]) == (3, 507)
        server.fail = lambda _: None
        async with streaming(server.port, server.place, **names, position=3) as stream:
            await stream.send(lines(3, 3))
            await stream.end()
            assert (await stream.last())["position"] == 6
        assert await server.count() == 6


async def test_a_stream_stops_at_a_bad_line_if_it_asks_for_that(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        async with streaming(server.port, server.place, on_error="stop", stream_id="s") as stream:
            await stream.send(lines(0, 3) + b"x\n" + lines(4, 3))
            last = await stream.last()
            assert (last["position"], last["error"], last["status"]) == (3, "InvalidArgumentError", 400)
            assert last["errors"][-1]["line"] == 3
        assert await server.count() == 3


async def test_the_older_of_two_sessions_ends_and_the_newer_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, streaming(server.port, server.place, stream_id="s") as old:
        await old.line()
        await old.send(lines(0, 2))
        while (seen := await old.line()) is not None and seen["position"] < 2:
            pass
        async with streaming(server.port, server.place, stream_id="s") as newest:
            await newest.send(lines(0, 3))
            while (seen := await newest.line()) is not None and seen["position"] < 3:
                pass
            await old.send(lines(2, 2))
            while (last := await old.line()) is not None and "error" not in last:
                pass
            assert last is not None
            assert (last["error"], last["status"]) == ("StreamTakenError", 409)
            await newest.send(lines(3, 1))
            await newest.end()
            assert (await newest.last())["position"] == 4
        assert await server.count() == 4


@pytest.mark.parametrize("kind", ["endless line", "endless message"])
async def test_a_line_or_message_without_end_is_refused(tmp_path: Path, kind: str) -> None:
    content_type = "application/x-ndjson" if kind == "endless line" else ARROW
    async with serving(tmp_path, body_bytes_max=100_000) as server:
        async with streaming(server.port, server.place, content_type=content_type) as stream:
            if kind == "endless line":
                await stream.send(lines(0, 2) + b"x" * 200_000)
            else:
                await stream.send(arrow(0, 2)[:-8] + b"\xff\xff\xff\xff" + (2**30).to_bytes(4, "little") + b"x" * 100)
            last = await stream.last()
            assert (last["position"], last["status"], last["error"]) == (2, 413, "ChromaError")
        assert await server.count() == 2


async def test_a_stream_that_idles_is_ended_and_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path, ingest_idle_seconds=1.0) as server, streaming(server.port, server.place) as stream:
        for number in range(4):
            await stream.send(lines(number, 1))
            await asyncio.sleep(0.3)
        began = time.monotonic()
        await stream.send(b"{")  # no line yet
        last = await stream.last()
        assert time.monotonic() - began > 0.5
        assert (last["position"], last["status"]) == (4, 503)
        assert "no whole line" in last["message"]


async def test_a_stream_that_idles_is_ended_though_it_is_remembered_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Now and then a part without lines goes through the engine: that is nothing that the client did."""
    monkeypatch.setattr(ingest, "HEARTBEAT_SECONDS", 0.2)
    async with serving(tmp_path, ingest_idle_seconds=1.0) as server, streaming(server.port, server.place) as stream:
        await stream.send(lines(0, 1))
        async with asyncio.timeout(10):
            last = await stream.last()
        assert (last["position"], last["status"]) == (1, 503)
        assert "no whole line" in last["message"]


async def test_a_quiet_stream_says_now_and_then_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "HEARTBEAT_SECONDS", 0.1)
    async with serving(tmp_path) as server, streaming(server.port, server.place) as stream:
        seen = [await stream.line() for _ in range(4)]
        assert [line and line["position"] for line in seen] == [0, 0, 0, 0]


@BOTH
async def test_a_server_that_stops_ends_its_streams_at_once(tmp_path: Path, name: HttpServer, http2: bool) -> None:
    async with serving(tmp_path, name) as server, streaming(server.port, server.place, http2=http2) as stream:
        await stream.send(lines(0, 2))
        while (seen := await stream.line()) is not None and seen["position"] < 2:
            pass
        await stream.send(lines(2, 1))
        await eventually(lambda: sum(isinstance(call, Ingest) for call in server.calls) == 2)  # it is on its way
        server.life.draining.set()
        last = await stream.last()
        assert (last["position"], last["status"]) == (3, 503)
        assert "stopping" in last["message"]


async def test_requests_that_are_refused_take_no_stream_s_place(tmp_path: Path) -> None:
    """Also while they are listened to, since their clients still send."""
    async with serving(tmp_path, ingest_streams_max=2) as server:
        missing = "11111111-2222-4333-8444-555555555555"
        kinds = [(server.place, "text/plain", 415), (missing, NDJSON, 404)]
        async with AsyncExitStack() as stack:
            for place, kind, status in kinds * 2:
                refused = await stack.enter_async_context(streaming(server.port, place, content_type=kind))
                await refused.line()
                assert refused.status == status
            good = await stack.enter_async_context(streaming(server.port, server.place))
            await good.line()
            assert good.status == 200


async def test_there_may_be_so_many_streams_at_a_time(tmp_path: Path) -> None:
    async with serving(tmp_path, ingest_streams_max=2) as server:
        async with streaming(server.port, server.place) as first, streaming(server.port, server.place) as second:
            await first.line()
            await second.line()
            async with streaming(server.port, server.place) as third:
                await third.line()
                assert third.status == 429
                assert int(third.headers["retry-after"]) > 0

        async def has_room() -> bool:
            async with streaming(server.port, server.place) as again:
                await again.line()
                return again.status == 200

        await eventually(has_room)


@BOTH
async def test_a_cut_connection_loses_no_whole_part_and_takes_no_half_a_line(
    tmp_path: Path, name: HttpServer, http2: bool
) -> None:
    async with serving(tmp_path, name) as server:
        async with streaming(server.port, server.place, http2=http2) as stream:
            await stream.send(lines(0, 2) + b'{"id": "half", "embedding": [1, 2]}')
            while (seen := await stream.line()) is not None and seen["position"] < 2:
                pass
        await eventually(lambda: not [task for task in asyncio.all_tasks() if "_Stream" in repr(task)])
        assert await server.count() == 2


async def test_an_engine_that_fails_is_told_without_details(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path) as server, streaming(server.port, server.place) as stream:
        await stream.line()
        server.fail = lambda _: ZeroDivisionError("secret")
        await stream.send(lines(0, 1))
        last = await stream.last()
        assert (last["status"], last["error"]) == (500, "InternalError")
        assert "secret" not in last["message"]
        assert "ZeroDivisionError" in caplog.text


# ---- Arrow


SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("embedding", pa.list_(pa.float32(), 2)),
        ("document", pa.dictionary(pa.int32(), pa.string())),
        ("metadata", pa.struct([("n", pa.int64()), ("tags", pa.list_(pa.string()))])),
    ]
)


def batch(start: int, count: int) -> pa.RecordBatch:
    rows = [
        {
            "id": str(number),
            "embedding": [number, 1],
            "document": f"d{number % 3}",
            "metadata": {"n": number if number % 2 else None, "tags": ["a"]},
        }
        for number in range(start, start + count)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def arrow(start: int, count: int, batches: int = 1) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA, options=pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)) as writer:
        for number in range(batches):
            writer.write_batch(batch(start + number * count, count))
    return bytes(sink.getvalue())


@BOTH
async def test_an_arrow_stream_is_acknowledged_while_it_flows(tmp_path: Path, name: HttpServer, http2: bool) -> None:
    content = arrow(0, 100, batches=5)
    async with (
        serving(tmp_path, name) as server,
        streaming(server.port, server.place, content_type=ARROW, http2=http2) as stream,
    ):
        for start in range(0, len(content) - 500, 500):
            await stream.send(content[start : start + 500])
            await asyncio.sleep(0)
        while (seen := await stream.line()) is not None and seen["position"] < 300:
            pass
        await stream.send(content[start + 500 :])
        await stream.end()
        assert (await stream.last())["position"] == 500
        found = contents(await Records(server.engine, server.place).get())
        assert len(found) == 500
        assert found["7"] == [(7, 1), "d1", {"n": 7, "tags": ["a"]}, None]
        assert found["8"] == [(8, 1), "d2", {"tags": ["a"]}, None]


async def test_an_arrow_stream_that_is_cut_off_ends_with_an_error_behind_its_whole_batches(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        async with streaming(server.port, server.place, content_type=ARROW) as stream:
            await stream.send(arrow(0, 100, batches=3)[:-100])
            await stream.end()
            last = await stream.last()
            assert (last["position"], last["status"]) == (200, 400)
            assert "middle of a message" in last["message"]
        assert await server.count() == 200


async def test_what_is_no_arrow_stream_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        compressed = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(compressed, SCHEMA, options=options) as writer:
            writer.write_batch(batch(0, 10))
        wrong = pa.BufferOutputStream()
        with pa.ipc.new_stream(wrong, pa.schema([("name", pa.string())])) as writer:
            writer.write_batch(pa.RecordBatch.from_pylist([{"name": "x"}]))
        for content, message in (
            (lines(0, 2), "no Arrow IPC stream"),
            (arrow(0, 1)[8:], "no Arrow IPC stream"),
            (b"\xff\xff\xff\xff\x10\x00\x00\x00" + b"\xff" * 16, "no Arrow IPC stream"),
            (arrow(0, 1) + b"x", "follows the end"),
            (bytes(compressed.getvalue()), "without compression"),
            (bytes(wrong.getvalue()), "needs a column of this name: id"),
        ):
            async with streaming(server.port, server.place, content_type=ARROW) as stream:
                await stream.send(content)
                await stream.end()
                last = await stream.last()
                assert message in last["message"], last
                assert stream.status == 400 or last["status"] == 400


async def test_damage_anywhere_in_an_arrow_stream_breaks_nothing(tmp_path: Path) -> None:
    """Bytes of the metadata and of the offsets are replaced, one after another: an answer comes each time."""
    content = arrow(0, 20, batches=2)
    random = np.random.default_rng(7)
    async with serving(tmp_path, body_bytes_max=2**20) as server:
        for place in random.integers(0, len(content), 150).tolist():
            damaged = content[:place] + bytes(random.integers(0, 256, 4, dtype=np.uint8)) + content[place + 4 :]
            async with streaming(server.port, server.place, content_type=ARROW) as stream:
                await stream.send(damaged)
                await stream.end()
                last = await stream.last()
                assert last.get("status", stream.status) < 500, last
