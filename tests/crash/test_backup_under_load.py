"""Backups of a directory while two processes write to it and a third one compacts: each is the state at its LSN, whole.

`CHROMA_ASYNC_BACKUP_ROUNDS=20` for more backups.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from tests.support.engines import PATH, Records, compactor_at, contents, create_collection, engine_at, settle

from chroma_async.engine.backup import BackupResult
from chroma_async.engine.engine import Engine
from chroma_async.engine.invariants import violations
from chroma_async.engine.restore import restore
from chroma_async.protocol import GetCollection
from chroma_async.settings import EngineSettings
from chroma_async.wal import SqliteLog

pytestmark = pytest.mark.anyio

ROUNDS = int(os.environ.get("CHROMA_ASYNC_BACKUP_ROUNDS", "4"))
BATCH = 10
NAMES = ("busy", "quiet")

INGEST = """
import asyncio, json, sys
from pathlib import Path
import numpy as np
from chroma_async.engine.engine import open_engine
from chroma_async.protocol import GetCollection, UpsertRecords
from chroma_async.settings import EngineSettings
from tests.support.engines import PATH, as_batch

async def main(path, writer):
    async with open_engine(Path(path), EngineSettings(durability="off"), compact=False) as engine:
        ids = [(await engine.dispatch(GetCollection(**PATH, name=name))).id for name in ("busy", "quiet")]
        stopped = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        number = 0
        while not stopped.done():
            place = int(number % 10 == 9)
            batch = f"{writer}.{number}"
            names = [f"{batch}.{row}" for row in range(5)] + [f"{writer}.latest.{row}" for row in range(5)]
            vectors = as_batch(np.full((10, 4), number % 1000, dtype=np.float32))
            fields = [{"batch": batch} for _ in names]
            call = UpsertRecords(
                **PATH, collection_id=ids[place], ids=names, embeddings=vectors, documents=[batch] * 10, metadatas=fields
            )
            done = await engine.dispatch(call)
            print(json.dumps([place, number, done.lsn]), flush=True)
            number += 1

asyncio.run(main(*sys.argv[1:]))
"""

COMPACT = """
import asyncio, sys
from pathlib import Path
from chroma_async.engine import engine, compactor
from chroma_async.settings import EngineSettings
compactor.SETTLE_SECONDS = compactor.IDLE_SECONDS = 0.001
settings = EngineSettings(
    durability="off", apply_bytes_max=20_000, graph_rows_min=64, segment_rows_max=500, lock_interval_seconds=0.05,
    log_retention_bytes=0,
)
asyncio.run(engine.run_compactor(Path(sys.argv[1]), settings))
"""


def start(script: str, *arguments: str, output: Path | None = None) -> subprocess.Popen[str]:
    """Run a script. What it says goes to a file, if there is one: a full pipe that nobody reads stops who writes."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")])}
    with ExitStack() as stack:
        stdout = subprocess.PIPE if output is None else stack.enter_context(output.open("w"))
        return subprocess.Popen(
            [sys.executable, "-c", script, *arguments], stdin=subprocess.PIPE, stdout=stdout, text=True, env=environment
        )


def slowly(what: str, done: int, total: int) -> None:
    """Let much be written and applied between what a backup copies first and last."""
    time.sleep(0.02)


async def grow(engine: Engine) -> None:
    """Wait until more was written and some of it applied."""
    target = engine.log.barrier() + 40
    end = time.monotonic() + 60
    while engine.log.barrier() < target or await engine.log.oldest() == 1:
        assert time.monotonic() < end, f"committed={engine.log.barrier()} of {target}, oldest={await engine.log.oldest()}"
        await asyncio.sleep(0.05)


Written = dict[str, list[tuple[int, int, int]]]
"""Per writer: place, number and LSN of each batch."""


def expected(written: Written, place: int, lsn: int) -> dict[str, tuple[str, float]]:
    """Batch and vector by id, after all that has an LSN up to this one."""
    state: dict[str, tuple[str, float]] = {}
    for writer, batches in written.items():
        for where, number, position in batches:
            if where == place and position <= lsn:
                batch = f"{writer}.{number}"
                names = [*(f"{batch}.{row}" for row in range(5)), *(f"{writer}.latest.{row}" for row in range(5))]
                state.update(dict.fromkeys(names, (batch, float(number % 1000))))
    return state


