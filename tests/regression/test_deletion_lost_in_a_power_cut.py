"""Without fsync a power cut may take the deletion of a collection with it. Then it is back, and so must its records be.

The compactor removed the files as soon as it had read of the deletion, and the older entries had been freed long ago: what
came back was a collection that was damaged, or, before that was noticed, empty.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.simulation.world import World
from tests.support.engines import PATH, Records, contents, create_collection, delete_collection

from chroma_async.protocol import ListCollections

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("takes_over", [False, True])
async def test_files_of_a_deleted_collection_stay_until_its_deletion_is_safe(tmp_path: Path, takes_over: bool) -> None:
    world = World(tmp_path, seed=1, durability="off")
    await world.start()
    process = await world.start_process()
    records = Records(process.engine, (await create_collection(process.engine)).id)
    await records.add(["a", "b"], np.eye(2, dtype=np.float32))
    await world.compact(process)
    world.medium.write_back()
    await delete_collection(process.engine)
    if takes_over:
        await world.crash(process)
        process = await world.start_process()
    await world.compact(process)
    await world.crash_machine()
    engine = (await world.start_process()).engine
    found = await engine.dispatch(ListCollections(**PATH))
    for collection in found:  # it is back, or it is gone for good
        assert list(contents(await Records(engine, collection.id).get())) == ["a", "b"]
    await world.close()
