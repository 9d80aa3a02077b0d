"""Engines that are killed while they write and compact: what was acknowledged is there, whole and once.

`CHROMA_ASYNC_CRASH_ROUNDS=50` for more rounds.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from tests.support.engines import Records, compactor_at, contents, create_collection, engine_at, settle

from chroma_async.engine.engine import Engine
from chroma_async.engine.lock import LOCK_FILE, FileCompactorLock
from chroma_async.model import DEFAULT_DATABASE, DEFAULT_TENANT
from chroma_async.protocol import GetCollection
from chroma_async.settings import Durability, EngineSettings

pytestmark = pytest.mark.anyio

ROUNDS = int(os.environ.get("CHROMA_ASYNC_CRASH_ROUNDS", "3"))
BATCH = 10
START_SECONDS = 60

INGEST = """
import asyncio, json, sys
from pathlib import Path
import numpy as np
from chroma_async.engine.engine import open_engine
from chroma_async.settings import EngineSettings
from chroma_async.protocol import GetCollection
from tests.support.engines import PATH, Records

async def main(path, writer, first, durability="commit"):
    settings = EngineSettings(
        durability=durability, apply_bytes_max=20_000, graph_rows_min=40, segment_rows_max=150, lock_interval_seconds=0.05
    )
    async with open_engine(Path(path), settings) as engine:
        records = Records(engine, (await engine.dispatch(GetCollection(**PATH, name="things"))).id)

        async def write(task, number):
            while True:
                batch = f"{writer}.{task}.{number}"
                ids = [f"{batch}.{row}" for row in range(10)]
                vectors = np.full((10, 4), number % 1000, dtype=np.float32)
                await records.add(ids, vectors, documents=[batch] * 10, metadatas=[{"batch": batch}] * 10)
                await records.upsert([f"{writer}.{task}.latest.{row}" for row in range(10)], vectors, documents=[batch] * 10)
                print(json.dumps([task, number]), flush=True)
                number += 1

        await asyncio.gather(*(write(task, int(first)) for task in range(4)))

asyncio.run(main(*sys.argv[1:]))
"""

COMPACT = """
import asyncio, sys
from pathlib import Path
from chroma_async.engine import engine, compactor
from chroma_async.settings import EngineSettings
compactor.SETTLE_SECONDS = compactor.IDLE_SECONDS = 0.001
settings = EngineSettings(
    apply_bytes_max=3_000, graph_rows_min=8, segment_rows_max=64, lock_interval_seconds=0.05, log_retention_bytes=0
)
print("started", flush=True)
asyncio.run(engine.run_compactor(Path(sys.argv[1]), settings))
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")])}
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True, env=environment)


def kill_after(seconds: float, children: list[subprocess.Popen[str]]) -> list[list[str]]:
    """Let the children run from their first line on, kill them, return the whole lines of each."""
    first = [child.stdout.readline() for child in children if child.stdout is not None]
    assert all(first), "a child ended before it was killed"
    time.sleep(seconds)
    for child in children:
        child.kill()
    rest = [child.communicate()[0].split("\n")[:-1] for child in children]
    return [[line, *lines] for line, lines in zip(first, rest, strict=True)]


async def find(engine: Engine) -> Records:
    call = GetCollection(tenant=DEFAULT_TENANT, database=DEFAULT_DATABASE, name="things")
    return Records(engine, (await engine.dispatch(call)).id)


async def check(records: Records, acknowledged: dict[tuple[str, int], int]) -> None:
    """`acknowledged` has the newest number of each writer's task."""
    found = contents(await records.get())
    batches: dict[str, int] = {}
    latest: dict[str, set[str | None]] = {}
    for record_id, (vector, document, metadata, _) in found.items():
        writer, task, number, _ = record_id.split(".")
        if number == "latest":
            latest.setdefault(f"{writer}.{task}", set()).add(document)
        else:
            assert metadata == {"batch": document}
            assert vector == (float(int(number) % 1000),) * 4
            batches[f"{writer}.{task}.{number}"] = batches.get(f"{writer}.{task}.{number}", 0) + 1
    assert set(batches.values()) <= {BATCH}
    assert all(len(documents) == 1 for documents in latest.values())
    for (writer, task), newest in acknowledged.items():
        mine = {name for name in batches if name.startswith(f"{writer}.{task}.")}
        assert {f"{writer}.{task}.{number}" for number in range(newest + 1)} <= mine
        assert len(mine) <= newest + 2
    assert await records.count() == len(found)
    query = await records.query(np.zeros((1, 4), dtype=np.float32), len(found))
    assert sorted(query.columns[0].ids) == sorted(found)