async def found_in(engine: Engine, name: str) -> dict[str, tuple[str, float]]:
    collection = await engine.dispatch(GetCollection(**PATH, name=name))
    records = Records(engine, collection.id)
    found = contents(await records.get())
    assert await records.count() == len(found)
    state: dict[str, tuple[str, float]] = {}
    for record_id, (vector, document, metadata, _) in found.items():
        assert metadata == {"batch": document}
        assert vector == (vector[0],) * 4
        state[record_id] = (document, vector[0])
    if found:
        nearest = await records.query(np.zeros((1, 4), dtype=np.float32), len(found))
        assert sorted(nearest.columns[0].ids) == sorted(found)
    return state


@pytest.mark.timeout(60 * ROUNDS + 120)
async def test_a_restored_backup_is_the_state_at_its_lsn(tmp_path: Path) -> None:
    data, place = tmp_path / "data", tmp_path / "backups"
    made: list[tuple[BackupResult, int]] = []
    async with engine_at(data) as engine:
        for name in NAMES:
            await create_collection(engine, name)
        outputs = {writer: tmp_path / f"{writer}.lines" for writer in ("one", "two")}
        writers = [start(INGEST, str(data), writer, output=output) for writer, output in outputs.items()]
        children = [start(COMPACT, str(data)), *writers]
        try:
            for _ in range(ROUNDS):
                await grow(engine)
                acknowledged = engine.log.barrier()
                made.append((await engine.backup(place, slowly), acknowledged))
        finally:
            for writer in writers:
                await asyncio.to_thread(writer.communicate, "")
            children[0].kill()
            children[0].communicate()
    written: Written = {
        writer: [tuple(json.loads(line)) for line in output.read_text().splitlines()] for writer, output in outputs.items()
    }
    assert made[-1][0].backup.lsn > made[0][0].backup.lsn > 0
    assert any(item.applied < made[-1][0].backup.lsn for item in made[-1][0].backup.collections)
    for number, (result, acknowledged) in enumerate(made):
        copy = tmp_path / f"copy{number}"
        assert result.backup.lsn >= acknowledged
        restore(result.path, copy)
        await check(copy, written, result.backup.lsn)
        async with compactor_at(copy, EngineSettings()) as compactor:
            await settle(compactor)
        await check(copy, written, result.backup.lsn)
        log = await SqliteLog.open(copy)
        assert log.barrier() == result.backup.lsn
        assert await violations(copy, log) == []
        await log.close()
        shutil.rmtree(copy)


async def check(directory: Path, written: Written, lsn: int) -> None:
    async with engine_at(directory) as engine:
        for place, name in enumerate(NAMES):
            assert await found_in(engine, name) == expected(written, place, lsn)


BACK_UP = """
import asyncio, sys, time
from pathlib import Path
from tests.support.engines import engine_at

def slowly(what, done, total):
    print(what, flush=True)
    time.sleep(0.1)

async def main(path, place):
    async with engine_at(Path(path)) as engine:
        await engine.backup(Path(place), slowly)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_backup_that_is_killed_leaves_nothing_held(tmp_path: Path) -> None:
    data, place = tmp_path / "data", tmp_path / "backups"
    async with engine_at(data) as engine, compactor_at(data) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add([str(number) for number in range(50)], np.ones((50, 4), np.float32))
        await settle(compactor)
        child = start(BACK_UP, str(data), str(place))
        assert child.stdout is not None
        assert await asyncio.to_thread(child.stdout.readline) == "copying\n"
        await records.add(["late"], np.ones((1, 4), np.float32))
        await settle(compactor)
        assert await engine.log.oldest() <= engine.log.barrier()
        child.kill()
        child.communicate()
        await compactor.step()
        assert await engine.log.oldest() == engine.log.barrier() + 1
        assert [path.suffix for path in place.iterdir() if path.is_dir()] == [".partial"]
        made = await engine.backup(place)
    assert [path for path in place.iterdir() if path.is_dir()] == [made.path]
