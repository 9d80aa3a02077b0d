"""What only embedded clients can do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from chroma_async import AsyncEphemeralClient, AsyncPersistentClient, Settings, errors
from chroma_async.client.colours import async_sleep

pytestmark = pytest.mark.anyio


async def test_data_outlives_the_client(tmp_path: Path) -> None:
    async with AsyncPersistentClient(tmp_path / "data") as client:
        collection = await client.create_collection("kept", metadata={"a": 1})
        await collection.add(["x", "y"], [[1, 2], [3, 4]], documents=["ex", "why"])
    async with AsyncPersistentClient(tmp_path / "data") as client:
        found = await client.get_collection("kept")
        assert found.metadata == {"a": 1}
        assert (await found.get())["documents"] == ["ex", "why"]
        assert (await found.query([3, 4], n_results=1))["ids"] == [["y"]]


async def test_vectors_are_returned_after_they_were_moved_out_of_the_log(tmp_path: Path) -> None:
    async with AsyncPersistentClient(tmp_path / "data") as client:
        collection = await client.create_collection("moved")
        await collection.add(["x", "y"], [[1, 2], [3, 4]])
        deadline = time.monotonic() + 20
        while (await collection.get_indexing_status()).num_unindexed_ops:
            assert time.monotonic() < deadline
            await async_sleep(0.05)
        stored = await collection.get(include=["embeddings"])
        assert stored["embeddings"] is not None
        assert stored["embeddings"].tolist() == [[1, 2], [3, 4]]


async def test_two_clients_of_one_directory_see_each_others_writes(tmp_path: Path) -> None:
    async with AsyncPersistentClient(tmp_path / "data") as one, AsyncPersistentClient(tmp_path / "data") as two:
        written = await one.create_collection("shared")
        await written.add("x", [1, 2])
        read = await two.get_collection("shared")
        assert await read.count() == 1
        await read.delete("x")
        assert await written.count() == 0


async def test_ephemeral_clients_share_nothing() -> None:
    async with AsyncEphemeralClient() as one, AsyncEphemeralClient() as two:
        await one.create_collection("mine")
        assert await two.count_collections() == 0


async def test_reset_needs_permission_and_then_deletes_everything() -> None:
    async with AsyncEphemeralClient() as client:
        await client.create_collection("kept")
        with pytest.raises(errors.ForbiddenError, match=r"^Reset is disabled by config; .*Settings\(allow_reset=True\)"):
            await client.reset()
        assert await client.count_collections() == 1
    async with AsyncEphemeralClient(settings=Settings(allow_reset=True)) as client:
        await client.create_collection("gone")
        assert await client.reset()
        assert await client.count_collections() == 0
