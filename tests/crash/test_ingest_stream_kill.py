"""One ingest stream, its server killed and its connection cut, again and again: what came of it is its source."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pyarrow as pa
import pytest
from tests.crash.test_server_processes import COLLECTIONS, Server
from tests.support.streams import streaming, target

from chroma_async.core.metadata import merge_metadata
from chroma_async.protocol.ingest import ARROW, NDJSON

KILLS = 20
CUTS = 20
LINES = 60_000
IDS = 3_000
CHUNK_LINES = 100
SEED = 11

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("op", pa.dictionary(pa.int8(), pa.string())),
        ("embedding", pa.list_(pa.float32(), 4)),
        ("document", pa.string()),
        ("metadata", pa.string()),
    ]
)

Line = dict[str, Any]


def source() -> list[Line]:
    """Lines that are far from idempotent: one that is lost, doubled or out of turn shows in what is there at the end."""
    rng = random.Random(SEED)
    lines: list[Line] = []
    for number in range(LINES):
        operation = rng.choices(["upsert", "add", "update", "delete"], [4, 2, 2, 2])[0]
        line: Line = {"id": f"r{rng.randrange(IDS)}", "op": operation}
        if operation != "delete":
            line["document"] = f"d{number}"
            line["metadata"] = {f"f{rng.randrange(4)}": number}
        if operation in ("upsert", "add"):
            line["embedding"] = [float(number), 0.0, 1.0, 2.0]
        lines.append(line)
    return lines


def outcome(lines: list[Line]) -> dict[str, Line]:
    """Apply the lines one by one."""
    found: dict[str, Line] = {}
    for line in lines:
        name, operation = line["id"], line["op"]
        if operation == "delete":
            found.pop(name, None)
        elif operation == "upsert" or (operation == "add") == (name not in found):
            old = found.get(name, {})
            given = {key: line[key] for key in ("document", "embedding") if key in line}
            found[name] = {**old, **given, "metadata": merge_metadata(old.get("metadata"), line["metadata"])}
    return found


def encoded(lines: list[Line], content_type: str) -> Iterator[bytes]:
    """The rest of a stream in pieces."""
    if content_type == NDJSON:
        for start in range(0, len(lines), CHUNK_LINES):
            yield b"".join(orjson.dumps(line) + b"\n" for line in lines[start : start + CHUNK_LINES])
        return
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        for start in range(0, min(len(lines), 20 * CHUNK_LINES), CHUNK_LINES):
            rows = [
                {**line, "metadata": orjson.dumps(line["metadata"]).decode() if "metadata" in line else None}
                for line in lines[start : start + CHUNK_LINES]
            ]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
    content = bytes(sink.getvalue())
    for start in range(0, len(content), 4096):
        yield content[start : start + 4096]


class Run:
    """The stream, from one interruption to the next."""

    def __init__(self, lines: list[Line], place: str) -> None:
        self.lines = lines
        self.place = place
        self.acknowledged = 0
        self.connections = 0

    def position(self, server: Server) -> int:
        answer = httpx.get(server.url + target(self.place), params={"stream_id": "s"}, timeout=30)
        return int(answer.raise_for_status().json()["position"])

    async def go_on(self, server: Server, lines_max: int | None) -> None:
        """Send what the server lacks, until so many more lines are acknowledged, while more of them are on their way."""
        start = self.position(server)
        assert start >= self.acknowledged
        self.connections += 1
        kind = ARROW if self.connections % 2 else NDJSON
        names = {"stream_id": "s", "session": "one", "position": start}
        async with streaming(server.port, self.place, content_type=kind, **names) as stream:

            async def send() -> None:
                with contextlib.suppress(OSError):
                    beyond = None if lines_max is None else start + 3 * lines_max
                    for piece in encoded(self.lines[start:beyond], kind):
                        await stream.send(piece)
                        await asyncio.sleep(0.002)
                    if lines_max is None:
                        await stream.end()

            sending = asyncio.create_task(send())
            try:
                async for line in stream.lines():
                    assert stream.status == 200, line
                    assert "error" not in line, line
                    assert not line.get("errors"), line
                    assert line["position"] >= self.acknowledged
                    self.acknowledged = line["position"]
                    if lines_max is not None and self.acknowledged >= start + lines_max:
                        return
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)


def contents(url: str, place: str) -> dict[str, Line]:
    found: dict[str, Line] = {}
    include = ["documents", "metadatas", "embeddings"]
    body = {"include": include}
    answer = httpx.post(f"{url}{COLLECTIONS}/{place}/get", json=body, timeout=60).raise_for_status().json()
    columns = (answer["ids"], answer["documents"], answer["metadatas"], answer["embeddings"])
    for name, document, metadata, embedding in zip(*columns, strict=True):
        assert name not in found
        found[name] = {"document": document, "metadata": metadata, "embedding": embedding}
    return found


@pytest.mark.anyio
@pytest.mark.timeout(600)
async def test_a_stream_equals_its_source_after_kills_of_the_server_and_cuts_of_the_connection(tmp_path: Path) -> None:
    lines = source()
    rng = random.Random(SEED)
    interruptions = ["kill"] * KILLS + ["cut"] * CUTS
    rng.shuffle(interruptions)
    server = Server(tmp_path, "--workers", "2")
    try:
        created = httpx.post(server.url + COLLECTIONS, json={"name": "stream"}, timeout=30).raise_for_status()
        run = Run(lines, created.json()["id"])
        for interruption in interruptions:
            await run.go_on(server, rng.randrange(50, LINES // len(interruptions) // 4))
            assert run.acknowledged < LINES
            if interruption == "kill":
                os.killpg(server.process.pid, signal.SIGKILL)
                server.process.wait()
                server.clean_up()
                server = Server(tmp_path, "--workers", "2")
        while run.acknowledged < LINES:
            await run.go_on(server, None)
        assert run.position(server) == LINES
        expected = outcome(lines)
        assert len(expected) > IDS // 2
        assert contents(server.url, run.place) == expected
    finally:
        server.clean_up()
