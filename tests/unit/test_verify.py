"""`verify`, `verify --repair` and `rebuild`: what they say of a directory, and what they make of it."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.damage.case import NAMES, SETTINGS, answers_of, make_template
from tests.support.engines import compactor_at, delete_collection, engine_at, settle

from chroma_async import PersistentClient
from chroma_async.cli.commands import app
from chroma_async.engine.lock import FileCompactorLock
from chroma_async.engine.verify import verify
from chroma_async.errors import GoneError


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def answers(directory: Path) -> dict[str, object]:
    async def ask() -> dict[str, object]:
        async with engine_at(directory, SETTINGS) as engine:
            return {name: await answers_of(engine, name) for name in NAMES}

    return asyncio.run(ask())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    asyncio.run(make_template(tmp_path / "data"))
    return tmp_path / "data"


def spoil(directory: Path, pattern: str) -> str:
    path = sorted(directory.glob(pattern))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return str(path.relative_to(directory))


def test_whole_directory_is_called_whole(directory: Path) -> None:
    code, said = run("verify", directory)
    assert (code, "whole files=" in said) == (0, True)


@pytest.mark.parametrize("pattern", ["collections/*/columns/*.columns", "collections/*/segments/*/*.usearch"])
def test_what_follows_from_other_files_is_mended(directory: Path, pattern: str) -> None:
    before = answers(directory)
    name = spoil(directory, pattern)
    code, said = run("verify", directory, "--json")
    found = {item["path"]: item["state"] for item in json.loads(said)["findings"]}
    assert (code, found[name]) == (1, "mendable")
    assert run("verify", directory, "--repair")[0] == 0
    assert run("verify", directory)[0] == 0
    assert answers(directory) == before


def test_the_only_copy_is_not_mended(directory: Path) -> None:
    name = spoil(directory, "collections/*/segments/*/vectors.f32")
    code, said = run("verify", directory, "--repair", "--json")
    found = {item["path"]: item["state"] for item in json.loads(said)["findings"]}
    assert (code, found[name]) == (1, "lost")
    assert run("rebuild", directory)[0] == 1


def test_rebuilt_directory_says_what_it_said(directory: Path) -> None:
    before = answers(directory)
    code, said = run("rebuild", directory, NAMES[0])
    assert (code, said.startswith(f"{NAMES[0]}: rebuilt")) == (0, True)
    assert answers(directory) == before
    assert run("rebuild", directory, "nothing")[0] == 2


def test_repair_leaves_a_directory_in_use_alone(directory: Path) -> None:
    lock = FileCompactorLock(directory)
    assert lock.try_acquire()
    try:
        code, said = run("verify", directory, "--repair")
        assert (code, "stop it first" in said) == (2, True)
        assert run("verify", directory)[0] == 0
    finally:
        lock.release()


def test_a_directory_may_be_named_from_where_one_is(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory.parent)
    assert run("verify", directory.name)[0] == 0
    assert run("verify", directory.name, "--repair")[0] == 0
    assert run("rebuild", directory.name, NAMES[0])[1].startswith(f"{NAMES[0]}: rebuilt")


def test_collections_that_are_deleted_while_they_are_looked_at_are_not_called_lost(directory: Path) -> None:
    """The first when some of its files have been read, the others before any of theirs."""
    seen: list[int] = []

    async def delete_all() -> None:
        async with engine_at(directory, SETTINGS) as engine, compactor_at(directory, SETTINGS) as compactor:
            for name in NAMES:
                await delete_collection(engine, name)
            await settle(compactor)

    def report(_stage: str, done: int, _total: int) -> None:
        seen.append(done)
        if len(seen) == 2:  # the log's size came first
            with ThreadPoolExecutor() as elsewhere:
                elsewhere.submit(asyncio.run, delete_all()).result()

    folders = list((directory / "collections").iterdir())
    verdict = verify(directory, report=report)
    assert len(folders) == len(NAMES)
    assert not any(folder.exists() for folder in folders)
    assert len(seen) >= 2
    assert [(finding.path, finding.state) for finding in verdict.findings if finding.collection] == []
    assert verdict.is_whole


def test_an_applied_entry_that_feeds_alone_want_is_let_go_of(tmp_path: Path) -> None:
    """Nothing is lost with it but a change that feeds have not been told yet; backups go on then."""
    directory, backups = tmp_path / "data", tmp_path / "backups"
    with PersistentClient(directory) as client:
        for name in ("told", "other"):
            made = client.create_collection(name, embedding_function=None)
            made.add(["a"], [[1.0, 2.0]], documents=[f"text of {name}"])
            made.flush(wait="indexed")
    log = directory / "log.sqlite3"
    content = log.read_bytes()
    assert content.count(b"text of told") == 1
    log.write_bytes(content.replace(b"text of told", b"Text of told"))

    code, output = run("verify", str(directory))
    assert code == 1
    assert "mendable" in output
    assert "lost" not in output
    code, output = run("backup", str(directory), str(backups))
    assert code == 1
    assert "verify --repair" in output

    assert run("verify", str(directory), "--repair")[0] == 0
    assert run("verify", str(directory))[0] == 0
    assert run("backup", str(directory), str(backups))[0] == 0
    with PersistentClient(directory) as client:
        told, other = [client.get_collection(name, embedding_function=None) for name in ("told", "other")]
        assert told.get()["documents"] == ["text of told"]
        with pytest.raises(GoneError), told.watch(after=1) as changes:
            next(iter(changes))
        with other.watch(after=0) as changes:
            assert next(iter(changes)).ids == ["a"]
