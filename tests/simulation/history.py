"""A history: what the seed makes writers, readers, compactors and crashes do, and what must hold after each step."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tests.simulation.oracle import Oracle
from tests.simulation.world import SimulatedProcess, World

from chroma_async.engine.invariants import violations
from chroma_async.model import JsonObject, Vectors
from chroma_async.protocol import (
    AddRecords,
    Call,
    CountRecords,
    CreateCollection,
    DeleteCollection,
    DeleteRecords,
    GetRecords,
    ListCollections,
    QueryRecords,
    UpdateRecords,
    UpsertRecords,
)
from chroma_async.protocol.embeddings import EmbeddingBatch
from chroma_async.protocol.results import StoredMetadata, metadata_object
from chroma_async.settings import Durability
from chroma_async.wal import MemoryLog

NDIM = 4
IDS = [f"r{number}" for number in range(60)]
WRITES = {"add": AddRecords, "upsert": UpsertRecords, "update": UpdateRecords}
ADDRESS = {"tenant": "default_tenant", "database": "default_database"}


@dataclass
class Collection:
    """A collection as the history knows it: its address and what it must hold."""

    name: str
    address: dict[str, str]
    oracle: Oracle = field(default_factory=Oracle)


def metadata_objects(stored: Sequence[StoredMetadata] | None) -> list[JsonObject | None]:
    return [metadata_object(item) for item in stored or ()]


class History:
    """Plays steps; raises AssertionError with the seed at the first thing that is wrong."""

    def __init__(self, directory: Path, seed: int, durability: Durability = "commit") -> None:
        self.world = World(directory, seed, durability)
        self.rng = random.Random(seed * 7919 + 1)
        self.numbers = np.random.default_rng(seed)
        self.collections: list[Collection] = []
        self.created = 0
        self.steps: list[str] = []

    async def run(self, steps: int) -> None:
        try:
            await self.world.start_process()
            await self.create()
            for _ in range(steps):
                await self.step()
            await self.settle()
        except AssertionError as error:
            raise AssertionError(f"seed {self.world.seed}: {error}\nhistory: {' '.join(self.steps)}") from error
        finally:
            await self.world.close()

    async def step(self) -> None:
        if not self.world.processes:
            await self.world.start_process()
        actions = {
            self.write: 30,
            self.write_together: 8,
            self.write_and_cancel: 6,
            self.delete: 8,
            self.read: 25,
            self.compact: 14,
            self.compact_and_crash: 6,
            self.start_process: 4,
            self.crash_process: 4,
            self.crash_machine: 3,
            self.create: 2,
            self.drop: 1,
            self.pass_time: 4,
            self.write_back: 4,
        }
        action = self.rng.choices(list(actions), list(actions.values()))[0]
        self.steps.append(action.__name__)
        await action()
        await self.check_invariants()

    # ---- who and what

    def process(self) -> SimulatedProcess:
        return self.rng.choice(self.world.processes)

    def collection(self) -> Collection:
        return self.rng.choice(self.collections)

    def vectors(self, count: int) -> Vectors:
        return self.numbers.normal(size=(count, NDIM)).astype(np.float32)

    def batch(self, collection: Collection) -> tuple[Call[Any], Any]:
        """A write, and the function that tells the oracle of it."""
        kind = self.rng.choice(sorted(WRITES))
        ids = [self.rng.choice(IDS) for _ in range(self.rng.randint(1, 12))]
        vectors = self.vectors(len(ids))
        documents = [self.rng.choice([None, "red fox", "blue fox", "grey owl"]) for _ in ids]
        metadatas = [self.metadata(kind) for _ in ids]
        has_vectors = kind != "update" or self.rng.random() < 0.5
        fields: dict[str, Any] = {"ids": ids, "documents": documents, "metadatas": metadatas}
        if has_vectors:
            fields["embeddings"] = EmbeddingBatch(vectors)
        call = WRITES[kind](**collection.address, **fields)
        remembered = vectors if has_vectors else [None] * len(ids)
        return call, lambda: getattr(collection.oracle, kind)(ids, remembered, documents, metadatas)

    def metadata(self, kind: str) -> dict[str, Any] | None:
        choices: list[Any] = [None, {"n": self.rng.randint(0, 3)}, {"n": 1, "s": "x"}, {"s": self.rng.choice("xyz")}]
        if kind != "add":
            choices += [{"n": None}, {"s": None, "n": 2}]
        return self.rng.choice(choices)

    # ---- steps

    async def create(self) -> None:
        if len(self.collections) >= 4:
            return
        self.created += 1
        name = f"collection-{self.created}"
        made = await self.process().engine.dispatch(CreateCollection(**ADDRESS, name=name))
        self.collections.append(Collection(name, {**ADDRESS, "collection_id": made.id}))

    async def drop(self) -> None:
        if len(self.collections) < 2:
            return
        gone = self.collections.pop(self.rng.randrange(len(self.collections)))
        await self.process().engine.dispatch(DeleteCollection(**ADDRESS, name=gone.name))

    async def write(self) -> None:
        call, remember = self.batch(self.collection())
        await self.process().engine.dispatch(call)
        remember()

    async def write_together(self) -> None:
        """Several writes at once, in several processes: the log says in which order they happened."""
        batches = [self.batch(self.collection()) for _ in range(self.rng.randint(2, 6))]
        results = await asyncio.gather(*(self.process().engine.dispatch(call) for call, _ in batches))
        order = sorted(range(len(batches)), key=lambda number: results[number].lsn)
        assert len({result.lsn for result in results}) == len(results), "two entries with one LSN"
        for number in order:
            batches[number][1]()

    async def write_and_cancel(self) -> None:
        """A caller that goes away: its write is there whole or not at all."""
        call, remember = self.batch(self.collection())
        before = self.world.log.image.newest
        task = asyncio.create_task(self.process().engine.dispatch(call))
        for _ in range(self.rng.randint(0, 12)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        for _ in range(30):
            await asyncio.sleep(0)
        appended = self.world.log.image.newest - before
        assert appended in (0, 1), f"one call appended {appended} entries"
        assert appended or task.cancelled(), "acknowledged, but not in the log"
        if appended:
            remember()

    async def delete(self) -> None:
        collection = self.collection()
        engine = self.process().engine
        if self.rng.random() < 0.5:
            ids = [self.rng.choice(IDS) for _ in range(self.rng.randint(1, 10))]
            await engine.dispatch(DeleteRecords(**collection.address, ids=ids))
        else:
            number = self.rng.randint(0, 3)
            ids = [key for key, row in collection.oracle.records.items() if (row[1] or {}).get("n") == number]
            result = await engine.dispatch(DeleteRecords(**collection.address, where={"n": number}))
            assert result.deleted == len(ids), f"deleted {result.deleted}, expected {len(ids)}"
        collection.oracle.delete(ids)

    async def read(self) -> None:
        await self.check_reads(self.process(), self.collection())

    async def compact(self) -> None:
        await self.world.compact(self.process())

    async def compact_and_crash(self) -> None:
        await self.world.compact(self.process(), crash_after=self.rng.randint(0, 25))

    async def start_process(self) -> None:
        if len(self.world.processes) < 3:
            await self.world.start_process()

    async def crash_process(self) -> None:
        await self.world.crash(self.process())

    async def crash_machine(self) -> None:
        """A power cut. With durability off it may take the newest writes with it, and nothing but the newest."""
        before = self.world.log.image.newest
        await self.world.crash_machine()
        lost = before - self.world.log.image.newest
        if lost:
            assert self.world.durability == "off", f"{lost} acknowledged entries are gone"
            await self.check_invariants()
            await self.start_again()

    async def start_again(self) -> None:
        """Believe what a fresh process reads; from here on the oracle holds it to that."""
        await self.world.start_process()
        engine = self.process().engine
        found = await engine.dispatch(ListCollections(**ADDRESS))
        self.collections = [Collection(item.name, {**ADDRESS, "collection_id": item.id}) for item in found]
        for collection in self.collections:
            call = GetRecords(**collection.address, include=("documents", "metadatas", "embeddings"))
            got = (await engine.dispatch(call)).columns
            columns = (got.ids, got.embeddings, got.documents or [], metadata_objects(got.metadatas))
            collection.oracle.add(*columns)
        if not self.collections:
            await self.create()

    async def pass_time(self) -> None:
        await self.world.clock.advance(self.rng.choice([0.01, 1.0, 30.0]))

    async def write_back(self) -> None:
        """The operating system writes the log to the disk when it likes."""
        self.world.log.sync()

    async def settle(self) -> None:
        """In the end everything is applied, by a fresh process, and every process says the same."""
        process = await self.world.start_process()
        for other in self.world.processes[:-1]:
            await self.world.crash(other)
        for _ in range(200):
            await self.world.compact(process)
        await self.check_invariants()
        for collection in self.collections:
            await self.check_reads(process, collection)

    # ---- what must hold

    async def check_invariants(self) -> None:
        found = await violations(self.world.directory, MemoryLog(self.world.log))
        assert not found, "; ".join(found)

    async def check_reads(self, process: SimulatedProcess, collection: Collection) -> None:
        engine, records = process.engine, collection.oracle.records
        count = await engine.dispatch(CountRecords(**collection.address))
        assert count == len(records), f"count {count}, expected {len(records)}"
        await self.check_get(process, collection)
        number = self.rng.randint(0, 3)
        await self.check_query(process, collection, None, list(records))
        matching = [key for key, row in records.items() if (row[1] or {}).get("n") == number]
        await self.check_query(process, collection, {"n": number}, matching)

    async def check_get(self, process: SimulatedProcess, collection: Collection) -> None:
        include = ("documents", "metadatas", "embeddings")
        got = (await process.engine.dispatch(GetRecords(**collection.address, include=include))).columns
        records = collection.oracle.records
        assert got.ids == list(records), f"ids {got.ids}, expected {list(records)}"
        assert got.documents == [row[0] for row in records.values()], "documents differ"
        assert metadata_objects(got.metadatas) == [row[1] for row in records.values()], "metadatas differ"
        if records:
            expected = np.stack([row[2] for row in records.values()])
            assert got.embeddings is not None
            assert np.array_equal(got.embeddings, expected), "embeddings differ"
        foxes = await process.engine.dispatch(GetRecords(**collection.address, where_document={"$contains": "fox"}))
        assert foxes.columns.ids == [key for key, row in records.items() if row[0] is not None and "fox" in row[0]]

    async def check_query(self, process: SimulatedProcess, collection: Collection, where: Any, allowed: list[str]) -> None:
        query, wanted = self.vectors(1), self.rng.choice([1, 3, 10])
        call = QueryRecords(**collection.address, query_embeddings=query, n_results=wanted, where=where)
        result = await process.engine.dispatch(call)
        expected = collection.oracle.nearest(query[0], allowed, wanted)
        assert result.distances is not None
        assert set(result.columns[0].ids) <= set(allowed), "a result that the filter forbids"
        assert len(result.columns[0].ids) == len(expected), f"{len(result.columns[0].ids)} results of {len(expected)}"
        np.testing.assert_allclose(result.distances[0], expected, rtol=1e-4, atol=1e-5)
