"""Backup and restore of one directory, step by step."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.support.engines import Records, compactor_at, contents, create_collection, delete_collection, engine_at, settle

from chroma_async.engine import backup as backup_module
from chroma_async.engine.backup import BackupResult
from chroma_async.engine.backup_list import read_backup
from chroma_async.engine.invariants import violations
from chroma_async.engine.restore import check_backup, find_backup, restore
from chroma_async.errors import BackupError, FormatError, StorageCorrupt
from chroma_async.model import Lsn
from chroma_async.protocol import GetCollection, ListCollections
from chroma_async.wal import SqliteLog

pytestmark = pytest.mark.anyio

PLACE = {"tenant": "default_tenant", "database": "default_database"}


async def fill(records: Records, first: int, count: int) -> None:
    """Upsert records in batches of ten; every third changes an earlier one, every fourth batch deletes one."""
    for start in range(first, first + count, 10):
        ids = [str(number - 7 if number % 3 == 0 else number) for number in range(start, start + 10)]
        ids = list(dict.fromkeys(ids))
        vectors = np.array([[int(item), start, 1.0, 0.5] for item in ids], dtype=np.float32)
        fields = [{"batch": start, "text": "é" * (start % 5), "flag": bool(start % 2), "share": start / 3} for _ in ids]
        await records.upsert(ids, vectors, documents=[f"{start} 文 {item}" for item in ids], metadatas=fields)
        if start % 40 == 0:
            await records.delete([ids[0]])


async def snapshot(directory: Path, name: str = "things") -> dict[str, tuple[object, ...]]:
    async with engine_at(directory) as engine:
        found = await engine.dispatch(GetCollection(**PLACE, name=name))
        return contents(await Records(engine, found.id).get())


async def make(directory: Path, destination: Path) -> BackupResult:
    async with engine_at(directory) as engine:
        return await engine.backup(destination)


def linked(result: BackupResult) -> set[str]:
    return {file.path for file in result.backup.files if (result.path / file.path).stat().st_nlink > 1}


async def filled(directory: Path, count: int = 100) -> None:
    """Some of it applied, with graphs, and some of it only in the log."""
    async with engine_at(directory) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await fill(records, 0, count)
        async with compactor_at(directory) as compactor:
            await settle(compactor)
        await fill(records, count, 30)


async def test_what_was_backed_up_is_restored(tmp_path: Path) -> None:
    data, place, copy = tmp_path / "data", tmp_path / "backups", tmp_path / "copy"
    await filled(data)
    made = await make(data, place)
    assert {file.path.split("/")[-1] for file in made.backup.files} >= {
        "VERSION",
        "log.sqlite3",
        "records.sqlite3",
        "vectors.f32",
        "slots.i64",
    }
    assert any(file.path.endswith(".usearch") for file in made.backup.files)
    assert made.copied_bytes == made.backup.size_bytes
    done = restore(place, copy)
    assert done.backup == made.backup
    assert await snapshot(copy) == await snapshot(data)
    async with compactor_at(copy) as compactor:
        await settle(compactor)
    assert await snapshot(copy) == await snapshot(data)
    log = await SqliteLog.open(copy)
    assert await violations(copy, log) == []
    assert log.barrier() == made.backup.lsn
    await log.close()


async def test_a_restored_directory_goes_on_with_another_log(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    await filled(data)
    made = await make(data, tmp_path / "backups")
    done = restore(made.path, copy)
    assert done.identity != made.backup.identity
    async with engine_at(copy) as engine:
        assert engine.log.identity == done.identity
        found = await engine.dispatch(GetCollection(**PLACE, name="things"))
        await Records(engine, found.id).add(["new"], np.zeros((1, 4), np.float32))
        assert engine.log.barrier() == made.backup.lsn + 1


async def test_a_second_backup_copies_only_what_is_new(tmp_path: Path) -> None:
    data, place = tmp_path / "data", tmp_path / "backups"
    await filled(data)
    first = await make(data, place)
    again = await make(data, place)
    assert linked(again) == {file.path for file in again.backup.files} - {"log.sqlite3"}
    assert again.copied_files == 1
    async with engine_at(data) as engine:
        found = await engine.dispatch(GetCollection(**PLACE, name="things"))
        records = Records(engine, found.id)
        await fill(records, 200, 30)
        async with compactor_at(data) as compactor:
            await settle(compactor)
    third = await make(data, place)
    before, after = await snapshot(data), {name.split("/", 2)[-1] for name in linked(third)}
    assert {name for name in after if name.endswith(("vectors.f32", ".usearch", ".columns"))}
    assert "records.sqlite3" not in after
    for name in (first.path, again.path):
        shutil.rmtree(name)
    restore(place, tmp_path / "copy")
    assert await snapshot(tmp_path / "copy") == before


async def test_a_diverged_directory_is_not_mistaken_for_the_one_before(tmp_path: Path) -> None:
    """Two directories of one origin, at the same LSN, with files of the same names and sizes."""
    data, other, place = tmp_path / "data", tmp_path / "other", tmp_path / "backups"
    await filled(data, 40)
    shutil.copytree(data, other)
    for directory, value in ((data, 1.0), (other, 2.0)):
        async with engine_at(directory) as engine:
            found = await engine.dispatch(GetCollection(**PLACE, name="things"))
            vectors = np.full((5, 4), value, np.float32)
            await Records(engine, found.id).upsert(list("abcde"), vectors, documents=[str(value)] * 5)
        async with compactor_at(directory) as compactor:
            await settle(compactor)
        await make(directory, place)
    restore(place, tmp_path / "copy")
    assert await snapshot(tmp_path / "copy") == await snapshot(other)


async def test_a_damaged_file_is_named_and_nothing_is_restored(tmp_path: Path) -> None:
    data, place = tmp_path / "data", tmp_path / "backups"
    await filled(data)
    made = await make(data, place)
    victims = [file.path for file in made.backup.files if file.size_bytes > 100]
    for number, name in enumerate(victims):
        original = (made.path / name).read_bytes()
        damaged = bytearray(original)
        damaged[len(damaged) // 2] ^= 4
        (made.path / name).write_bytes(damaged if number % 2 else original[:-1])
        with pytest.raises(BackupError, match="damaged") as raised:
            restore(place, tmp_path / "copy")
        assert f"{name} (" in str(raised.value)
        assert str(raised.value).count(" (") == 1
        assert not (tmp_path / "copy").exists()
        (made.path / name).write_bytes(original)
    (made.path / victims[0]).unlink()
    with pytest.raises(BackupError, match="No such file"):
        check_backup(made.path, made.backup)


async def test_damage_in_an_earlier_backup_does_not_spread(tmp_path: Path) -> None:
    data, place = tmp_path / "data", tmp_path / "backups"
    await filled(data)
    made = await make(data, place)
    for name in ("vectors.f32", "records.sqlite3"):
        path = next(made.path / file.path for file in made.backup.files if file.path.endswith(name))
        raw = bytearray(path.read_bytes())
        raw[40] ^= 1
        path.write_bytes(raw)
    restore((await make(data, place)).path, tmp_path / "copy")
    assert await snapshot(tmp_path / "copy") == await snapshot(data)


async def test_a_damaged_list_is_noticed(tmp_path: Path) -> None:
    data, place = tmp_path / "data", tmp_path / "backups"
    await filled(data, 20)
    made = await make(data, place)
    path = made.path / "backup.json"
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"size_bytes":', b'"size_bytes":1', 1))
    with pytest.raises(BackupError, match="does not match its checksum"):
        restore(place, tmp_path / "copy")
    path.write_bytes(raw[:-10])
    with pytest.raises(BackupError, match="is damaged"):
        restore(place, tmp_path / "copy")


async def test_an_interrupted_backup_is_recognised_and_replaced(tmp_path: Path) -> None:
    data, place = tmp_path / "data", tmp_path / "backups"
    await filled(data)

    def give_up(what: str, done: int, total: int) -> None:
        if what == "copying" and done > total // 3:
            raise OSError(28, "No space left on device")

    async with engine_at(data) as engine:
        with pytest.raises(OSError, match="No space"):
            await engine.backup(place, give_up)
    (partial,) = place.glob("*.partial")
    for source in (place, partial):
        with pytest.raises(BackupError, match="interrupted, and is not whole"):
            restore(source, tmp_path / "copy")
    made = await make(data, place)
    assert not partial.exists()
    assert find_backup(place) == made.path
    restore(place, tmp_path / "copy")
    assert await snapshot(tmp_path / "copy") == await snapshot(data)


async def test_an_interrupted_restore_is_recognised_and_repeated(tmp_path: Path) -> None:
    data, place, copy = tmp_path / "data", tmp_path / "backups", tmp_path / "copy"
    await filled(data)
    await make(data, place)

    def give_up(what: str, done: int, total: int) -> None:
        if what == "restoring" and done > total // 2:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        restore(place, copy, give_up)
    with pytest.raises(FormatError, match="a restore to this directory is not finished"):
        await snapshot(copy)
    restore(place, copy)
    assert await snapshot(copy) == await snapshot(data)


async def test_places_that_are_taken_are_refused(tmp_path: Path) -> None:
    data, place = tmp_path / "data", tmp_path / "backups"
    await filled(data, 20)
    for wrong, reason in ((data / "inside", "inside of the data"), (data, "is a data directory")):
        with pytest.raises(BackupError, match=reason):
            await make(data, wrong)
    made = await make(data, place)
    with pytest.raises(BackupError, match="or one backup"):
        await make(data, made.path)
    with pytest.raises(BackupError, match="holds a data set"):
        restore(place, data)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(BackupError, match=r"is not empty, found='letter.txt'"):
        restore(place, tmp_path / "full")
    with pytest.raises(BackupError, match="a data directory, not a backup"):
        restore(data, tmp_path / "copy")
    with pytest.raises(BackupError, match="there is no backup"):
        restore(tmp_path / "nowhere", tmp_path / "copy")
    with pytest.raises(FormatError, match="this is a backup"):
        await snapshot(made.path)
    with backup_module._alone_in(place), pytest.raises(BackupError, match="another backup"):
        await make(data, place)


async def test_truncation_waits_for_a_backup_and_is_made_up_for(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        gone = Records(engine, (await create_collection(engine, "gone")).id)
        await fill(gone, 0, 20)
        await fill(records, 0, 20)
        async with engine.log.pinned():
            await delete_collection(engine, "gone")
            await settle(compactor)
            kept = [entry async for entry in engine.log.read(after=Lsn(0))]
            assert all(entry.payload is not None for entry in kept)
        await compactor.step()
        assert await engine.log.oldest() == engine.log.barrier() + 1


async def test_collections_come_and_go_while_a_backup_is_made(tmp_path: Path) -> None:
    data, place = tmp_path / "data", tmp_path / "backups"
    async with engine_at(data) as engine, compactor_at(data) as compactor:
        for number in range(6):
            records = Records(engine, (await create_collection(engine, f"old{number}")).id)
            await fill(records, 0, 20)
        await settle(compactor)
        ids = {item.id: item.name for item in await engine.dispatch(ListCollections(**PLACE))}
        order = [ids[item] for item in sorted(ids)]

        async def disturb() -> None:
            await delete_collection(engine, order[0])
            await delete_collection(engine, order[3])
            late = Records(engine, (await create_collection(engine, "late")).id)
            await fill(late, 0, 20)
            await fill(Records(engine, sorted(ids)[1]), 100, 20)
            await settle(compactor)

        loop, disturbed = asyncio.get_running_loop(), list[str]()

        def report(what: str, done: int, total: int) -> None:
            if len(list(place.glob("*.partial/collections/*"))) == 3 and not disturbed:
                disturbed.append(what)
                asyncio.run_coroutine_threadsafe(disturb(), loop).result(20)

        made = await engine.backup(place, report)
    assert disturbed == ["copying"]
    restore(place, tmp_path / "copy")
    assert sorted(os.listdir(made.path / "collections")) == sorted(item.id for item in made.backup.collections)
    for name in (order[1], order[2], order[4], order[5], "late"):
        assert await snapshot(tmp_path / "copy", name) == await snapshot(data, name)
    async with engine_at(tmp_path / "copy") as engine:
        assert len(await engine.dispatch(ListCollections(**PLACE))) == 5


async def test_a_lost_graph_is_left_out_and_lost_vectors_are_not(tmp_path: Path) -> None:
    data, place = tmp_path / "data", tmp_path / "backups"
    await filled(data)
    graphs = sorted(data.glob("collections/*/segments/*/*.usearch"))
    graphs[0].unlink()
    graphs[1].write_bytes(graphs[1].read_bytes()[:-8])
    made = await make(data, place)
    assert sum(file.path.endswith(".usearch") for file in made.backup.files) == len(graphs) - 2
    restore(place, tmp_path / "copy")
    async with compactor_at(tmp_path / "copy") as compactor:
        await settle(compactor)
    assert await snapshot(tmp_path / "copy") == await snapshot(data)
    vectors = next(data.glob("collections/*/segments/*/vectors.f32"))
    vectors.write_bytes(vectors.read_bytes()[:-4])
    with pytest.raises(StorageCorrupt, match=r"damaged, and the only copy.*vectors\.f32"):
        await make(data, place)
    vectors.unlink()
    with pytest.raises(StorageCorrupt, match=r"missing.*vectors\.f32"):
        await make(data, place)
    assert read_backup(find_backup(place)) == made.backup