@pytest.mark.timeout(60 * ROUNDS + 60)
@pytest.mark.parametrize("durability", get_args(Durability))
async def test_acknowledged_batches_survive_kill_whole_and_once(tmp_path: Path, durability: Durability) -> None:
    """Whatever the durability: the operating system has what a killed process wrote."""
    dice = random.Random(ROUNDS)
    async with engine_at(tmp_path) as engine:
        await create_collection(engine)
    acknowledged: dict[tuple[str, int], int] = {}
    for round_number in range(ROUNDS):
        writers = [f"w{round_number}x{number}" for number in range(2)]
        children = [start(INGEST, str(tmp_path), writer, "0", durability) for writer in writers]
        lines = await asyncio.to_thread(kill_after, 0.3 + 1.5 * dice.random(), children)
        for writer, mine in zip(writers, lines, strict=True):
            for task, number in map(json.loads, mine):
                acknowledged[writer, task] = max(number, acknowledged.get((writer, task), 0))
        async with engine_at(tmp_path) as engine:
            await check(await find(engine), acknowledged)
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path, EngineSettings(log_retention_bytes=0)) as compactor:
        await settle(compactor)
        await check(await find(engine), acknowledged)
    async with engine_at(tmp_path) as engine:
        await check(await find(engine), acknowledged)
        assert await engine.log.oldest() == engine.log.barrier() + 1


@pytest.mark.timeout(60 * ROUNDS + 60)
async def test_compactor_killed_anywhere_loses_and_doubles_nothing(tmp_path: Path) -> None:
    dice = random.Random(ROUNDS)
    async with engine_at(tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        expected: dict[str, float] = {}
        for round_number in range(2 * ROUNDS):
            for _ in range(30):
                ids = [f"r{dice.randrange(400)}" for _ in range(8)]
                ids = list(dict.fromkeys(ids))
                value = dice.random()
                vectors = np.full((len(ids), 2), value, dtype=np.float32)
                await records.upsert(ids, vectors, documents=[str(value)] * len(ids), metadatas=[{"v": value}] * len(ids))
                expected.update(dict.fromkeys(ids, value))
                gone = [f"r{dice.randrange(400)}" for _ in range(5)]
                await records.delete(gone)
                for name in gone:
                    expected.pop(name, None)
            child = start(COMPACT, str(tmp_path))
            await asyncio.to_thread(kill_after, dice.random() * 0.7, [child])
            await _check_values(records, expected)
            if round_number % 2:
                async with engine_at(tmp_path) as other:
                    await _check_values(Records(other, records.id), expected)
        async with compactor_at(tmp_path) as compactor:
            await settle(compactor)
        await _check_values(records, expected)


async def _check_values(records: Records, expected: dict[str, float]) -> None:
    found = contents(await records.get())
    assert {name: float(document) for name, (_, document, _, _) in found.items()} == expected
    assert {name: metadata["v"] for name, (_, _, metadata, _) in found.items()} == expected
    assert all(vector == (np.float32(expected[name]),) * 2 for name, (vector, _, _, _) in found.items())
    value = next(iter(expected.values()))
    matching = {name for name, other in expected.items() if other == value}
    assert set(contents(await records.get(where={"v": value}))) == matching
    result = await records.query(np.full((1, 2), value, dtype=np.float32), len(matching))
    assert set(result.columns[0].ids) == matching


async def test_another_process_compacts_within_seconds_of_a_kill(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        holder = start(COMPACT, str(tmp_path))
        assert await asyncio.to_thread(lambda: holder.stdout and holder.stdout.readline())
        async with asyncio.timeout(START_SECONDS):
            while _lock_holder(tmp_path) != holder.pid:
                await asyncio.sleep(0.01)
        waiting = start(COMPACT, str(tmp_path))
        assert await asyncio.to_thread(lambda: waiting.stdout and waiting.stdout.readline())
        await asyncio.sleep(0.3)
        assert not FileCompactorLock(tmp_path).try_acquire()
        holder.kill()
        await asyncio.to_thread(holder.communicate)
        await records.add(["x"], np.zeros((1, 2), dtype=np.float32))
        async with asyncio.timeout(5):
            while await engine.log.oldest() <= engine.log.barrier():
                await asyncio.sleep(0.01)
        assert _lock_holder(tmp_path) == waiting.pid
        waiting.kill()
        await asyncio.to_thread(waiting.communicate)


def _lock_holder(directory: Path) -> int | None:
    path = directory / LOCK_FILE
    text = path.read_text() if path.exists() else ""
    return int(text) if text.endswith("\n") else None
