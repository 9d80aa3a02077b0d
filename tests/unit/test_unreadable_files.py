"""Files that can't be opened now, for want of handles, memory or permission, are not taken for damaged ones."""

from __future__ import annotations

import asyncio
import builtins
import errno
import io
import logging
import mmap
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tests.support.engines import Records, compactor_at, create_collection, engine_at, settle
from tests.support.handles import no_handles

import chroma_async.engine.compactor as compactor_module
import chroma_async.engine.directory as directory_module
from chroma_async.cli.commands import app
from chroma_async.engine.failures import FailureLog, read_error
from chroma_async.engine.here import Here
from chroma_async.engine.verify import rebuild, verify
from chroma_async.errors import InternalError, ResourceLimitError, StorageCorrupt
from chroma_async.index.hnsw import GraphFile, checksum
from chroma_async.model import DEFAULT_DATABASE, DEFAULT_TENANT
from chroma_async.projections.heal import heal
from chroma_async.projections.store import CollectionStore
from chroma_async.projections.view import map_file
from chroma_async.protocol import CountRecords
from chroma_async.seams import SystemFiles

READS: list[Callable[[Path], Any]] = [checksum, map_file, lambda path: GraphFile(path, rows=1, crc=0)]
LIMITS = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES]
DAMAGES = [errno.ENOENT, errno.ENOTDIR, errno.EIO]


def failing_open(monkeypatch: pytest.MonkeyPatch, code: int, ending: str = "") -> None:
    """Let files whose names end so not be opened."""
    opens = io.open

    def fail(file: Any, *arguments: Any, **options: Any) -> Any:
        if str(file).endswith(ending):
            raise OSError(code, os.strerror(code), str(file))
        return opens(file, *arguments, **options)

    monkeypatch.setattr(io, "open", fail)
    monkeypatch.setattr(builtins, "open", fail)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("code", LIMITS)
