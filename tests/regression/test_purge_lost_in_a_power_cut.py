"""Without fsync a power cut may take the request for a purge with it. Then no receipt for it may be left.

The next request would get the same number, and be answered by what was done for the lost one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.simulation.world import World
from tests.support.engines import PATH, Records, create_collection

from chroma_async.protocol import PurgeCollection

pytestmark = pytest.mark.anyio


async def test_a_receipt_does_not_outlive_the_request_it_is_for(tmp_path: Path) -> None:
    world = World(tmp_path, seed=1, durability="off")
    await world.start()
    process = await world.start_process()
    collection = await create_collection(process.engine)
    await Records(process.engine, collection.id).add(["a", "b"], np.eye(2, dtype=np.float32))
    await world.compact(process)
    world.medium.write_back()
    call = PurgeCollection(**PATH, collection_id=collection.id, wait_seconds=0)
    await process.engine.dispatch(call)
    await world.compact(process)
    await world.crash_machine()
    engine = (await world.start_process()).engine
    found = engine.follower.catalog.collection(collection.id)
    assert found is not None
    manifest = engine.follower.sink(collection.id).published()
    assert manifest is not None
    assert (manifest.purge is not None) <= found.purges
    await world.close()
