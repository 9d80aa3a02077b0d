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

from chroma_async.cli.commands import app
from chroma_async.engine.lock import FileCompactorLock
from chroma_async.engine.verify import verify


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