def test_a_file_that_cannot_be_opened_now_is_not_damaged(
    read: Callable[[Path], Any], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    failing_open(monkeypatch, code, "file")
    with pytest.raises(OSError, match=os.strerror(code)):
        read(tmp_path / "file")


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("code", DAMAGES)
def test_a_file_that_is_not_there_or_that_the_disk_cannot_read_is_damaged(
    read: Callable[[Path], Any], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_open(monkeypatch, code, "file")
    with pytest.raises(StorageCorrupt):
        read(tmp_path / "file")


@pytest.mark.parametrize("read", READS[1:])
def test_a_file_that_cannot_be_mapped_for_want_of_memory_is_not_damaged(
    read: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(mmap, "mmap", fail)
    with pytest.raises(OSError, match="memory"):
        read(tmp_path / "file")


def test_an_empty_graph_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageCorrupt):
        GraphFile(tmp_path / "file", rows=1, crc=0)


# ---- a directory


def contents_of(directory: Path) -> dict[str, int]:
    """Files of collections that are written once, and when."""
    paths = [*directory.glob("collections/*/columns/*"), *directory.glob("collections/*/segments/*/*")]
    return {str(path): path.stat().st_mtime_ns for path in paths}


async def make(directory: Path) -> None:
    async with engine_at(directory) as engine, compactor_at(directory) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        vectors = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
        await records.add([f"r{row}" for row in range(40)], vectors, metadatas=[{"row": row} for row in range(40)])
        await settle(compactor)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """One with graphs and columns."""
    asyncio.run(make(tmp_path))
    assert any(name.endswith(".usearch") for name in contents_of(tmp_path))
    return tmp_path


def collection_of(directory: Path) -> Path:
    (folder,) = (directory / "collections").iterdir()
    return folder


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
@pytest.mark.parametrize("ending", [".usearch", ".columns", "vectors.f32"])
def test_what_cannot_be_opened_now_is_neither_dropped_nor_made_anew(
    code: int, ending: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents_of(directory)
    store = CollectionStore(collection_of(directory), SystemFiles())
    with monkeypatch.context() as patched:
        failing_open(patched, code, ending)
        for work in (heal, CollectionStore.base):
            if (work, ending) == (CollectionStore.base, ".usearch") and code == errno.ENOMEM:
                assert all(view.graph is None for view in store.base().segments)  # queries are exact meanwhile
            elif (work, ending) != (heal, "vectors.f32"):  # which are not read for that
                with pytest.raises(OSError, match=os.strerror(code)):
                    work(store)
    assert contents_of(directory) == before
    heal(store)
    assert contents_of(directory) == before
    store.close()


def test_what_may_not_be_read_and_can_be_made_again_is_done_without_and_then_made_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CollectionStore(collection_of(directory), SystemFiles())
    files = store.manifest.files()
    columns = sorted(name for name in files if name.endswith(".columns"))
    for ending in (".usearch", columns[-1]):
        with monkeypatch.context() as patched:
            failing_open(patched, errno.EACCES, ending)
            base = store.base()
            assert base.live == 40
            assert all(view.graph is None for view in base.segments)
            heal(store)
        assert not {name for name in store.manifest.files() & files if name.endswith(ending)}
    store.close()


@pytest.mark.anyio
async def test_the_compactor_pauses_without_handles_and_says_so_once(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = contents_of(directory)
    monkeypatch.setattr("chroma_async.engine.compactor.PAUSE_SECONDS_MAX", 0.01)
    caplog.set_level(logging.INFO)
    async with compactor_at(directory) as compactor:
        compactor._stores.close_idle()
        attempts = 0

        async def sweep_again() -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 4:
                patched.undo()
            await compactor.take_over()

        with monkeypatch.context() as patched:
            failing_open(patched, errno.EMFILE, ".usearch")
            await compactor._patiently(sweep_again)
    assert attempts == 4
    said = [record.getMessage().split()[0] for record in caplog.records]
    assert (said.count("compactor.paused"), said.count("compactor.resumed")) == (1, 1)
    assert not {"graph.dropped", "collection.damaged", "columns.rebuilt"} & {*said}
    assert contents_of(directory) == before


@pytest.mark.anyio
async def test_the_compactor_leaves_a_collection_alone_that_it_may_not_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(compactor_module, "heal", refuse)
    async with compactor_at(directory) as compactor:
        assert not await compactor.step()
    assert [record.getMessage().split()[0] for record in caplog.records] == ["collection.unreadable"]


@pytest.mark.anyio
async def test_reads_say_that_handles_are_wanting_and_the_log_says_it_once(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = collection_of(directory).name
    async with engine_at(directory) as engine:
        records, reader = Records(engine, name), engine.follower.sink(name)  # type: ignore[arg-type]
        with no_handles():
            for _ in range(5):
                with pytest.raises(ResourceLimitError, match="file handles"):
                    await records.get()
                for work in (reader.refresh, reader.make_ready, reader.trim):
                    await engine.workers.run(work)
        assert len((await records.get()).columns.ids) == 40
    (record,) = [record for record in caplog.records if record.getMessage().startswith("refresh.failed")]
    assert f"collection={name} reason=file_handles" in record.getMessage()
    assert record.exc_info is None


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("code", "refusal", "ending"),
    [
        *((errno.EMFILE, ResourceLimitError, ending) for ending in (".columns", "vectors.f32", ".usearch")),
        (errno.EACCES, InternalError, "vectors.f32"),
    ],
)
async def test_reads_are_refused_while_a_file_cannot_be_opened(
    code: int, refusal: type[Exception], ending: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of a thread that answers itself. What can be made again, and may not be read, is done without."""
    name = collection_of(directory).name
    call = CountRecords(tenant=DEFAULT_TENANT, database=DEFAULT_DATABASE, collection_id=name)
    async with engine_at(directory) as engine:
        with monkeypatch.context() as patched:
            failing_open(patched, code, ending)
            with pytest.raises(refusal):
                await Records(engine, name).get()
            assert Here(engine.context).answer(call) is None  # the event loop looks into it
        assert await Records(engine, name).count() == 40


def test_verify_does_not_call_lost_what_it_cannot_open(directory: Path) -> None:
    before = contents_of(directory)
    for work in (verify, partial(verify, repair=True), rebuild):
        with no_handles(), pytest.raises((ResourceLimitError, OSError), match=r"handles|Too many open files"):
            work(directory)
    assert contents_of(directory) == before
    assert verify(directory).is_whole


@pytest.mark.parametrize("ending", [".columns", "vectors.f32", ".usearch"])
def test_verify_says_which_file_it_may_not_read(ending: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_open(monkeypatch, errno.EACCES, ending)
    with pytest.raises(PermissionError, match=ending):
        verify(directory)


def lacking(_: Path) -> bool:
    return True


def may_only_read(_: Any, mode: int) -> bool:
    return not mode & os.W_OK


@pytest.mark.parametrize("lacks", ["is_read_only", "access"])
def test_commands_agree_on_a_directory_that_takes_no_writes(
    lacks: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacks == "is_read_only":
        monkeypatch.setattr(directory_module, "is_read_only", lacking)
    else:
        monkeypatch.setattr(os, "access", may_only_read)
    told = {CliRunner().invoke(app, [command, str(directory)]).output for command in ("verify", "inspect", "purge")}
    (said,) = told
    assert ("read-only file system" if lacks == "is_read_only" else "can't be written to") in said
    assert said.count("\n") == 1


# ---- the log


def test_a_failure_that_is_known_is_logged_in_one_line_and_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = FailureLog(logging.getLogger("chroma_async.engine"), tmp_path)
    for _ in range(3):
        log.note("refresh.failed collection=a", OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        log.note("refresh.failed collection=b", StorageCorrupt("slots do not match"))
    log.note("refresh.failed collection=a", StorageCorrupt("slots do not match"))  # another kind
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR", "ERROR"]
    assert not any(record.exc_info or "\n" in record.getMessage() for record in caplog.records)


def test_a_failure_that_nobody_foresaw_is_logged_with_its_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    FailureLog(logging.getLogger("chroma_async.engine"), tmp_path).note("refresh.failed", OSError(errno.ELOOP, "x"))
    assert caplog.records[0].exc_info


def test_a_file_without_permission_is_named_and_not_called_damaged(tmp_path: Path) -> None:
    meant = read_error(PermissionError(errno.EACCES, "Permission denied", "some/file"), tmp_path)
    assert isinstance(meant, InternalError)
    assert "some/file" in meant.message
    assert "damaged" not in meant.message
