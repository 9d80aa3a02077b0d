"""A process that is killed after its commit, before it has told others how far the log goes: they find out by themselves."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from tests.support.engines import Records, as_batch, contents, create_collection, engine_at

from chroma_async.errors import LogConflict
from chroma_async.model import CollectionId, Lsn
from chroma_async.protocol import GetIngestPosition, UpsertRecords
from chroma_async.settings import EngineSettings
from chroma_async.wal import NewEntry, SqliteLog

pytestmark = pytest.mark.anyio

DYING = """
import os, signal
from chroma_async.wal.sqlite.turns import SharedLsn

def die(self, newest):
    os.kill(os.getpid(), signal.SIGKILL)

def be_mortal():
    SharedLsn.set = die
"""

APPENDS = (
    DYING
    + """
import sys
from pathlib import Path
import anyio
from chroma_async.wal import NewEntry, SqliteLog

async def main(directory):
    log = await SqliteLog.open(Path(directory))
    be_mortal()
    await log.append([NewEntry(b"last words", 0, "c")], after=log.barrier())

anyio.run(main, sys.argv[1])
"""
)

WRITES = (
    DYING
    + """
import sys
from pathlib import Path
import chroma_async

with chroma_async.PersistentClient(sys.argv[1], compact=False) as client:
    collection = client.get_collection("things", embedding_function=None)
    be_mortal()
    collection.upsert(["last words"], [[1.0, 2.0]], idempotency_key="once")
"""
)

STREAMS = WRITES.replace(
    """collection.upsert(["last words"], [[1.0, 2.0]], idempotency_key="once")""",
    """collection.ingest_from([{"id": "last words", "embedding": [1.0, 2.0]}], stream_id="s")""",
)


def killed(script: str, directory: Path) -> None:
    done = subprocess.run([sys.executable, "-c", script, str(directory)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL


async def test_the_next_append_is_told_of_the_entry_that_came_before(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    assert await log.append([NewEntry(b"first", 0, CollectionId("c"))], after=Lsn(0)) == 1
    killed(APPENDS, tmp_path)
    with anyio.fail_after(10):
        with pytest.raises(LogConflict):
            await log.append([NewEntry(b"second", 0, CollectionId("c"))], after=Lsn(1))
        assert log.barrier() == 2
        assert await log.append([NewEntry(b"second", 0, CollectionId("c"))], after=Lsn(2)) == 3
    assert [entry.payload async for entry in log.read(after=Lsn(0))] == [b"first", b"last words", b"second"]
    await log.close()


async def test_whoever_has_the_directory_open_writes_on(tmp_path: Path) -> None:
    settings = EngineSettings(durability="off")
    async with engine_at(tmp_path, settings) as engine:
        records = Records(engine, (await create_collection(engine, "things")).id)
        killed(WRITES, tmp_path)
        with anyio.fail_after(20):
            await records.add(["next"], [[3.0, 4.0]])
            assert list(contents(await records.get())) == ["last words", "next"]


async def test_a_write_that_is_found_to_be_there_is_seen_by_all(tmp_path: Path) -> None:
    """Sent again, it is acknowledged; from then on nobody may read past it, in whichever process."""
    settings = EngineSettings(durability="off")
    async with engine_at(tmp_path, settings) as engine, engine_at(tmp_path, settings) as other:
        collection = await create_collection(engine, "things")
        same = Records(other, collection.id)
        assert not contents(await same.get())
        killed(WRITES, tmp_path)
        with anyio.fail_after(20):
            again = UpsertRecords(
                tenant="default_tenant",
                database="default_database",
                collection_id=collection.id,
                ids=["last words"],
                embeddings=as_batch([[1.0, 2.0]]),
                idempotency_key="once",
            )
            assert (await engine.dispatch(again)).lsn is not None
            assert list(contents(await same.get())) == ["last words"]


async def test_a_position_in_a_stream_is_told_when_all_can_read_up_to_it(tmp_path: Path) -> None:
    """Whoever resumes the stream learns that all of it is there, and sends nothing that would make it so."""
    settings = EngineSettings(durability="off")
    async with engine_at(tmp_path, settings) as engine, engine_at(tmp_path, settings) as other:
        collection = await create_collection(engine, "things")
        killed(STREAMS, tmp_path)
        with anyio.fail_after(20):
            place = GetIngestPosition(
                tenant="default_tenant", database="default_database", collection_id=collection.id, stream_id="s"
            )
            assert (await engine.dispatch(place)).position == 1
            assert list(contents(await Records(other, collection.id).get())) == ["last words"]
