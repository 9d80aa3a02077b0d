"""A record whose id holds a NUL was not found again once it had been applied.

SQLite's JSON functions end a text at its first NUL, so `json_each` handed over another id: a read of "a" with a NUL found
"a", or nothing. The compactor took the next write to such an id for a new record, and from then on reads of the collection
failed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.engines import Records, compactor_at, create_collection, engine_at, settle

pytestmark = pytest.mark.anyio

IDS = ["\0", "a", "a\0", "a\0b", "\0\0"]


async def test_ids_with_nul_stay_themselves_when_they_are_applied(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(IDS, [[float(n)] for n in range(len(IDS))], documents=IDS)
        await settle(compactor)
        assert (await records.get(ids=["a\0", "\0"])).columns.ids == ["\0", "a\0"]
        assert (await records.query([[0.0]], ids=["a\0b"])).columns[0].documents == ["a\0b"]

        await records.upsert(["a\0", "a"], [[7.0], [8.0]], documents=["seven", "eight"])
        await settle(compactor)
        found = (await records.get()).columns
        assert found.ids == IDS
        assert found.documents == ["\0", "eight", "seven", "a\0b", "\0\0"]

        assert await records.delete(ids=["\0", "a"]) == 2
        await settle(compactor)
        assert (await records.get()).columns.ids == ["a\0", "a\0b", "\0\0"]
