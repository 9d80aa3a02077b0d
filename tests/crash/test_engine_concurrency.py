"""Writers and readers on one engine while everything behind them moves: reads see whole batches, and time runs forward."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tests.support.clock import RestlessClock
from tests.support.engines import Records, create_collection, engine_at

from chroma_async.engine.engine import open_engine
from chroma_async.protocol.results import metadata_object
from chroma_async.seams import Seams
from chroma_async.settings import EngineSettings

pytestmark = pytest.mark.anyio

SECONDS = 5.0
GROUPS = 12
MEMBERS = 10

RESTLESS = EngineSettings(
    durability="off",
    apply_bytes_max=8_000,
    graph_rows_min=16,
    segment_rows_max=48,
    index_threads=1,
    lock_interval_seconds=0.01,
    follow_interval_seconds=0.01,
)


HURRIED = Seams(RestlessClock())
"""The compactor does not wait for company."""


def group_ids(group: int) -> list[str]:
    return [f"g{group}.{member}" for member in range(MEMBERS)]


async def for_a_while(work: Callable[[], Awaitable[None]], counts: Counter[str], name: str) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + SECONDS
    while loop.time() < end:
        await work()
        counts[name] += 1


@pytest.mark.timeout(90)
async def test_reads_see_whole_batches_while_all_is_moving(tmp_path: Path) -> None:
    dice = random.Random(0)
    counts: Counter[str] = Counter()
    generations = dict.fromkeys(range(GROUPS), 0)
    async with open_engine(tmp_path, RESTLESS, seams=HURRIED) as engine, engine_at(tmp_path, RESTLESS) as other:
        collection = (await create_collection(engine)).id
        handles = [Records(engine, collection), Records(other, collection)]

        async def rewrite(records: Records, groups: list[int]) -> None:
            """All members of a group always say the same generation."""
            group = dice.choice(groups)
            generation = generations[group] + 1
            fields = [{"group": group, "generation": generation}] * MEMBERS
            vectors = np.full((MEMBERS, 3), generation, dtype=np.float32)
            if dice.random() < 0.15:
                await records.delete(where={"group": group})
            await records.upsert(group_ids(group), vectors, documents=[f"at {generation}"] * MEMBERS, metadatas=fields)
            generations[group] = generation

        def check(ids: list[str], vectors: np.ndarray, documents: list[str | None], metadatas: list[object]) -> None:
            seen: dict[str, list[tuple[float, str | None, int]]] = {}
            for record_id, vector, document, stored in zip(ids, vectors.tolist(), documents, metadatas, strict=True):
                fields = metadata_object(stored)  # type: ignore[arg-type]
                assert fields is not None
                seen.setdefault(record_id.split(".")[0], []).append((vector[0], document, fields["generation"]))
            for versions in seen.values():
                assert len(versions) == MEMBERS
                assert len(set(versions)) == 1
                assert versions[0][1] == f"at {versions[0][2]}"
                assert versions[0][0] == versions[0][2]

        async def read_all(records: Records) -> None:
            columns = (await records.get()).columns
            check(columns.ids, columns.embeddings, columns.documents, list(columns.metadatas or ()))  # type: ignore[arg-type]

        async def read_group(records: Records) -> None:
            group = dice.randrange(GROUPS)
            before = generations[group]
            columns = (await records.get(where={"group": group})).columns
            check(columns.ids, columns.embeddings, columns.documents, list(columns.metadatas or ()))  # type: ignore[arg-type]
            if columns.ids:
                fields = metadata_object((columns.metadatas or ())[0])
                assert fields is not None
                assert fields["generation"] >= before

        async def query(records: Records) -> None:
            where = {"group": dice.randrange(GROUPS)} if dice.random() < 0.5 else None
            result = await records.query(np.zeros((2, 3), dtype=np.float32), GROUPS * MEMBERS, where=where)
            for columns in result.columns:
                check(columns.ids, columns.embeddings, columns.documents, list(columns.metadatas or ()))  # type: ignore[arg-type]

        work = [
            *((f"rewrite {number}", rewrite, (handles[number % 2], list(range(number, GROUPS, 4)))) for number in range(4)),
            *(
                (f"{function.__name__} {side}", function, (handles[side],))
                for side in range(2)
                for function in (read_all, read_group, query, query)
            ),
        ]
        await asyncio.gather(
            *(for_a_while(lambda f=function, a=arguments: f(*a), counts, name) for name, function, arguments in work)  # type: ignore[misc]
        )
        assert (tmp_path / "collections" / collection / "records.sqlite3").exists()
    assert min(counts.values()) > 5


@pytest.mark.timeout(60)
async def test_counts_never_go_back_while_records_are_only_added(tmp_path: Path) -> None:
    async with open_engine(tmp_path, RESTLESS, seams=HURRIED) as engine, engine_at(tmp_path, RESTLESS) as other:
        collection = (await create_collection(engine)).id
        added = 0
        done = asyncio.Event()

        async def add(writer: int) -> None:
            nonlocal added
            records = Records((engine, other)[writer % 2], collection)
            for number in range(60):
                ids = [f"{writer}.{number}.{row}" for row in range(MEMBERS)]
                await records.add(ids, np.random.default_rng(number).standard_normal((MEMBERS, 3)).astype(np.float32))
                added += MEMBERS

        async def watch(records: Records) -> int:
            newest = reads = 0
            while not done.is_set():
                floor = added
                count = await records.count()
                assert count % MEMBERS == 0
                assert count >= max(newest, floor)
                newest, reads = count, reads + 1
                await asyncio.sleep(0.001)
            return reads

        watchers = [asyncio.create_task(watch(Records(side, collection))) for side in (engine, other, engine, other)]
        await asyncio.gather(*(add(writer) for writer in range(4)))
        done.set()
        assert min(await asyncio.gather(*watchers)) > 10
        for side in (engine, other):
            assert await Records(side, collection).count() == 4 * 60 * MEMBERS


@pytest.mark.timeout(60)
async def test_back_pressure_holds_writers_and_lets_go(tmp_path: Path) -> None:
    settings = EngineSettings(durability="off", unapplied_bytes_max=200_000, apply_bytes_max=100_000)
    async with open_engine(tmp_path, settings, seams=HURRIED) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        highest = 0

        async def watch() -> None:
            nonlocal highest
            while True:
                highest = max(highest, engine._unapplied_bytes())
                await asyncio.sleep(0.001)

        watching = asyncio.create_task(watch())
        for number in range(40):
            ids = [f"{number}.{row}" for row in range(50)]
            await records.add(ids, np.zeros((50, 256), dtype=np.float32))
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        assert 100_000 < highest < 300_000
        assert await records.count() == 40 * 50
