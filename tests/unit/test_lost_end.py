"""A directory whose log ends before what was applied of it, as a copy has it that was made while the directory was in use.

Entries get LSNs that others had before: whoever has applied those would pass them over.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import orjson
import pytest
from tests.support.engines import (
    PATH,
    TINY,
    Records,
    compactor_at,
    contents,
    create_collection,
    delete_collection,
    engine_at,
    settle,
)

from chroma_async.engine.collection import CollectionReader
from chroma_async.engine.engine import Engine, open_engine
from chroma_async.engine.verify import verify
from chroma_async.errors import (
    DirectoryReplacedError,
    InternalError,
    InvalidDimensionException,
    ResourceLimitError,
    StorageCorrupt,
    UnavailableError,
)
from chroma_async.model import Lsn
from chroma_async.projections.manifest import Manifest
from chroma_async.protocol import CountRecords, GetCollection, Ingest
from chroma_async.protocol.ingest import NDJSON
from chroma_async.wal import checks

pytestmark = pytest.mark.anyio

LOG_FILES = ("log.sqlite3", "log.sqlite3-wal", "log.sqlite3-shm", "log.committed")


async def records_of(engine: Engine) -> Records:
    return Records(engine, (await engine.dispatch(GetCollection(**PATH, name="copied"))).id)


def streamed(records: Records, vector: list[float]) -> Ingest:
    """A line of an ingest stream."""
    line = orjson.dumps({"id": "streamed", "embedding": vector}) + b"\n"
    return Ingest(
        **PATH, collection_id=records.id, stream_id="s", session="s", content=line, position=0, content_type=NDJSON
    )


async def apply_all(directory: Path) -> None:
    async with compactor_at(directory, TINY) as compactor:
        await settle(compactor)


def put_aside(directory: Path, copied: Path) -> None:
    """Copy the log of a directory."""
    copied.mkdir()
    for name in LOG_FILES:
        if (directory / name).exists():
            shutil.copy2(directory / name, copied / name)


def put_back(copied: Path, directory: Path) -> None:
    """Let a directory have the log that was copied."""
    for name in LOG_FILES:
        (directory / name).unlink(missing_ok=True)
    shutil.copytree(copied, directory, dirs_exist_ok=True)


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    """The log was copied after three records, the tables after nine."""
    directory, copied = tmp_path / "data", tmp_path / "log"
    async with engine_at(directory, TINY) as engine:
        records = Records(engine, (await create_collection(engine, "copied")).id)
        for number in range(3):
            await records.add([f"old-{number}"], [[number, 1.0]])
    put_aside(directory, copied)
    async with engine_at(directory, TINY) as engine:
        records = await records_of(engine)
        for number in range(6):
            await records.add([f"later-{number}"], [[number, 2.0]], metadatas=[{"part": "later"}])
    await apply_all(directory)
    put_back(copied, directory)
    return directory


BEFORE = {*(f"old-{number}" for number in range(3)), *(f"later-{number}" for number in range(6))}


async def add(records: Records) -> set[str]:
    for number in range(4):
        await records.add([f"new-{number}"], [[number, 3.0]])
    return BEFORE | {f"new-{number}" for number in range(4)}


async def ingest(records: Records) -> set[str]:
    await records.engine.dispatch(streamed(records, [1.0, 3.0]))
    return BEFORE | {"streamed"}


async def delete_by_filter(records: Records) -> set[str]:
    assert await records.delete(where_document={"$contains": "no"}) == 0
    assert await records.delete(where={"part": "later"}) == 6
    return {f"old-{number}" for number in range(3)}


async def upsert(records: Records) -> set[str]:
    await records.upsert(["new", "old-0"], [[1.0, 3.0], [1.0, 3.0]])
    return BEFORE | {"new"}


async def delete_by_ids(records: Records) -> set[str]:
    await records.delete(["old-1", "later-1"])
    return BEFORE - {"old-1", "later-1"}


async def test_what_was_applied_is_read(directory: Path) -> None:
    async with engine_at(directory, TINY) as engine:
        assert set(contents(await (await records_of(engine)).get())) == BEFORE


@pytest.mark.parametrize("write", [add, upsert, ingest, delete_by_ids, delete_by_filter])
async def test_no_write_is_passed_over(directory: Path, write: Callable[[Records], Awaitable[set[str]]]) -> None:
    async with engine_at(directory, TINY) as engine:
        records = await records_of(engine)
        expected = await write(records)
        assert set(contents(await records.get())) == expected
    await apply_all(directory)
    async with engine_at(directory, TINY) as engine:
        assert set(contents(await (await records_of(engine)).get())) == expected


async def test_no_write_is_passed_over_that_is_sent_again_after_a_refusal(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also others are not held up: neither other collections, nor what is done once in a while for all of them."""
    async with open_engine(directory, TINY, compact=False) as engine:
        records, other = await records_of(engine), Records(engine, (await create_collection(engine, "other")).id)
        with monkeypatch.context() as patched:
            patched.setattr(checks, "LOST_MAX", 0)
            for _ in range(3):
                added = [records.add(["new"], [[1.0, 3.0]]), other.add([str(uuid4())], [[1.0]])]
                refused, taken = await asyncio.gather(*added, return_exceptions=True)
                assert isinstance(refused, InternalError)
                assert "restore a backup" in str(refused)
                assert taken is None
            await records.count()
            for _ in range(3):
                await engine.upkeep()
        assert caplog.text.count("log.end_failed") == 1
        assert "log.tail_lost" not in caplog.text
        await records.add(["new"], [[1.0, 3.0]])
        assert caplog.text.count("log.tail_lost newest=") == 1
    await apply_all(directory)
    async with engine_at(directory, TINY) as engine:
        assert set(contents(await (await records_of(engine)).get())) == BEFORE | {"new"}
        assert await Records(engine, other.id).count() == 3


