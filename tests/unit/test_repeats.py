"""Writes with a key are carried out once, however often they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.clock import ManualClock
from tests.support.engines import PATH, TINY, Records, as_batch, compactor_at, create_collection, engine_at, settle
from tests.support.waiting import soon

from chroma_async.engine import Engine
from chroma_async.engine.author import AUTHOR
from chroma_async.engine.progress import LOOK_SECONDS
from chroma_async.errors import InvalidArgumentError, InvalidDimensionException, MalformedRequestError
from chroma_async.protocol import DeleteRecords, UpsertRecords
from chroma_async.protocol.results import DeleteResult, WriteResult
from chroma_async.seams import InlineWorkers
from chroma_async.settings import Durability
from chroma_async.wal import MemoryLog, MemoryLogState

pytestmark = pytest.mark.anyio


async def upsert(engine: Engine, collection_id: str, number: int, key: str | None, **fields: Any) -> WriteResult:
    call = UpsertRecords(
        **PATH,
        collection_id=collection_id,
        ids=["a"],
        embeddings=as_batch(np.asarray([[number, 1]], dtype=np.float32)),
        idempotency_key=key,
        **fields,
    )
    return await engine.dispatch(call)


async def delete(engine: Engine, collection_id: str, key: str | None, **fields: Any) -> DeleteResult:
    return await engine.dispatch(DeleteRecords(**PATH, collection_id=collection_id, idempotency_key=key, **fields))


async def value(engine: Engine, collection_id: str) -> float:
    columns = (await Records(engine, collection_id).get(["a"])).columns
    assert columns.embeddings is not None
    return float(columns.embeddings[0][0])


@pytest.mark.parametrize("applied", [False, True])
async def test_the_same_write_sent_again_changes_nothing_and_has_the_same_answer(tmp_path: Path, applied: bool) -> None:
    async with engine_at(tmp_path) as engine, compactor_at(tmp_path) as compactor:
        place = (await create_collection(engine)).id
        first = await upsert(engine, place, 1, "k1")
        await upsert(engine, place, 2, "k2")
        if applied:
            await settle(compactor)
        async with engine_at(tmp_path) as other:
            assert await upsert(other, place, 1, "k1") == first
            assert await value(other, place) == 2
        assert await upsert(engine, place, 1, "k1", wait="committed") == first
        assert await value(engine, place) == 2
        assert engine.follower.position == (first.lsn or 0) + 1


async def test_the_same_write_sent_at_once_by_many_happens_once(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine, engine_at(tmp_path) as other:
        place = (await create_collection(engine)).id
        await other.follower.catch_up()
        before = engine.follower.position
        results = await asyncio.gather(
            *(upsert(process, place, 1, "same") for process in [engine, other] * 5),
            *(upsert(process, place, 3, None) for process in (engine, other)),
        )
        assert len({result.lsn for result in results[:10]}) == 1
        await engine.follower.catch_up()
        assert engine.follower.position == before + 3


async def test_another_write_with_the_same_key_is_refused(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        place, other = [(await create_collection(engine, name)).id for name in ("first", "second")]
        await upsert(engine, place, 1, "k")
        with pytest.raises(MalformedRequestError, match="used for another write"):
            await upsert(engine, place, 2, "k")
        with pytest.raises(MalformedRequestError, match="used for another write"):
            await delete(engine, place, "k", ids=["a"])
        assert await value(engine, place) == 1
        await upsert(engine, other, 2, "k")  # a collection has keys of its own
        AUTHOR.set("somebody else")  # and so has each caller
        await upsert(engine, place, 5, "k")
        AUTHOR.set(None)
        assert await value(engine, place) == 5
        first = await upsert(engine, place, 6, "kk")  # no key is the beginning of another
        assert (await upsert(engine, place, 1, "k")).lsn != first.lsn


async def test_a_deletion_sent_again_does_not_find_what_was_added_meanwhile(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        place = (await create_collection(engine)).id
        records = Records(engine, place)
        everything = {"where": {"n": 1}}
        nothing = await delete(engine, place, "none", **everything)
        assert (nothing.deleted, nothing.lsn is None) == (0, False)
        await records.add(["a", "b"], [[1, 2], [3, 4]], metadatas=[{"n": 1}, {"n": 1}])
        assert await delete(engine, place, "none", **everything) == nothing
        both = await delete(engine, place, "both", **everything)
        await records.add(["a", "c"], [[1, 2], [3, 4]], metadatas=[{"n": 1}, {"n": 1}])
        assert await delete(engine, place, "both", **everything) == both
        assert both.deleted == 2
        by_id = await delete(engine, place, "id", ids=["a", "zz"])
        await records.add(["a"], [[1, 2]])
        assert await delete(engine, place, "id", ids=["a", "zz"]) == by_id
        assert await records.count() == 2


async def test_a_write_that_was_refused_keeps_no_key(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        place = (await create_collection(engine)).id
        await upsert(engine, place, 1, None)
        bad = UpsertRecords(
            **PATH, collection_id=place, ids=["a"], embeddings=as_batch(np.ones((1, 3), np.float32)), idempotency_key="k"
        )
        with pytest.raises(InvalidDimensionException):
            await engine.dispatch(bad)
        await upsert(engine, place, 2, "k")
        assert await value(engine, place) == 2


async def test_a_repeated_write_waits_as_the_first_one_does(tmp_path: Path) -> None:
    clock = ManualClock()
    async with engine_at(tmp_path, TINY, clock=clock) as engine, compactor_at(tmp_path) as compactor:
        place = (await create_collection(engine)).id
        await upsert(engine, place, 1, "k")
        again = asyncio.create_task(upsert(engine, place, 1, "k", wait="applied"))
        await clock.round(LOOK_SECONDS)
        assert not again.done()
        await settle(compactor)
        await clock.advance(LOOK_SECONDS)
        assert (await soon(again)).reached == "indexed"


@pytest.mark.parametrize("key", ["", "with space", "naïve", "x" * 256, "line\nbreak"])
async def test_a_key_that_is_none_is_refused(tmp_path: Path, key: str) -> None:
    async with engine_at(tmp_path) as engine:
        place = (await create_collection(engine)).id
        with pytest.raises(InvalidArgumentError, match="Idempotency-Key has 1 to 255 visible"):
            await upsert(engine, place, 1, key)
        with pytest.raises(InvalidArgumentError, match="Idempotency-Key"):
            await delete(engine, place, key, ids=["a"])


async def test_what_is_acknowledged_again_is_as_durable_as_what_is_acknowledged(tmp_path: Path) -> None:
    """The write that is there already may be of a process that fsyncs nothing."""
    state = MemoryLogState()

    @asynccontextmanager
    async def engine(durability: Durability) -> AsyncIterator[Engine]:
        log = MemoryLog(state, durability=durability)
        made = Engine(tmp_path, log, InlineWorkers(), replace(TINY, durability=durability))
        await made.start()
        yield made
        await made.close()

    async with engine("off") as careless, engine("commit") as careful:
        place = (await create_collection(careless)).id
        state.sync()
        await upsert(careless, place, 1, "k")
        result = await upsert(careful, place, 1, "k")
        assert (state._synced or state.image).newest >= (result.lsn or 0)
