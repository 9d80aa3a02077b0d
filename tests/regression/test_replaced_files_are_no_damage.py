"""A reader that is slow may find that files of the manifest it has read were replaced meanwhile, and are gone.

Columns that were gone were made anew from all records, again and again beside a stream: a query took 45 seconds, and so much
memory. A graph that was gone was left out, and the rows of its segment packed. Neither is damage: there is a newer manifest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import numpy as np
import pytest
from tests.support.engines import Records, compactor_at, create_collection, engine_at, settle

from chroma_async.core.columns import ColumnPiece
from chroma_async.engine.compactor import Compactor
from chroma_async.errors import StorageCorrupt
from chroma_async.model import Vectors
from chroma_async.projections.manifest import Manifest
from chroma_async.projections.records import RecordTables
from chroma_async.projections.view import EMPTY_BASE, load_base

pytestmark = pytest.mark.anyio


def rows(count: int) -> Vectors:
    return np.random.default_rng(count).standard_normal((count, 3)).astype(np.float32)


@asynccontextmanager
async def collection(path: Path) -> AsyncIterator[tuple[Records, Compactor, Path, RecordTables]]:
    """A collection with columns and a graph, its directory, and its tables at this instant."""
    async with engine_at(path) as engine, compactor_at(path) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        folder = path / "collections" / records.id
        await records.add([f"a{number}" for number in range(9)], rows(9), metadatas=[{"n": n} for n in range(9)])
        await settle(compactor)
        with closing(RecordTables(folder / "records.sqlite3", writable=False)) as tables, tables.transaction():
            assert tables.is_newest()  # the first look makes the instant
            yield records, compactor, folder, tables


def reached(folder: Path, manifest: Manifest) -> dict[str, Path]:
    """The files that a manifest reaches: `columns`, and the graph in `segments`."""
    return {name.partition("/")[0]: folder / name for name in manifest.files() if (folder / name).is_file()}


@asynccontextmanager
async def replaced(path: Path) -> AsyncIterator[tuple[Path, RecordTables, Callable[[str], None]]]:
    """A collection's directory, its tables at an instant whose files were replaced since, and what brings one back."""
    async with collection(path) as (records, compactor, folder, tables):
        data = {kind: (file, file.read_bytes()) for kind, file in reached(folder, tables.manifest()).items()}
        await records.upsert([f"a{number}" for number in range(7)], rows(7), metadatas=[{"n": n} for n in range(7)])
        await settle(compactor)
        gone = {kind: item for kind, item in data.items() if not item[0].exists()}

        def restore(kind: str) -> None:
            file, content = gone[kind]
            file.write_bytes(content)

        yield folder, tables, restore


async def test_a_view_of_replaced_columns_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: RecordTables) -> ColumnPiece:
        raise AssertionError("columns were made from all records")

    monkeypatch.setattr(RecordTables, "rebuilt_columns", refuse)
    async with replaced(tmp_path) as (folder, tables, restore):
        restore("segments")
        with pytest.raises(StorageCorrupt, match="columns"):
            load_base(folder, tables.manifest(), EMPTY_BASE, tables)


async def test_a_view_of_a_replaced_graph_is_refused(tmp_path: Path) -> None:
    async with replaced(tmp_path) as (folder, tables, restore):
        restore("columns")
        with pytest.raises(StorageCorrupt, match="usearch"):
            load_base(folder, tables.manifest(), EMPTY_BASE, tables)


async def test_what_is_still_reached_is_damage_also_beside_writes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with collection(tmp_path) as (records, compactor, folder, tables):
        await records.update(["a1"], metadatas=[{"n": 100}])
        await settle(compactor)
        assert not tables.is_newest()
        assert tables.manifest().files() <= tables.newest_manifest().files()
        for file in reached(folder, tables.manifest()).values():
            file.write_bytes(b"")
        base = load_base(folder, tables.manifest(), EMPTY_BASE, tables)
        assert [view.graph for view in base.segments] == [None]
        assert [piece.slots.tolist() for piece in base.pieces] == [list(range(9))]
        assert [record.message.partition(" ")[0] for record in caplog.records] == ["columns.damaged", "graph.damaged"]
