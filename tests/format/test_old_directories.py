"""A directory of every released version is kept here, as it was written then. It must open for ever."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tests.support.engines import PATH, Records, compactor_at, contents, engine_at, settle

from chroma_async.engine.invariants import violations
from chroma_async.protocol import GetCollection
from chroma_async.wal import SqliteLog

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
VERSIONS = sorted(path.name.removesuffix(".tar.xz") for path in HERE.glob("*.tar.xz"))


def unpacked(version: str, directory: Path) -> Path:
    with tarfile.open(HERE / f"{version}.tar.xz") as archive:
        archive.extractall(directory, filter="data")
    return directory / version


async def what_is_there(directory: Path, names: list[str]) -> dict[str, Any]:
    async with engine_at(directory) as engine:
        found = [await engine.dispatch(GetCollection(**PATH, name=name)) for name in names]
        results = [contents(await Records(engine, collection.id).get()) for collection in found]
    return {name: json.loads(json.dumps(result)) for name, result in zip(names, results, strict=True)}


def test_the_first_release_is_kept() -> None:
    assert "0.1.0" in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
async def test_old_directory_says_what_it_said(version: str, tmp_path: Path) -> None:
    """Before anything of it is written anew, and after: applied, indexed, given checksums."""
    directory = unpacked(version, tmp_path)
    expected = json.loads((HERE / f"{version}.json").read_text())
    assert await what_is_there(directory, list(expected)) == expected
    async with compactor_at(directory) as compactor:
        await settle(compactor)
    assert await what_is_there(directory, list(expected)) == expected
    log = await SqliteLog.open(directory, create=False)
    try:
        assert await violations(directory, log) == []
    finally:
        await log.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_old_directory_takes_new_writes(version: str, tmp_path: Path) -> None:
    directory = unpacked(version, tmp_path)
    async with engine_at(directory) as engine:
        found = await engine.dispatch(GetCollection(**PATH, name="plain"))
        records = Records(engine, found.id)
        before = contents(await records.get())
        await records.upsert(["plain-1", "newer"], [[1, 1, 1, 1], [2, 2, 2, 2]], documents=["one", "two"])
        async with compactor_at(directory) as compactor:
            await settle(compactor)
        after = contents(await records.get())
        assert set(after) == {*before, "newer"}
        assert after["plain-1"][0] == (1, 1, 1, 1)
        assert (await records.query([[2, 2, 2, 2]], n_results=1)).columns is not None