async def test_no_write_is_passed_over_though_an_index_of_the_tables_is_damaged(directory: Path) -> None:
    (tables,) = directory.glob("collections/*/records.sqlite3")
    with closing(sqlite3.connect(tables)) as connection:
        found = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_records_1'")
        begin = (found.fetchone()[0] - 1) * connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(tables.read_bytes())
    entries = int.from_bytes(data[begin + 3 : begin + 5], "big")
    data[begin + 3 : begin + 5] = (entries - 1).to_bytes(2, "big")  # it lacks the last one
    tables.write_bytes(data)
    async with open_engine(directory, TINY, compact=False) as engine:
        await (await records_of(engine)).add(["new"], [[1.0, 3.0]])
    await apply_all(directory)
    async with engine_at(directory, TINY) as engine:
        assert set(contents(await (await records_of(engine)).get())) == BEFORE | {"new"}


async def test_a_write_is_refused_while_the_tables_can_not_be_looked_at(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(reader: CollectionReader) -> Manifest:
        raise OSError(errno.EMFILE, "Too many open files")

    async with engine_at(directory, TINY) as engine:
        records = await records_of(engine)
        with monkeypatch.context() as patched:
            patched.setattr(CollectionReader, "stored_manifest", fail)
            with pytest.raises(ResourceLimitError):
                await records.add(["refused"], [[1.0, 3.0]])
        await records.add(["new"], [[1.0, 3.0]])
        assert set(contents(await records.get())) == BEFORE | {"new"}


async def test_a_write_is_refused_while_tables_that_are_ahead_can_not_be_looked_at_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Manifest] = []
    look = CollectionReader.stored_manifest

    def look_once(reader: CollectionReader) -> Manifest:
        if looks:
            raise StorageCorrupt("damaged meanwhile")
        looks.append(look(reader))
        return looks[0]

    async with engine_at(directory, TINY) as engine:
        records = await records_of(engine)
        with monkeypatch.context() as patched:
            patched.setattr(CollectionReader, "stored_manifest", look_once)
            with pytest.raises(UnavailableError, match="try again"):
                await records.add(["refused"], [[1.0, 3.0]])
        await records.add(["new"], [[1.0, 3.0]])
        assert set(contents(await records.get())) == BEFORE | {"new"}


