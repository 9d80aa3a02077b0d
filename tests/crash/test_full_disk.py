"""A disk that gets full in the middle of an ingest, and has room again later; a limit on the size of files; no handles."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from tests.support.engines import (
    TINY,
    Records,
    compactor_at,
    contents,
    create_collection,
    delete_collection,
    engine_at,
    settle,
)
from tests.support.handles import no_handles
from tests.support.small_disk import NoMounts, fill, small_disk

from chroma_async.engine import open_engine
from chroma_async.engine.engine import Engine
from chroma_async.errors import ChromaError, InsufficientStorageError, ResourceLimitError
from chroma_async.protocol import CheckHealth
from chroma_async.settings import EngineSettings

pytestmark = pytest.mark.anyio

DISK_BYTES = 24 * 2**20
SETTINGS = replace(
    TINY, durability="commit", disk_reserve_bytes=0, apply_bytes_max=2**20, graph_rows_min=500, segment_rows_max=2_000
)


@dataclass
class Ingest:
    """Batches of 20 records that were answered, and those that were refused."""

    records: Records
    acknowledged: dict[str, tuple[float, ...]]
    refusals: list[ChromaError]
    batches: int = 0
    text_repeats: int = 100

    async def write(self) -> bool:
        """Write one batch; say whether it was taken."""
        number, self.batches = self.batches, self.batches + 1
        ids = [f"{number}-{row}" for row in range(20)]
        vectors = np.random.default_rng(number).standard_normal((20, 64)).astype(np.float32)
        try:
            await self.records.add(ids, vectors, documents=[f"text {name} " * self.text_repeats for name in ids])
        except ChromaError as error:
            self.refusals.append(error)
            return False
        self.acknowledged.update(zip(ids, map(tuple, vectors.tolist()), strict=True))
        return True

    async def check(self) -> None:
        """What is there is what was answered."""
        found = contents(await self.records.get())
        assert {record_id: row[0] for record_id, row in found.items()} == self.acknowledged
        assert await self.records.count() == len(self.acknowledged)
        if self.acknowledged:
            wanted = next(reversed(self.acknowledged))
            result = await self.records.query([self.acknowledged[wanted]], 1)
            assert result.columns[0].ids == [wanted]


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    try:
        with small_disk(tmp_path / "disk", getattr(request, "param", DISK_BYTES)) as path:
            yield path
    except NoMounts as error:
        pytest.skip(f"needs the right to mount a tmpfs, as root has; the tests by file size limit run everywhere. {error}")


@asynccontextmanager
async def ingesting(directory: Path, settings: EngineSettings = SETTINGS) -> AsyncIterator[tuple[Engine, Ingest]]:
    async with open_engine(directory, settings) as engine:
        yield engine, Ingest(Records(engine, (await create_collection(engine)).id), {}, [])


async def until_refused(ingest: Ingest) -> None:
    async with asyncio.timeout(60):
        while await ingest.write():
            if ingest.batches % 50 == 0:
                await ingest.check()


async def until_it_stays_refused(ingest: Ingest) -> None:
    """Write until nothing that the compactor still gives back lets another batch in."""
    async with asyncio.timeout(60):
        refused = 0
        while refused < 20:
            refused = 0 if await ingest.write() else refused + 1
            if refused:
                await asyncio.sleep(0.1)


async def until_taken(ingest: Ingest) -> None:
    async with asyncio.timeout(30):
        while not await ingest.write():
            await asyncio.sleep(0.1)


async def health(engine: Engine) -> bool:
    return (await engine.dispatch(CheckHealth()))["is_log_client_ready"]


def limited(engine: Engine, reason: str = "disk_full") -> float:
    return engine.metrics.write_limit.labels(reason)._value.get()


async def test_a_disk_that_gets_full_during_an_ingest_stops_writes_alone_until_there_is_room(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = disk / "data"
    async with ingesting(directory) as (engine, ingest):
        for _ in range(20):
            assert await ingest.write()
        ballast = fill(disk, leave_bytes=2 * 2**20)
        await until_refused(ingest)
        for _ in range(20):  # each tries anew; what is left of the disk may be enough for one of them
            await ingest.write()
            await ingest.check()
            await asyncio.sleep(0.05)
        assert {type(error) for error in ingest.refusals} == {InsufficientStorageError}
        assert "free some" in ingest.refusals[0].message
        assert limited(engine) == 1
        assert not await health(engine)
        await asyncio.sleep(2)  # the compactor pauses several times
        paused = [record for record in caplog.records if "compactor.paused" in record.getMessage()]
        assert len(paused) <= 1 + sum("compactor.resumed" in record.getMessage() for record in caplog.records)
        assert not [record for record in caplog.records if record.levelname == "ERROR"]

        ballast.unlink()
        await until_taken(ingest)
        assert limited(engine) == 0
        assert await health(engine)
        for _ in range(50):
            assert await ingest.write()
        await ingest.check()
    async with engine_at(directory, SETTINGS) as engine:  # another process sees the same
        again = replace(ingest, records=Records(engine, ingest.records.id))
        await again.check()


async def test_every_collection_can_be_read_on_a_disk_without_a_free_byte(disk: Path) -> None:
    """Also those that were never opened by this process, and whose tables nobody has open."""
    directory = disk / "data"
    async with ingesting(directory) as (_, ingest):
        for _ in range(20):
            assert await ingest.write()
    async with compacted(directory):
        pass
    async with engine_at(directory, SETTINGS) as engine:
        again = replace(ingest, records=Records(engine, ingest.records.id), refusals=[])
        ballast = fill(disk)
        assert not (directory / "collections" / again.records.id / "records.sqlite3-shm").exists()
        await again.check()
        for _ in range(3):
            assert not await again.write()
        assert {type(error) for error in again.refusals} == {InsufficientStorageError}
        await again.check()
        async with engine_at(directory, SETTINGS) as late:
            await replace(again, records=Records(late, again.records.id)).check()
        ballast.unlink()
        await until_taken(again)
        await again.check()
    fill(disk)  # nobody has it open: SQLite needs a few kilobytes
    with pytest.raises(InsufficientStorageError, match="no room"):
        async with engine_at(directory, SETTINGS):
            pass


@asynccontextmanager
async def compacted(directory: Path) -> AsyncIterator[None]:
    yield
    async with open_engine(directory, SETTINGS, compact=False), compactor_at(directory, SETTINGS) as compactor:
        await settle(compactor)


@pytest.mark.parametrize("disk", [128 * 2**20], indirect=True)
async def test_deleting_a_collection_makes_room_out_of_the_reserve(disk: Path) -> None:
    """Writes stop while the compactor and a deletion still have what they need."""
    async with ingesting(disk / "data", EngineSettings()) as (engine, ingest):
        ingest.text_repeats = 1_500
        await until_it_stays_refused(ingest)
        await ingest.check()
        other = Ingest(Records(engine, (await create_collection(engine, "other")).id), {}, [], text_repeats=1_500)
        await until_it_stays_refused(other)
        await delete_collection(engine)
        await until_taken(other)
        await other.check()


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """Let the kernel refuse longer files to this process (EFBIG), which needs no rights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_limit_on_the_size_of_files_stops_writes_alone_until_it_is_raised(tmp_path: Path) -> None:
    async with ingesting(tmp_path / "data") as (_, ingest):
        for _ in range(10):
            assert await ingest.write()
        await ingest.check()
        with file_size_limit(100_000):
            await until_refused(ingest)
            for _ in range(10):
                await ingest.write()
                await ingest.check()
            assert {type(error) for error in ingest.refusals} == {InsufficientStorageError}
        await until_taken(ingest)
        await ingest.check()


async def test_without_file_handles_calls_fail_alone(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as (engine, ingest):
        unread = Ingest(Records(engine, (await create_collection(engine, "unread")).id), {}, [])
        for _ in range(10):
            assert await ingest.write()
            assert await unread.write()
    async with compacted(tmp_path):
        pass
    async with engine_at(tmp_path, SETTINGS) as engine:
        ingest.records = Records(engine, ingest.records.id)
        unread.records = Records(engine, unread.records.id)
        await ingest.check()
        with no_handles():
            for _ in range(5):
                assert not await ingest.write()
            assert {type(error) for error in ingest.refusals} == {ResourceLimitError}
            assert "ulimit" in ingest.refusals[0].message
            assert limited(engine, "file_handles") == 1
            await ingest.check()  # needs none
            with pytest.raises(ResourceLimitError, match="file handles"):
                await unread.records.get()
        assert await ingest.write()
        assert limited(engine, "file_handles") == 0
        await ingest.check()
        await unread.check()
