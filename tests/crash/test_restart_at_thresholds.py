"""A restart changes no answer, least of all where something of ours begins: blocks, graphs, segments, merges, steps."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.engines import TINY, Records, compactor_at, contents, create_collection, engine_at, settle
from tests.support.oracle import exact_distances

from chroma_async import PersistentClient
from chroma_async.core.upkeep import PIECES_MAX
from chroma_async.engine.engine import Engine
from chroma_async.index.packing import BLOCK_ROWS, TAIL_BLOCK_ROWS
from chroma_async.model import Vectors
from chroma_async.projections.manifest import Manifest
from chroma_async.projections.records import RecordTables
from chroma_async.projections.store import RECORDS_FILE
from chroma_async.projections.view import EMPTY_BASE, load_base
from chroma_async.settings import EngineSettings

pytestmark = pytest.mark.anyio

SMALL = replace(TINY, graph_rows_min=64, segment_rows_max=100, apply_bytes_max=2**20)
APPLIED_SECONDS = 60


def vectors(count: int, ndim: int = 4, seed: int = 0) -> Vectors:
    """Vectors that vary along a few directions, as embeddings do."""
    dice = np.random.default_rng(seed)
    few = dice.standard_normal((min(8, ndim), ndim))
    rows = dice.standard_normal((count, len(few))) @ few + 0.01 * dice.standard_normal((count, ndim))
    return rows.astype(np.float32)


def names(count: int, first: int = 0) -> list[str]:
    return [f"r{number}" for number in range(first, first + count)]


@dataclass(frozen=True)
class Answers:
    """What a collection says of itself."""

    count: int
    records: dict[str, tuple[Any, ...]]
    third: list[str]
    nearest: list[list[str]]
    everything: list[str]


async def ask(records: Records, queries: Vectors) -> Answers:
    count = await records.count()
    everything = (await records.query(queries[:1], count + 1)).columns[0].ids
    return Answers(
        count=count,
        records=contents(await records.get()),
        third=list(contents(await records.get(where={"n": 1}))),
        nearest=[columns.ids for columns in (await records.query(queries, 10)).columns],
        everything=sorted(everything),
    )


def check(answers: Answers, expected: dict[str, np.ndarray], queries: Vectors) -> None:
    """Count, get, filter and query are what the vectors that were written say."""
    assert answers.count == len(expected)
    assert list(answers.records) == list(expected)
    assert all(answers.records[key][0] == tuple(vector.tolist()) for key, vector in expected.items())
    assert answers.third == [key for key in expected if int(key[1:]) % 3 == 1]
    assert answers.everything == sorted(expected)
    rows, ids = np.stack(list(expected.values())), np.array(list(expected))
    for query, found in zip(queries, answers.nearest, strict=True):
        nearest = ids[np.argsort(exact_distances("l2", query, rows), kind="stable")[:10]].tolist()
        assert found == nearest


async def add(records: Records, count: int, rows: Vectors, first: int = 0) -> None:
    ids = names(count, first)
    await records.add(ids, rows, documents=ids, metadatas=[{"n": int(name[1:]) % 3} for name in ids])


async def found(engine: Engine, records: Records) -> Records:
    return Records(engine, records.id)


def manifest_of(directory: Path, records: Records) -> Manifest:
    with closing(RecordTables(directory / "collections" / records.id / RECORDS_FILE, writable=False)) as tables:
        return tables.manifest()


@pytest.mark.parametrize("count", [999, 1_000, 1_001])
def test_client_that_is_restarted_has_all_of_a_thousand_records(tmp_path: Path, count: int) -> None:
    rows, queries = vectors(count), vectors(5, seed=1)

    def answers() -> tuple[Any, ...]:
        with PersistentClient(tmp_path) as client:
            made = client.get_or_create_collection("things", embedding_function=None)
            if not made.count():
                for first in range(0, count, 100):
                    ids = names(count)[first : first + 100]
                    made.add(ids, rows[first : first + 100], documents=ids)
            got = made.get(include=["documents", "embeddings"])
            assert np.array_equal(np.asarray(got["embeddings"]), rows)
            found = made.query(query_embeddings=queries, n_results=count + 10, include=["distances"])
            return made.count(), got["ids"], got["documents"], [sorted(ids) for ids in found["ids"]], found["distances"]

    first = answers()
    assert first[:3] == (count, names(count), names(count))
    assert first[3] == [sorted(names(count))] * 5
    for _ in range(2):
        assert answers() == first


BORDERS = sorted({border + around for border in (64, 80, 100, 164, 200, 300) for around in (-1, 0, 1)})
"""A graph begins at 64 rows and grows by a quarter or more; a segment ends at 100."""


@pytest.mark.parametrize("count", BORDERS)
async def test_restart_around_graphs_and_segments(tmp_path: Path, count: int) -> None:
    rows, queries = vectors(count, 8), vectors(8, 8, seed=1)
    expected = dict(zip(names(count), rows, strict=True))
    async with engine_at(tmp_path, SMALL) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        for first in range(0, count, 50):
            part = rows[first : first + 50]
            await add(records, len(part), part, first)
        tail = await ask(records, queries)
        check(tail, expected, queries)
    for settles in (0, 1, 1):
        async with engine_at(tmp_path, SMALL) as engine:
            again = await found(engine, records)
            assert await ask(again, queries) == tail
            if settles:
                async with compactor_at(tmp_path, SMALL) as compactor:
                    await settle(compactor)
                assert await ask(again, queries) == tail
    segments = manifest_of(tmp_path, records).segments
    assert [segment.rows for segment in segments] == [100] * (count // 100) + [count % 100] * (count % 100 > 0)
    assert [segment.graph is not None for segment in segments] == [segment.rows >= 64 for segment in segments]


@pytest.mark.parametrize("count", [TAIL_BLOCK_ROWS - 1, TAIL_BLOCK_ROWS, TAIL_BLOCK_ROWS + 1, 2 * TAIL_BLOCK_ROWS + 1])
async def test_restart_around_blocks_of_the_tail(tmp_path: Path, count: int) -> None:
    """Nothing is applied: each process packs the tail anew, in blocks."""
    rows, queries = vectors(count, 16), vectors(8, 16, seed=1)
    async with engine_at(tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await add(records, count - 1, rows[:-1])
        await ask(records, queries)
        await add(records, 1, rows[-1:], count - 1)
        tail = await ask(records, queries)
        check(tail, dict(zip(names(count), rows, strict=True)), queries)
    async with engine_at(tmp_path) as engine:
        assert await ask(await found(engine, records), queries) == tail


@pytest.mark.parametrize("count", [BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1])
async def test_restart_around_the_rows_from_which_directions_are_chosen(tmp_path: Path, count: int) -> None:
    """At default settings; from here on rows are packed in a few directions, and in a second block."""
    settings = EngineSettings(durability="off")
    rows, queries = vectors(count, 192), vectors(8, 192, seed=1)
    async with engine_at(tmp_path, settings) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        for first in range(0, count, 4_000):
            part = rows[first : first + 4_000]
            await add(records, len(part), part, first)
        tail = await ask(records, queries)
        check(tail, dict(zip(names(count), rows, strict=True)), queries)
        async with compactor_at(tmp_path, settings) as compactor:
            await settle(compactor)
        assert await ask(records, queries) == tail
    async with engine_at(tmp_path, settings) as engine:
        assert await ask(await found(engine, records), queries) == tail
    folder = tmp_path / "collections" / records.id
    with closing(RecordTables(folder / RECORDS_FILE, writable=False)) as tables:
        base = load_base(folder, tables.manifest(), EMPTY_BASE, tables)
    assert (base.segments[0].scanned().dims < 192) == (count >= BLOCK_ROWS)


@pytest.mark.parametrize("around", [-1, 0, 1])
async def test_restart_between_steps_that_apply_a_few_bytes_each(tmp_path: Path, around: int) -> None:
    """The limit is the size of two entries, a byte less or more: a step takes two of them, or one."""
    rows, queries = vectors(60), vectors(4, seed=1)
    expected = dict(zip(names(60), rows, strict=True))
    async with engine_at(tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        for first in range(0, 60, 10):
            await add(records, 10, rows[first : first + 10], first)
        sizes = [len(payload) for _, payload in engine.follower.sink(records.id).entries.now()]  # type: ignore[arg-type]
    settings = replace(TINY, apply_bytes_max=sizes[0] + sizes[1] + around)
    waiting: list[int] = []
    for _ in range(7):
        async with compactor_at(tmp_path, settings) as compactor:
            await compactor.step()
        async with engine_at(tmp_path, settings) as engine:
            again = await found(engine, records)
            check(await ask(again, queries), expected, queries)
            reader = engine.follower.sink(records.id)  # type: ignore[arg-type]
            reader.trim()
            waiting.append(len(reader.entries))
    assert waiting[0] == (5 if around < 0 else 4)
    assert waiting[-1] == 0


async def test_restart_after_each_piece_until_pieces_have_merged(tmp_path: Path) -> None:
    expected: dict[str, np.ndarray] = {}
    queries, fewer = vectors(4, seed=1), 0
    async with engine_at(tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
    before = 0
    for number in range(2 * PIECES_MAX + 2):
        rows = vectors(2 ** max(0, 5 - number // 2), seed=number + 2)
        async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
            again = await found(engine, records)
            await add(again, len(rows), rows, len(expected))
            expected.update(zip(names(len(rows), len(expected)), rows, strict=True))
            await settle(compactor)
            check(await ask(again, queries), expected, queries)
        async with engine_at(tmp_path) as engine:
            check(await ask(await found(engine, records), queries), expected, queries)
        pieces = len(manifest_of(tmp_path, records).pieces)
        fewer += pieces <= before
        before = pieces
    assert fewer > 3


@pytest.mark.parametrize("settles", ["never", "first", "between", "always"])
@pytest.mark.parametrize("together", [True, False], ids=["in one commit", "across a restart"])
async def test_id_that_is_deleted_and_added_again_is_a_new_record(tmp_path: Path, settles: str, together: bool) -> None:
    """It has nothing of the old one, and is the last."""
    rows = vectors(5)

    async def maybe_settle(*when: str) -> None:
        if settles in when:
            async with compactor_at(tmp_path) as compactor:
                await settle(compactor)

    async with engine_at(tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(names(4), rows[:4], documents=names(4), metadatas=[{"old": 1}] * 4)
        await maybe_settle("first", "always")
        if together:
            before = engine.log.barrier()
            await asyncio.gather(records.delete(["r1"]), records.add(["r1"], rows[4:], metadatas=[{"new": 1}]))
            assert engine.log.barrier() == before + 2
        else:
            await records.delete(["r1"])
    if not together:
        await maybe_settle("between", "always")
        async with engine_at(tmp_path) as engine:
            records = await found(engine, records)
            assert list(contents(await records.get())) == ["r0", "r2", "r3"]
            await records.add(["r1"], rows[4:], metadatas=[{"new": 1}])
    for _ in range(2):
        async with engine_at(tmp_path) as engine:
            records = await found(engine, records)
            held = contents(await records.get())
            assert list(held) == ["r0", "r2", "r3", "r1"]
            assert tuple(held["r1"]) == (tuple(rows[4].tolist()), None, {"new": 1}, None)
            assert await records.count() == 4
            assert list(contents(await records.get(where={"old": 1}))) == ["r0", "r2", "r3"]
            assert (await records.query(rows[4:], 4)).columns[0].ids[0] == "r1"
            assert sorted((await records.query(rows[1:2], 9)).columns[0].ids) == names(4)
        await maybe_settle("always", "between")