async def test_what_can_not_be_made_up_for_does_not_keep_others_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two collections that were read one is too far ahead of the log."""
    here, copied = tmp_path / "data", tmp_path / "log"
    async with engine_at(here, TINY) as engine:
        far, near = [Records(engine, (await create_collection(engine, name)).id) for name in ("far", "near")]
        put_aside(here, copied)
        for records in (near, far):
            for number in range(4):
                await records.add([f"{number}"], [[1.0, 1.0]])
        newest = engine.position
    await apply_all(here)
    put_back(copied, here)
    async with open_engine(here, TINY, compact=False) as engine:
        for records in (far, near):
            assert await Records(engine, records.id).count() == 4
        monkeypatch.setattr(checks, "LOST_MAX", 6)
        await engine.upkeep()
        assert engine.log.barrier() == newest - 4


async def test_the_dimension_that_the_records_have_holds_though_the_log_does_not_know_it(tmp_path: Path) -> None:
    """It was copied before the first write."""
    here, copied = tmp_path / "data", tmp_path / "log"
    async with engine_at(here, TINY) as engine:
        await create_collection(engine, "copied")
    put_aside(here, copied)
    async with engine_at(here, TINY) as engine:
        await (await records_of(engine)).add(["old"], [[1.0, 2.0]])
    await apply_all(here)
    put_back(copied, here)
    async with engine_at(here, TINY) as engine:
        records = await records_of(engine)
        assert (await records.query([[1.0, 2.0]])).columns[0].ids == ["old"]
        with pytest.raises(InvalidDimensionException, match="dimension of 2, got 3"):
            await records.query([[1.0, 2.0, 3.0]])
        await records.delete(["nobody"])
        for _ in range(2):
            with pytest.raises(InvalidDimensionException, match="dimension of 2, got 3"):
                await records.add(["other"], [[1.0, 2.0, 3.0]])
        with pytest.raises(InvalidDimensionException, match="dimension of 2, got 3"):
            await engine.dispatch(streamed(records, [1.0, 2.0, 3.0]))
        await records.add(["new"], [[1.0, 3.0]])
        with pytest.raises(InvalidDimensionException, match="dimension of 2, got 3"):
            await records.add(["other"], [[1.0, 2.0, 3.0]])
    await apply_all(here)
    async with engine_at(here, TINY) as engine:
        assert set(contents(await (await records_of(engine)).get())) == {"old", "new"}


async def test_while_nothing_is_at_the_place_nothing_is_compared(directory: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    async with open_engine(directory, TINY, compact=False) as engine:
        records = await records_of(engine)
        directory.rename(away)
        with pytest.raises(DirectoryReplacedError):
            await records.add(["lost"], [[1.0, 3.0]])
        away.rename(directory)
        await records.add(["new"], [[1.0, 3.0]])
    await apply_all(directory)
    async with engine_at(directory, TINY) as engine:
        assert set(contents(await (await records_of(engine)).get())) == BEFORE | {"new"}


async def test_another_directory_at_the_place_says_nothing_of_the_log(tmp_path: Path) -> None:
    here, newer, away = tmp_path / "data", tmp_path / "newer", tmp_path / "away"
    async with engine_at(here, TINY) as engine:
        await Records(engine, (await create_collection(engine, "copied")).id).add(["old"], [[1.0, 1.0]])
    await apply_all(here)
    shutil.copytree(here, newer)
    async with engine_at(newer, TINY) as engine:
        for number in range(3):
            await (await records_of(engine)).add([f"{number}"], [[1.0, 1.0]])
    await apply_all(newer)
    async with open_engine(here, TINY, compact=False) as engine:
        records, position = await records_of(engine), engine.position
        here.rename(away)
        newer.rename(here)
        assert await records.count() == 4
        await engine.upkeep()
        here.rename(newer)
        away.rename(here)
        await engine.upkeep()
        assert engine.position == engine.log.barrier() == position


async def test_several_writers_lose_nothing(directory: Path) -> None:
    async with engine_at(directory, TINY) as one, engine_at(directory, TINY) as other:
        first, second = await records_of(one), await records_of(other)
        await asyncio.gather(*(side.add([f"{number}"], [[number, 3.0]]) for number, side in enumerate([first, second] * 5)))
        assert set(contents(await second.get())) == BEFORE | {str(number) for number in range(10)}
    await apply_all(directory)
    async with engine_at(directory, TINY) as engine:
        assert await (await records_of(engine)).count() == 9 + 10


async def test_who_has_seen_what_was_applied_can_go_on_reading(directory: Path) -> None:
    """A session reads on from what it has seen, which this log would come to only with the next writes."""
    async with engine_at(directory, TINY) as engine:
        records = await records_of(engine)
        seen = (await engine.dispatch(CountRecords(**PATH, collection_id=records.id))).lsn
        assert seen == 12
        again = CountRecords(**PATH, collection_id=records.id, min_lsn=seen)
        assert (await asyncio.wait_for(engine.dispatch(again), 20)).count == 9


async def test_verify_says_that_the_end_is_lost_and_makes_up_for_it(directory: Path) -> None:
    (logged,) = [found for found in verify(directory).findings if found.path == "log.sqlite3"]
    assert logged.state == "mendable"
    assert "newest=6 applied=12" in logged.reason
    assert not verify(directory).is_whole
    assert verify(directory, repair=True).is_whole
    assert verify(directory).count("whole") == len(verify(directory).findings)
    async with engine_at(directory, TINY) as engine:
        assert engine.position == Lsn(12)
        expected = await add(await records_of(engine))
    await apply_all(directory)
    async with engine_at(directory, TINY) as engine:
        assert set(contents(await (await records_of(engine)).get())) == expected


async def test_verify_does_not_mend_what_is_too_much(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LOST_MAX", 2)
    for repair in (False, True):
        (logged,) = [found for found in verify(directory, repair=repair).findings if found.path == "log.sqlite3"]
        assert logged.state == "lost"


async def test_verify_says_what_it_could_not_mend(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(directory: Path, lsn: Lsn) -> None:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr("chroma_async.engine.verify.go_on_after", fail)
    (logged,) = [found for found in verify(directory, repair=True).findings if found.path == "log.sqlite3"]
    assert logged.state == "mendable"


def damaged(directory: Path) -> dict[str, str]:
    """What `verify` finds damaged, by file."""
    return {found.path: found.state for found in verify(directory).findings if found.state != "whole"}


async def test_verify_says_that_entries_are_lost_that_had_been_told_of(tmp_path: Path) -> None:
    here, copied = tmp_path / "data", tmp_path / "log"
    async with engine_at(here, TINY) as engine:
        records = Records(engine, (await create_collection(engine, "copied")).id)
        await records.add(["old"], [[1.0, 2.0]])
        newest = engine.position
    put_aside(here, copied)
    async with open_engine(here, TINY, compact=False) as engine:
        await (await records_of(engine)).add(["lost"], [[1.0, 2.0]])
    shutil.copy2(here / "log.committed", copied)
    put_back(copied, here)
    (logged,) = [found for found in verify(here).findings if found.path == "log.sqlite3"]
    assert (logged.state, f"newest={newest} published={newest + 1}" in logged.reason) == ("mendable", True)
    assert verify(here, repair=True).is_whole
    assert damaged(here) == {}
    async with engine_at(here, TINY) as engine:
        await (await records_of(engine)).add(["new"], [[1.0, 2.0]])
        assert engine.position == newest + 2


@pytest.mark.parametrize("number", [b"", b"\xff" * 16])
async def test_verify_takes_a_damaged_number_of_what_was_told_of_for_no_loss(tmp_path: Path, number: bytes) -> None:
    async with engine_at(tmp_path, TINY) as engine:
        await create_collection(engine, "some")
    (tmp_path / "log.committed").write_bytes(number)
    assert damaged(tmp_path) == {}


@pytest.mark.parametrize("published", [True, False])
async def test_a_collection_that_the_log_has_lost_is_not_removed(tmp_path: Path, published: bool) -> None:
    """It was made behind the end. Whether the log knows that by what it had published makes no difference."""
    here, copied = tmp_path / "data", tmp_path / "log"
    async with engine_at(here, TINY) as engine:
        await create_collection(engine, "old")
    put_aside(here, copied)
    async with engine_at(here, TINY) as engine:
        young = Records(engine, (await create_collection(engine, "young")).id)
        await young.add(["precious"], [[1.0, 2.0]])
        gone = await create_collection(engine, "gone")
    await apply_all(here)
    if published:
        (copied / "log.committed").unlink()
        shutil.copy2(here / "log.committed", copied)
    put_back(copied, here)
    assert damaged(here) == {f"collections/{young.id}": "lost"} | ({"log.sqlite3": "mendable"} if published else {})
    for _ in range(2):
        await apply_all(here)
        kept = here / "collections" / f"{young.id}.lost"
        assert damaged(here) == {f"collections/{kept.name}": "lost"}
        assert [path.name for path in (here / "collections").iterdir() if "old" not in path.name] == [kept.name]
        with closing(sqlite3.connect(kept / "records.sqlite3")) as tables:
            assert tables.execute("SELECT id FROM records").fetchall() == [("precious",)]
    assert not (here / "collections" / gone.id).exists()


@pytest.mark.parametrize("count", [1, 2, 12])
async def test_what_was_written_since_does_not_hide_that_a_collection_was_lost(tmp_path: Path, count: int) -> None:
    """Its LSNs are others' by then, which the log can tell of."""
    here, copied = tmp_path / "data", tmp_path / "log"
    async with engine_at(here, TINY) as engine:
        old = Records(engine, (await create_collection(engine, "old")).id)
    put_aside(here, copied)
    async with engine_at(here, TINY) as engine:
        young = Records(engine, (await create_collection(engine, "young")).id)
        await young.add(["precious"], [[1.0, 2.0]])
    await apply_all(here)
    put_back(copied, here)
    async with engine_at(here, TINY) as engine:
        old = Records(engine, old.id)
        for number in range(count):
            await old.add([f"new-{number}"], [[1.0, 2.0]])
    assert damaged(here) == {f"collections/{young.id}": "lost"}
    await apply_all(here)
    assert (here / "collections" / f"{young.id}.lost" / "records.sqlite3").exists()
    async with engine_at(here, TINY) as engine:
        assert await Records(engine, old.id).count() == count


async def test_what_a_deleted_collection_has_left_is_removed(tmp_path: Path) -> None:
    here, aside = tmp_path / "data", tmp_path / "aside"
    async with engine_at(here, TINY) as engine:
        collection = await create_collection(engine, "gone")
        await Records(engine, collection.id).add(["a"], [[1.0, 2.0]])
    await apply_all(here)
    shutil.copytree(here / "collections" / collection.id, aside)
    async with engine_at(here, TINY) as engine:
        await delete_collection(engine, "gone")
    await apply_all(here)
    shutil.copytree(aside, here / "collections" / collection.id)
    await apply_all(here)
    assert list((here / "collections").iterdir()) == []
