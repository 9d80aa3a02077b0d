"""Reads that a thread answers itself are counted once, whoever answers them in the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.engines import PATH, Records, create_collection, engine_at

from chroma_async.engine.engine import Engine
from chroma_async.errors import InternalError, InvalidArgumentError, NotYetVisibleError
from chroma_async.model import Lsn
from chroma_async.protocol import CountRecords

pytestmark = pytest.mark.anyio


def counted(engine: Engine) -> dict[str, float]:
    """How many counts were answered, by outcome."""
    samples = next(iter(engine.metrics.calls.collect())).samples
    return {
        sample.labels["outcome"]: sample.value
        for sample in samples
        if sample.name.endswith("_total") and sample.labels["call"] == "CountRecords"
    }


async def test_a_read_is_counted_by_who_answers_it(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        things = Records(engine, (await create_collection(engine)).id)
        await things.add(["a"], [[1.0]])
        read = CountRecords(**PATH, collection_id=things.id)
        answered = engine.answer_here(read)
        assert answered is not None
        assert answered[0].count == 1
        assert counted(engine) == {"ok": 1}

        beyond = Lsn(engine.position + 1)
        waits = CountRecords(**PATH, collection_id=things.id, min_lsn=beyond, wait_seconds=0.0)
        assert engine.answer_here(waits) is None
        with pytest.raises(NotYetVisibleError):
            await engine.dispatch(waits)
        assert counted(engine) == {"ok": 1, "NotYetVisibleError": 1}

        with pytest.raises(InvalidArgumentError):
            engine.answer_here(CountRecords(**PATH, collection_id=things.id, min_lsn=Lsn(-1)))
        assert counted(engine) == {"ok": 1, "NotYetVisibleError": 1, "InvalidArgumentError": 1}


async def test_a_read_of_damaged_files_is_counted_by_the_loop_that_looks_into_it(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        things = Records(engine, (await create_collection(engine)).id)
        await things.add(["a"], [[1.0]])
        engine.follower.sink(things.id).refuse("damaged")  # type: ignore[arg-type]
        read = CountRecords(**PATH, collection_id=things.id)
        assert engine.answer_here(read) is None
        with pytest.raises(InternalError):
            await engine.dispatch(read)
        assert counted(engine) == {"InternalError": 1}
