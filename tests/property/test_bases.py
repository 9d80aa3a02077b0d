"""A base that is made of the one before it says what one made from nothing says, and older ones stay what they were."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from random import Random

import numpy as np
import pytest
from tests.support.engines import Records, compactor_at, create_collection, engine_at, settle

from chroma_async.errors import StorageCorrupt
from chroma_async.model import Vectors
from chroma_async.projections.records import RecordTables
from chroma_async.projections.view import EMPTY_BASE, Base, GrownSlots, load_base

pytestmark = pytest.mark.anyio

Placement = tuple[list[bool], list[list[int]], list[list[int]]]


def placement(base: Base) -> Placement:
    """What slots are alive, where their vectors are, and whose the vectors are."""
    return base.alive.tolist(), base.locations.tolist(), [view.owners.tolist() for view in base.segments]


async def change(records: Records, random: Random, names: list[str]) -> None:
    """Mostly add records, as a stream does."""
    match random.choice(["add", "add", "add", "upsert", "delete", "metadata"]):
        case "add":
            new = [f"r{len(names) + number}" for number in range(random.randint(1, 6))]
            names += new
            await records.add(new, vectors(random, len(new)))
        case "upsert":
            known = random.sample(names, min(3, len(names))) + [f"r{len(names)}"]
            names.append(known[-1])
            await records.upsert(known, vectors(random, len(known)))
        case "delete" if names:
            await records.delete(random.sample(names, min(2, len(names))))
        case _ if names:
            await records.update([random.choice(names)], metadatas=[{"n": random.random()}])
        case _:
            return


def vectors(random: Random, count: int) -> Vectors:
    return np.asarray([[random.random() for _ in range(3)] for _ in range(count)], dtype=np.float32)


def test_longer_versions_share_a_room_one_after_the_other_only() -> None:
    first = GrownSlots.empty().copied(8)
    first.array[:] = range(8)
    second = first.grown(9)
    second.array[8] = 80
    other = first.grown(9)
    other.array[8] = 81
    assert second.array.base is first.array.base
    assert second.array.tolist() == [*range(8), 80]
    assert other.array.tolist() == [*range(8), 81]
    assert second.grown(1_000).array.tolist() == [*range(8), 80, *[-1] * 991]


def newest_bases(folder: Path, before: Base) -> tuple[Base, Base]:
    """The newest base, made of the one before and from nothing. A graph may be published meanwhile, and replace another."""
    with closing(RecordTables(folder / "records.sqlite3", writable=False)) as tables:
        while True:
            with tables.transaction():
                manifest = tables.manifest()
                try:
                    return load_base(folder, manifest, before, tables), load_base(folder, manifest, EMPTY_BASE, tables)
                except StorageCorrupt:
                    if tables.newest_manifest().version == manifest.version:
                        raise


@pytest.mark.parametrize("seed", range(8))
async def test_newer_bases_are_as_made_from_nothing(tmp_path: Path, seed: int) -> None:
    random, names = Random(seed), list[str]()
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        folder = tmp_path / "collections" / records.id
        bases: list[tuple[Base, Placement]] = []
        for _ in range(30):
            for _ in range(random.randint(1, 3)):
                await change(records, random, names)
            if random.random() < 0.5:
                await settle(compactor)
            else:
                await compactor.step()
            if not (folder / "records.sqlite3").exists():
                continue
            before = random.choice(bases[-3:])[0] if bases else EMPTY_BASE
            base, from_nothing = newest_bases(folder, before)
            assert placement(base) == placement(from_nothing)
            bases.append((base, placement(base)))
        assert len({base.manifest.version for base, _ in bases}) > 10
        assert all(placement(base) == seen for base, seen in bases)
