"""The books that a compactor keeps, each by itself: what failed, and which stores are open."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from tests.support.clock import ManualClock
from tests.support.engines import TINY, Records, compactor_at, create_collection, engine_at, settle

from chroma_async.engine.compaction.retries import Retries
from chroma_async.engine.compaction.stores import OpenStores
from chroma_async.errors import StorageCorrupt
from chroma_async.model import CollectionId, Lsn
from chroma_async.projections.store import LEFT_ALONE_FILE
from chroma_async.seams import Seams

ONE, OTHER = CollectionId("one"), CollectionId("other")


def test_what_fails_again_is_tried_after_twice_as_long() -> None:
    clock = ManualClock()
    retries = Retries(clock, 1.0, 5.0)
    assert (retries.is_due(ONE), len(retries)) == (True, 0)
    for pause in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert retries.later(ONE) == pause
        assert (retries.is_due(ONE), retries.is_due(OTHER)) == (False, True)
        clock.seconds += pause / 2
        assert not retries.is_due(ONE)
        clock.seconds += pause / 2
        assert retries.is_due(ONE)
    retries.forget(ONE)
    assert (len(retries), retries.later(ONE)) == (0, 1.0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def stores(tmp_path: Path, clock: ManualClock) -> OpenStores:
    return OpenStores(tmp_path / "collections", Seams(clock=clock), lambda collection_id: Lsn(0), apart=False)


def fail(stores: OpenStores, collection_id: CollectionId) -> None:
    with stores.guarded(collection_id):
        raise StorageCorrupt("for a test")


def test_a_damaged_collection_is_left_alone_for_a_while_and_says_so(
    tmp_path: Path, stores: OpenStores, clock: ManualClock
) -> None:
    store = stores.get(ONE)
    word = tmp_path / "collections" / ONE / LEFT_ALONE_FILE
    fail(stores, ONE)
    assert (stores.is_left_alone(ONE), stores.is_left_alone(OTHER)) == (True, False)
    assert word.read_text().startswith("damaged: see the log")
    assert stores.opened() == []
    clock.seconds += 31
    assert not stores.is_left_alone(ONE)
    assert word.exists()  # until it has gone well
    assert stores.get(ONE) is not store
    stores.note_sound(ONE)
    assert not word.exists()
    stores.close_all()


def test_a_store_that_somebody_works_on_is_closed_when_that_has_ended(stores: OpenStores) -> None:
    """A graph that was being built of it failed with a closed database."""
    store = stores.get(ONE)
    stores.pin(ONE)
    fail(stores, ONE)
    stores.close_idle()
    assert stores.opened() == []
    assert store.tables.version() == 0
    another = stores.get(ONE)
    assert another is not store
    stores.unpin(ONE)
    with pytest.raises(sqlite3.ProgrammingError):
        store.tables.version()
    assert (stores.opened(), another.tables.version()) == ([another], 0)
    stores.get(OTHER)
    stores.pin(OTHER)
    stores.unpin(OTHER)
    assert len(stores.opened()) == 2
    stores.close_idle()
    assert stores.opened() == []


@pytest.mark.anyio
async def test_a_collection_that_was_left_alone_says_so_no_more_when_it_could_be_applied(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as engine:
        records = Records(engine, (await create_collection(engine)).id)
        await records.add(["a"], np.eye(1, 3))
        async with compactor_at(tmp_path, TINY) as compactor:
            await settle(compactor)
            word = tmp_path / "collections" / records.id / LEFT_ALONE_FILE
            word.write_text("of a predecessor")
            await records.add(["b"], np.eye(1, 3))
            await settle(compactor)
            assert not word.exists()
            word.write_text("of a predecessor")
        async with compactor_at(tmp_path, TINY):
            assert not word.exists()
