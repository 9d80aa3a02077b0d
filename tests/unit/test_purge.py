"""`purge`: no file holds a byte of what was deleted or replaced, and all that is there is as before."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tests.support.engines import TINY, Records, compactor_at, create_collection, delete_collection, engine_at, settle

from chroma_async.cli.commands import app
from chroma_async.engine.lock import FileCompactorLock
from chroma_async.engine.purge import purge
from chroma_async.errors import FormatError

NDIM = 8
COUNT = 60
RANDOM = np.random.default_rng(3)
KEPT = range(0, COUNT, 3)
DELETED = range(1, COUNT, 3)
REPLACED = range(2, COUNT, 3)


def vectors(count: int) -> np.ndarray:
    return RANDOM.standard_normal((count, NDIM)).astype(np.float32)


def found_in(directory: Path, needle: bytes) -> list[str]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [str(path.relative_to(directory)) for path in files if needle in path.read_bytes()]


class Filled:
    """A directory with records, some of them deleted or replaced, some of it applied and some not, and what is gone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first, self.second, self.other = vectors(COUNT), vectors(len(REPLACED)), vectors(COUNT)
        self.traces: dict[str, list[bytes]] = {
            "documents": [f"document of {word} {number}".encode() for word, number in self._gone()],
            "metadata": [f"metadata of {word} {number}".encode() for word, number in self._gone()],
            "ids": [f"{word}-{number}-id".encode() for word, number in [*self._deleted(), *self._other()]],
            "vectors": [row.tobytes() for row in (*self.first[list(DELETED)], *self.first[list(REPLACED)], *self.other)],
        }

    def _deleted(self) -> list[tuple[str, str]]:
        return [("first", f"{number:03}") for number in DELETED]

    def _replaced(self) -> list[tuple[str, str]]:
        return [("first", f"{number:03}") for number in REPLACED]

    def _other(self) -> list[tuple[str, str]]:
        return [("other", f"{number:03}") for number in range(COUNT)]

    def _gone(self) -> list[tuple[str, str]]:
        return [*self._deleted(), *self._replaced(), *self._other()]

    async def fill(self) -> None:
        async with engine_at(self.path) as engine, compactor_at(self.path) as compactor:
            records = Records(engine, (await create_collection(engine)).id)
            other = Records(engine, (await create_collection(engine, "other")).id)
            everything = range(COUNT)
            await records.add(self.ids("first", everything), self.first, **self.columns("first", everything))
            await other.add(self.ids("other", everything), self.other, **self.columns("other", everything))
            await settle(compactor)
            await records.delete(self.ids("first", DELETED[: len(DELETED) // 2]))
            await settle(compactor)
            await records.upsert(self.ids("first", REPLACED), self.second, **self.columns("second", REPLACED))
            await records.delete(self.ids("first", DELETED[len(DELETED) // 2 :]))
            await delete_collection(engine, "other")

    def ids(self, word: str, numbers: range) -> list[str]:
        return [f"{word}-{number:03}-id" for number in numbers]

    def columns(self, word: str, numbers: range) -> dict[str, list[object]]:
        return {
            "documents": [f"document of {word} {number:03}" for number in numbers],
            "metadatas": [{"tag": f"metadata of {word} {number:03}"} for number in numbers],
        }

    async def contents(self) -> object:
        async with engine_at(self.path) as engine:
            collection = next(iter(engine.follower.catalog.collection_ids()))
            result = await Records(engine, collection).get()
            columns = result.columns
            assert columns.embeddings is not None
            nearest = await Records(engine, collection).query(self.second[:5], n_results=7)
            found = await Records(engine, collection).get(where_document={"$contains": "second"})
            return (
                columns.ids,
                columns.documents,
                columns.metadatas,
                columns.embeddings.tolist(),
                [part.ids for part in nearest.columns],
                found.columns.ids,
            )


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    made = Filled(tmp_path / "data")
    asyncio.run(made.fill())
    return made


@pytest.mark.parametrize("kind", ["documents", "metadata", "ids", "vectors"])
def test_no_file_holds_what_was_deleted_or_replaced(filled: Filled, kind: str) -> None:
    before = [trace for trace in filled.traces[kind] if found_in(filled.path, trace)]
    assert len(before) > len(filled.traces[kind]) // 2  # there is something to purge
    asyncio.run(purge(filled.path, settings=TINY))
    assert {trace: files for trace in filled.traces[kind] if (files := found_in(filled.path, trace))} == {}


def test_what_is_there_is_as_before(filled: Filled) -> None:
    before = asyncio.run(filled.contents())
    receipt = asyncio.run(purge(filled.path, settings=TINY))
    assert asyncio.run(filled.contents()) == before
    (collection,) = receipt.collections
    assert collection.name == "things"
    assert collection.records == len(KEPT) + len(REPLACED)
    assert collection.dropped_vectors > 0
    assert collection.applied <= receipt.lsn
    again = asyncio.run(purge(filled.path, settings=TINY))
    assert again.collections[0].dropped_vectors == 0


def test_command_prints_a_receipt(filled: Filled) -> None:
    result = CliRunner().invoke(app, ["purge", str(filled.path), "--json"])
    assert result.exit_code == 0
    assert [item["name"] for item in json.loads(result.output)["collections"]] == ["things"]
    assert "things: records=40 dropped_vectors=0" in CliRunner().invoke(app, ["purge", str(filled.path)]).output


def test_purge_refuses_a_directory_that_somebody_compacts(filled: Filled) -> None:
    lock = FileCompactorLock(filled.path)
    assert lock.try_acquire()
    with pytest.raises(FormatError, match="stop it first"):
        asyncio.run(purge(filled.path))
    lock.release()
    with pytest.raises(FormatError, match="no collection of that name"):
        asyncio.run(purge(filled.path, ["nothing"]))
