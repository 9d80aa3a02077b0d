"""A history: what the seed makes writers, readers, compactors and crashes do, and what must hold after each step."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np
from tests.simulation.disk import Fault
from tests.simulation.oracle import Oracle
from tests.simulation.rebuild import Rebuild
from tests.simulation.world import SETTINGS, HeldView, LogKind, Regime, SimulatedProcess, World

from chroma_async.client.watching import Mirror
from chroma_async.core.where import conjoin, parse_where, parse_where_document
from chroma_async.engine.collection import CollectionReader
from chroma_async.engine.compactor import COLLECTIONS
from chroma_async.engine.invariants import CHECKERS, DirectoryState, read_state
from chroma_async.engine.read_view import NotAtHand, View
from chroma_async.errors import ChromaError, GoneError, InternalError, NotFoundError, StorageCorrupt
from chroma_async.model import CollectionId, JsonObject, Vectors
from chroma_async.projections.manifest import Manifest
from chroma_async.projections.records import RecordTables
from chroma_async.projections.store import RECORDS_FILE
from chroma_async.protocol import (
    AddRecords,
    Call,
    CountRecords,
    CreateCollection,
    DeleteCollection,
    DeleteRecords,
    GetRecords,
    ListCollections,
    PurgeCollection,
    QueryRecords,
    UpdateRecords,
    UpsertRecords,
    WatchCollection,
)
from chroma_async.protocol.embeddings import EmbeddingBatch
from chroma_async.protocol.results import StoredMetadata, metadata_object

NDIM = 4
IDS = [f"r{number}" for number in range(60)]
WRITES = {"add": AddRecords, "upsert": UpsertRecords, "update": UpdateRecords}
ADDRESS = {"tenant": "default_tenant", "database": "default_database"}
HELD_MAX = 4
STEPS = 80

HANGS_SECONDS = 10.0
"""What takes so long will take for ever: steps take milliseconds."""

COVERED = (
    "read: on an older base",
    "view: on an older base",
    "view: at hand",
    "view: at hand on an older base",
    "view: refused at hand",
    "view: newest",
    "held view: looked at again",
    "held view: beside a newer base of its reader",
    "held view: of a deleted collection",
    "collection: deleted",
    "collection: deleted while entries of it wait",
    "write: sent again after it happened",
    "write: sent again after it failed",
    "purge: asked for",
    "purge: done",
    "compaction: pieces merged",
    "compaction: segment rewritten or dropped",
    "compaction: graph built",
    "compaction: interrupted by a crash",
    "compaction: interrupted by a full disk",
    "compaction: interrupted by a failed fsync",
    "compaction: interrupted by a failed fsync of the log",
    "compaction: taken over",
    "follower: overtaken by truncation",
    "feed: went on",
    "feed: went on where its entries were applied",
    "feed: gone, and begun again from a snapshot",
    "write: failed and not there",
    "write: failed and there",
    "write: there, and its process died before it told of it",
    "write: caller gone, and there",
    "power cut",
    "power cut: took what was younger than the interval",
    "power cut: left what was older than the interval",
    "fsync in intervals: failed, and writing stopped",
    "power cut: after fsyncs that lied",
    "clock: gone backwards",
    "deleted and added again",
)
"""States that histories must visit; `test_histories_visit_what_they_are_for` looks whether they do."""


@dataclass(frozen=True)
class Acknowledgement:
    """Who acknowledged an entry, and when, by the clock that never jumps."""

    lsn: int
    process: SimulatedProcess
    seconds: float


@dataclass
class Collection:
    """A collection as the history knows it: its address and what it must hold."""

    name: str
    address: dict[str, str]
    oracle: Oracle = field(default_factory=Oracle)
    mirror: Mirror = field(default_factory=Mirror)
    """What a feed has told of it, which somebody follows now and then, in whichever process."""

    @property
    def id(self) -> CollectionId:
        return CollectionId(self.address["collection_id"])


def metadata_objects(stored: Sequence[StoredMetadata] | None) -> list[JsonObject | None]:
    return [metadata_object(item) for item in stored or ()]


class History:
    """Plays steps; raises AssertionError with the seed at the first thing that is wrong."""

    def __init__(self, directory: Path, seed: int, durability: Regime = "commit", log_kind: LogKind = "memory") -> None:
        self.world = World(directory, seed, durability, log_kind)
        self.rng = random.Random(seed * 7919 + 1)
        self.numbers = np.random.default_rng(seed)
        self.collections: list[Collection] = []
        self.created = 0
        self.steps: list[str] = []
        self.seen: Counter[str] = Counter()
        self.acknowledged = 0
        self.unsafe: list[Acknowledgement] = []
        self.rebuild = Rebuild()
        self.manifests: dict[CollectionId, Manifest] = {}
        self.compacted_last: SimulatedProcess | None = None

    async def run(self, steps: int = STEPS) -> None:
        try:
            await self.world.start()
            await self.world.start_process()
            await self.create()
            for _ in range(steps):
                await self.step()
            await self.settle()
        except Exception as error:
            told = error if isinstance(error, AssertionError) else repr(error)
            raise AssertionError(f"seed {self.world.seed}: {told}\nhistory: {' '.join(self.steps)}") from error
        finally:
            await self.world.close()

    async def step(self) -> None:
        if not self.world.processes:
            await self.world.start_process()
        actions = {
            self.write: 24,
            self.write_together: 10,
            self.write_and_cancel: 5,
            self.write_and_fail: 3,
            self.write_again: 4,
            self.die_before_telling: 4,
            self.delete: 8,
            self.delete_and_add_again: 4,
            self.read: 18,
            self.view: 14,
            self.hold_view: 6,
            self.look_again: 6,
            self.follow: 12,
            self.compact: 18,
            self.compact_between_reads: 9,
            self.compact_and_crash: 6,
            self.compact_and_fail: 5,
            self.start_process: 5,
            self.crash_process: 4,
            self.crash_machine: 3,
            self.lie: 2,
            self.fail_fsync: 3,
            self.wait_and_cut_power: 3,
            self.create: 3,
            self.drop: 2,
            self.purge: 3,
            self.pass_time: 4,
            self.jump_clock: 2,
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

    def reader(self, process: SimulatedProcess, collection: Collection) -> CollectionReader:
        return process.engine.follower.sink(collection.id)

    def vectors(self, count: int) -> Vectors:
        return self.numbers.normal(size=(count, NDIM)).astype(np.float32)

    def some_ids(self, most: int) -> list[str]:
        return [self.rng.choice(IDS) for _ in range(self.rng.randint(1, most))]

    def batch(self, collection: Collection, kind: str | None = None, ids: list[str] | None = None) -> tuple[Call[Any], Any]:
        """A write, and the function that tells the oracle of it."""
        kind = kind or self.rng.choice(sorted(WRITES))
        ids = ids or self.some_ids(12)
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

    def deletion(self, collection: Collection, ids: list[str] | None = None) -> tuple[Call[Any], Any]:
        """As `batch`."""
        ids = ids or self.some_ids(10)
        return DeleteRecords(**collection.address, ids=ids), lambda: collection.oracle.delete(ids)

    def metadata(self, kind: str) -> dict[str, Any] | None:
        choices: list[Any] = [None, {"n": self.rng.randint(0, 3)}, {"n": 1, "s": "x"}, {"s": self.rng.choice("xyz")}]
        if kind != "add":
            choices += [{"n": None}, {"s": None, "n": 2}]
        return self.rng.choice(choices)

    async def send(self, process: SimulatedProcess, call: Call[Any], remember: Callable[[], None]) -> None:
        """Send a write, and remember it when it is acknowledged."""
        result = await process.engine.dispatch(call)
        self.acknowledge(process, result.lsn)
        remember()

    def acknowledge(self, process: SimulatedProcess, lsn: int | None) -> None:
        self.acknowledged = max(self.acknowledged, lsn or 0)
        if lsn:
            self.unsafe.append(Acknowledgement(lsn, process, self.world.clock.monotonic()))

    def note(self, what: str, *, when: bool = True) -> None:
        if when:
            self.seen[what] += 1

    # ---- writing

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
        process = self.process()
        if self.rng.random() < 0.5:
            await self.hold_view_in(self.process(), gone)
        self.note("collection: deleted while entries of it wait", when=self.waits(process, gone))
        await process.engine.dispatch(DeleteCollection(**ADDRESS, name=gone.name))
        self.note("collection: deleted")
        for other in self.world.processes:
            assert not await self.is_there(other, gone), "a deleted collection answers"
            for held in other.held:
                if held.collection_id == gone.id:
                    self.look_at(held)

    async def purge(self) -> None:
        process, call = self.process(), PurgeCollection(**self.collection().address, wait_seconds=0)
        result = await process.engine.dispatch(call)
        assert not result.done, "a purge was done when it had just been asked for"
        self.acknowledge(process, result.lsn)
        self.note("purge: asked for")

    def check_purges(self, process: SimulatedProcess) -> None:
        """What was asked for, and not lost with the log's end, is done, and nothing else."""
        for collection in self.collections:
            found = process.engine.follower.catalog.collection(collection.id)
            asked = 0 if found is None else found.purges
            manifest = self.reader(process, collection).published()
            done = manifest.purge.number if manifest is not None and manifest.purge is not None else 0
            assert done == asked, f"purges of {collection.name}: asked {asked}, done {done}"
            self.note("purge: done", when=bool(done))

    async def is_there(self, process: SimulatedProcess, collection: Collection) -> bool:
        try:
            await process.engine.dispatch(CountRecords(**collection.address))
        except NotFoundError:
            return False
        return True

    def waits(self, process: SimulatedProcess, collection: Collection) -> bool:
        return collection.id in process.engine.follower.sinks() and self.reader(process, collection).entries.size_bytes > 0

    async def write(self) -> None:
        await self.send(self.process(), *self.batch(self.collection()))

    async def delete_and_add_again(self) -> None:
        """One id is deleted and added again, in one transaction of the log or across two, and goes to the end."""
        collection, process = self.collection(), self.process()
        ids = self.rng.sample(IDS, self.rng.randint(1, 3))
        writes = [self.deletion(collection, ids), self.batch(collection, self.rng.choice(["add", "upsert"]), ids)]
        if self.rng.random() < 0.5:
            for call, remember in writes:
                await self.send(process, call, remember)
        else:
            await self.send_together([(process, call, remember) for call, remember in writes])
        self.note("deleted and added again")

    async def write_together(self) -> None:
        """Several writes at once, in several processes: the log says in which order they happened."""
        writes: list[tuple[SimulatedProcess, Call[Any], Any]] = []
        for _ in range(self.rng.randint(2, 6)):
            make = self.batch if self.rng.random() < 0.8 else self.deletion
            writes.append((self.process(), *make(self.collection())))
        await self.send_together(writes)

    async def send_together(self, writes: Sequence[tuple[SimulatedProcess, Call[Any], Any]]) -> None:
        results = await asyncio.gather(*(process.engine.dispatch(call) for process, call, _ in writes))
        order = sorted(range(len(writes)), key=lambda number: results[number].lsn)
        assert len({result.lsn for result in results}) == len(results), "two entries with one LSN"
        for number in order:
            self.acknowledge(writes[number][0], results[number].lsn)
            writes[number][2]()

    async def write_and_cancel(self) -> None:
        """A caller that goes away: its write is there whole or not at all."""
        call, remember = self.batch(self.collection())
        before = self.world.log.barrier()
        process = self.process()
        task = asyncio.create_task(process.engine.dispatch(call))
        for _ in range(self.rng.randint(0, 12)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        for _ in range(30):
            await asyncio.sleep(0)
        async with process.logs[0].exclusive():
            appended = self.world.log.barrier() - before
        assert appended in (0, 1), f"one call appended {appended} entries"
        assert appended or task.cancelled(), "acknowledged, but not in the log"
        if appended:
            remember()
            self.note("write: caller gone, and there", when=task.cancelled())

    async def write_and_fail(self) -> None:
        """The log fails. What a caller is told is true, reads go on, and who is not sure of the log writes no more."""
        collection, process = self.collection(), self.process()
        call, remember = self.batch(collection)
        fault = self.world.medium.faults.append = self.rng.choice(["full", "unanswered"])
        before = self.world.log.barrier()
        refusal = await self.refusal_of(process, call)
        assert refusal is not None, "an append that failed was acknowledged"
        assert refusal.status >= 500, f"a failed append is told as {refusal!r}"
        appended = self.world.log.barrier() - before
        assert appended == (fault == "unanswered")
        if appended:
            remember()
        self.note("write: failed and there" if appended else "write: failed and not there")
        await self.check_reads(process, collection)
        call, remember = self.batch(collection)
        refusal = await self.refusal_of(process, call)
        if refusal is None:
            assert fault == "full", "a process writes on that does not know what it has written"
            remember()
        await self.check_reads(process, collection)
        await self.world.crash(process)

    async def write_again(self) -> None:
        """A caller that is not sure sends its write again, with its key, to whichever process: it happens once."""
        collection, process = self.collection(), self.process()
        made, remember = self.batch(collection)
        call = msgspec.structs.replace(made, idempotency_key=f"key-{len(self.steps)}")
        before = self.world.log.barrier()
        fault = self.world.medium.faults.append = self.rng.choice([None, "full", "unanswered"])
        refusal = await self.refusal_of(process, call)
        happened = self.world.log.barrier() > before
        assert (refusal is not None, happened) == (fault is not None, fault != "full")
        if happened:
            remember()
            self.note("write: sent again after it happened")
        if fault is not None or self.rng.random() < 0.3:
            await self.world.crash(process)
        other = self.process() if self.world.processes else await self.world.start_process()
        if self.rng.random() < 0.5:
            await self.send(other, *self.batch(collection))
        result = await other.engine.dispatch(call)
        self.acknowledge(other, result.lsn)
        if happened:
            assert result.lsn == before + 1, f"sent again, and told {result.lsn} instead of {before + 1}"
        else:
            remember()
            self.note("write: sent again after it failed")
        await self.check_reads(other, collection)

    async def die_before_telling(self) -> None:
        """A process commits, and is killed before others can know of it: the next write, by any of them, comes after."""
        collection, process = self.collection(), self.process()
        call, remember = self.batch(collection)
        self.world.medium.faults.append = "untold"
        assert await self.refusal_of(process, call) is not None
        await self.world.crash(process)
        remember()
        other = self.process() if self.world.processes else await self.world.start_process()
        with anyio.fail_after(HANGS_SECONDS):
            await self.send(other, *self.batch(collection))
        self.note("write: there, and its process died before it told of it")
        for reader in self.world.processes:
            await self.check_reads(reader, collection)

    async def refusal_of(self, process: SimulatedProcess, call: Call[Any]) -> ChromaError | None:
        try:
            result = await process.engine.dispatch(call)
        except ChromaError as error:
            return error
        self.acknowledge(process, result.lsn)
        return None

    async def delete(self) -> None:
        collection, process = self.collection(), self.process()
        if self.rng.random() < 0.5:
            await self.send(process, *self.deletion(collection))
            return
        number = self.rng.randint(0, 3)
        ids = [key for key, row in collection.oracle.records.items() if (row[1] or {}).get("n") == number]
        result = await process.engine.dispatch(DeleteRecords(**collection.address, where={"n": number}))
        assert result.deleted == len(ids), f"deleted {result.deleted}, expected {len(ids)}"
        self.acknowledge(process, result.lsn)
        collection.oracle.delete(ids)

    # ---- compacting

    async def compact(self) -> None:
        await self.compact_with()

    async def compact_between_reads(self) -> None:
        """Some processes know all entries when a newer base is published, and go on with the one they have."""
        collection = self.collection()
        for process in self.world.processes:
            if self.rng.random() < 0.7:
                await self.check_reads(process, collection)
        await self.compact_with()
        if self.rng.random() < 0.5:
            await self.send(self.process(), *self.batch(collection))
        for process in self.world.processes:
            await self.rng.choice([self.read_in, self.view_in])(process, collection)

    async def compact_and_crash(self) -> None:
        await self.compact_with("die", self.rng.randint(0, 25))

    async def compact_and_fail(self) -> None:
        """A full disk, or an fsync that fails; the compactor starts over when that is past."""
        kind = self.rng.choice(["full", "sync", "log"])
        if kind == "log":
            faults = self.world.medium.faults
            faults.sync = True
            done = await self.compact_with()
            self.note("compaction: interrupted by a failed fsync of the log", when=not faults.sync and not done)
            faults.sync = False
        else:
            await self.compact_with(kind, self.rng.randint(0, 12))

    async def compact_with(self, fault: Fault | None = None, after: int = 0) -> bool:
        process = self.process()
        struck = self.world.files.struck
        done = await self.world.compact(process, fault, after)
        if self.world.files.struck > struck:
            named = {"die": "interrupted by a crash", "full": "interrupted by a full disk"}
            self.note(f"compaction: {named.get(fault or '', 'interrupted by a failed fsync')}")
        if done:
            self.note("compaction: taken over", when=self.compacted_last not in (None, process))
            self.compacted_last = process
        return done

    # ---- processes and the machine

    async def start_process(self) -> None:
        if len(self.world.processes) < 3:
            await self.world.start_process()

    async def crash_process(self) -> None:
        await self.world.crash(self.process())

    async def crash_machine(self) -> None:
        """A power cut. It may take the newest writes with it, nothing but the newest, and none that had to be safe."""
        before = self.world.log.barrier()
        alive = set(self.world.processes)
        has_lied = self.world.files.is_lying
        newest = await self.world.crash_machine()
        self.note("power cut")
        lost = before - newest
        self.check_lost(newest, alive)
        if lost:
            self.acknowledged = newest
            self.rebuild.forget_after(self.acknowledged)
        if has_lied:
            await self.give_up_what_is_damaged(lost)
        if lost:
            await self.check_invariants()
            await self.start_again()

    def check_lost(self, newest: int, alive: set[SimulatedProcess]) -> None:
        """Each entry was acknowledged at its process's durability.

        Of a process that was killed before the power went, `interval` promises no more than `off`: nobody was left to do it.
        """
        now, interval = self.world.clock.monotonic(), SETTINGS.sync_interval_seconds
        for entry in self.unsafe:
            is_old = now - entry.seconds >= interval
            kept_by_interval = entry.process.durability == "interval" and entry.process in alive
            if entry.lsn > newest:
                what = f"lsn={entry.lsn} newest={newest} durability={entry.process.durability}"
                assert entry.process.durability != "commit", f"an fsynced entry is gone: {what}"
                assert not (kept_by_interval and is_old), f"an entry is gone after {now - entry.seconds} s: {what}"
            self.note("power cut: took what was younger than the interval", when=kept_by_interval and entry.lsn > newest)
            self.note("power cut: left what was older than the interval", when=kept_by_interval and is_old)
        self.unsafe.clear()

    async def write_in_intervals(self) -> Collection | None:
        """A write in a process that fsyncs in intervals, if there is one."""
        writing = [process for process in self.world.processes if process.durability == "interval"]
        if not writing:
            return None
        collection = self.collection()
        await self.send(self.rng.choice(writing), *self.batch(collection))
        return collection

    async def wait_and_cut_power(self) -> None:
        """The power goes when a write is as old as the interval, or nearly."""
        if await self.write_in_intervals():
            await self.check_invariants()  # which also remembers the entry, before anybody applies and frees it
            await self.let_pass(SETTINGS.sync_interval_seconds * self.rng.choice([0.9, 1.0]))
            await self.crash_machine()

    async def fail_fsync(self) -> None:
        """The fsync that follows a write in an interval fails: that process writes no more, reads go on."""
        collection = await self.write_in_intervals()
        if collection is None:
            return
        faults = self.world.medium.faults
        faults.sync = True
        await self.let_pass(SETTINGS.sync_interval_seconds)
        faults.sync = False
        for other in [item for item in self.world.processes if item.engine.writer.refusal is not None]:
            call, _ = self.batch(collection)
            refusal = await self.refusal_of(other, call)
            assert refusal is not None, "a process writes on whose fsync has failed"
            assert "could not be fsynced" in refusal.message, f"a failed fsync is told as {refusal!r}"
            await self.check_reads(other, collection)
            self.note("fsync in intervals: failed, and writing stopped")
            await self.world.crash(other)

    async def lie(self) -> None:
        """From here to the next power cut, an fsync of a collection's files says that it did what it did not."""
        self.world.files.is_lying = True

    async def give_up_what_is_damaged(self, lost: int) -> None:
        """After fsyncs that lied, a collection answers rightly or says that it is damaged, alone; it can be deleted.

        What can be made anew, such as columns, is, by the compactor that starts next.
        """
        self.note("power cut: after fsyncs that lied")
        process = await self.world.start_process()
        if lost:
            self.collections = await self.found(process)
        for collection in list(self.collections):
            try:
                if lost:  # nobody knows yet what it must hold
                    await process.engine.dispatch(GetRecords(**collection.address, include=("embeddings", "metadatas")))
                else:
                    await self.check_reads(process, collection)
            except InternalError:
                directory = self.world.directory / COLLECTIONS / collection.id
                assert any(directory in path.parents for path in self.world.files.lost), "a whole collection can't be read"
                self.note("collection: damaged by fsyncs that lied, and refused")
                self.collections.remove(collection)
                await process.engine.dispatch(DeleteCollection(**ADDRESS, name=collection.name))
        await self.world.compact(process)
        self.world.medium.write_back()  # the next power cut must not bring back what was given up
        if not self.collections:
            await self.create()

    async def found(self, process: SimulatedProcess) -> list[Collection]:
        """The collections that there are, of unknown contents."""
        made = await process.engine.dispatch(ListCollections(**ADDRESS))
        return [Collection(item.name, {**ADDRESS, "collection_id": item.id}) for item in made]

    async def start_again(self) -> None:
        """Believe what a fresh process reads; from here on the oracle holds it to that."""
        process = await self.world.start_process()
        engine = process.engine
        self.collections = await self.found(process)
        for collection in self.collections:
            call = GetRecords(**collection.address, include=("documents", "metadatas", "embeddings"))
            got = (await engine.dispatch(call)).columns
            columns = (got.ids, got.embeddings, got.documents or [], metadata_objects(got.metadatas))
            collection.oracle.add(*columns)
        if not self.collections:
            await self.create()

    async def pass_time(self) -> None:
        await self.let_pass(self.rng.choice([0.01, 0.6, 1.0, 30.0, 400.0]))

    async def let_pass(self, seconds: float) -> None:
        for _ in range(3):
            await asyncio.sleep(0)  # whoever was just told of something begins to wait for its time
        await self.world.clock.advance(seconds)

    async def jump_clock(self) -> None:
        """Somebody sets the clock: an hour or a year, forwards or backwards."""
        jump = self.rng.choice([3600.0, 3.2e7]) * self.rng.choice([-1, 1])
        self.world.clock.jumped_seconds += jump
        self.note("clock: gone backwards", when=jump < 0)

    async def write_back(self) -> None:
        """The operating system writes the log to the disk when it likes."""
        self.world.medium.write_back()

    async def settle(self) -> None:
        """In the end everything is applied, by a fresh process, and every process says the same."""
        process = await self.world.start_process()
        await self.look_at_all_held()
        for other in self.world.processes[:-1]:
            await self.world.crash(other)
        for _ in range(200):
            await self.world.compact(process)
        await self.check_invariants()
        self.check_purges(process)
        for collection in self.collections:
            await self.check_reads(process, collection)
            assert not self.waits(process, collection) or self.reader(process, collection).trim() == 0

    # ---- what must hold

    async def check_invariants(self) -> None:
        """All of docs/internals/invariants.md; 4, 9 and 11 of what is not applied are what the steps look for."""
        state = await read_state(self.world.directory, self.world.log)
        try:
            found = [f"{checker.__name__}: {said}" for checker in CHECKERS for said in checker(state)]
            found += [f"rebuilding_gives_the_state: {said}" for said in self.rebuild.differences(state)]
            found += [f"acknowledged_is_committed: {said}" for said in self.uncommitted(state)]
            found += [f"one_compactor: {said}" for said in self.rival_compactors()]
            self.note_compactions(state)
        finally:
            for item in state.collections:
                item.tables.close()
        assert not found, "; ".join(found)

    def uncommitted(self, state: DirectoryState) -> list[str]:
        """Invariant 3: acknowledged implies committed."""
        if self.acknowledged <= state.committed:
            return []
        return [f"acknowledged={self.acknowledged} committed={state.committed}"]

    def rival_compactors(self) -> list[str]:
        """Invariant 12: one compactor per directory."""
        working = [process for process in self.world.processes if process.is_compacting]
        return [f"{len(working)} processes compact"] if len(working) > 1 else []

    def note_compactions(self, state: DirectoryState) -> None:
        for item in state.collections:
            before, now = self.manifests.get(item.collection_id), item.manifest
            self.manifests[item.collection_id] = now
            if before is None or before.version >= now.version:
                continue
            pieces = {ref.file for ref in before.pieces} - {ref.file for ref in now.pieces}
            segments = {ref.number for ref in before.segments} - {ref.number for ref in now.segments}
            graphs = {ref.graph.file for ref in now.segments if ref.graph} - {
                ref.graph.file for ref in before.segments if ref.graph
            }
            self.note("compaction: pieces merged", when=bool(pieces))
            self.note("compaction: segment rewritten or dropped", when=bool(segments))
            self.note("compaction: graph built", when=bool(graphs))

    # ---- reading, as callers do

    async def read(self) -> None:
        await self.read_in(self.process(), self.collection())

    async def read_in(self, process: SimulatedProcess, collection: Collection) -> None:
        oldest = await self.world.log.oldest()
        self.note("follower: overtaken by truncation", when=process.engine.follower.position < oldest - 1)
        await self.check_reads(process, collection)
        self.note("read: on an older base", when=self.reader(process, collection).is_behind)

    async def check_reads(self, process: SimulatedProcess, collection: Collection) -> None:
        engine, records = process.engine, collection.oracle.records
        count = (await engine.dispatch(CountRecords(**collection.address))).count
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

    # ---- reading, by views of each kind

    async def view(self) -> None:
        await self.view_in(self.process(), self.collection())

    async def view_in(self, process: SimulatedProcess, collection: Collection) -> None:
        """A view of any kind says what the oracle says, whatever base it is made of."""
        await process.engine.follower.catch_up()
        reader = self.reader(process, collection)
        columns, at_hand, newest = (self.rng.random() < chance for chance in (0.5, 0.5, 0.25))
        try:
            with reader.view(columns=columns, at_hand=at_hand, newest=newest) as view:
                is_older = self.is_on_older_base(collection, view)
                assert not (newest and is_older), "the newest base was asked for"
                self.note("view: on an older base", when=is_older)
                self.note("view: at hand", when=at_hand)
                self.note("view: at hand on an older base", when=at_hand and is_older)
                self.note("view: newest", when=newest)
                self.check_view(view, collection.oracle.records, has_columns=columns)
        except NotAtHand:
            assert at_hand
            self.note("view: refused at hand")

    def is_on_older_base(self, collection: Collection, view: View) -> bool:
        path = self.world.directory / COLLECTIONS / collection.id / RECORDS_FILE
        if not path.exists():
            return False
        tables = RecordTables(path, writable=False)
        try:
            return view.image.base.manifest.version < tables.version()
        finally:
            tables.close()

    def check_view(self, view: View, records: dict[str, list[Any]], *, has_columns: bool) -> None:
        """What a view says of everything, of some ids, of filters, of documents, and of what is nearest."""
        slots = view.slots(None, None, "include")
        rows = view.rows(slots)
        assert [row.id for row in rows] == list(records), f"ids {[row.id for row in rows]}, expected {list(records)}"
        assert [row.document for row in rows] == [row[0] for row in records.values()], "documents differ"
        assert [row.metadata for row in rows] == [row[1] for row in records.values()], "metadatas differ"
        if records:
            assert np.array_equal(view.vectors(slots), np.stack([row[2] for row in records.values()])), "vectors differ"
        assert view.image.live == len(records), f"live {view.image.live}, expected {len(records)}"
        asked = self.some_ids(8)
        found = [row.id for row in view.rows(view.slots_of(asked))]
        assert found == [key for key in records if key in asked], f"of {asked} found {found}"
        word = self.rng.choice(["fox", "owl", "ed"])
        where = conjoin(None, parse_where_document({"$contains": word}))
        expected = [key for key, row in records.items() if row[0] is not None and word in row[0]]
        assert self.ids_of(view, where) == expected, f"documents with {word!r} differ"
        if has_columns:
            number = self.rng.randint(0, 3)
            where = conjoin(parse_where({"n": {"$gte": number}}), None)
            expected = [key for key, row in records.items() if (row[1] or {}).get("n", -1) >= number]
            assert self.ids_of(view, where) == expected, "records that pass a filter differ"

    def ids_of(self, view: View, where: Any) -> list[str]:
        return [row.id for row in view.rows(view.slots(None, where, "include"))]

    async def hold_view(self) -> None:
        await self.hold_view_in(self.process(), self.collection())

    async def hold_view_in(self, process: SimulatedProcess, collection: Collection) -> None:
        """Open a view that stays open for some steps."""
        if len(process.held) >= HELD_MAX:
            process.held.pop(0).open_for.close()
        await process.engine.follower.catch_up()
        reader, columns, stack = self.reader(process, collection), self.rng.random() < 0.5, ExitStack()
        view = stack.enter_context(reader.view(columns=columns))
        records = {key: list(row) for key, row in collection.oracle.records.items()}
        process.held.append(HeldView(collection.id, reader, view, records, columns, stack))

    async def follow(self) -> None:
        await self.follow_in(self.process(), self.collection())

    async def follow_in(self, process: SimulatedProcess, collection: Collection) -> None:
        """Read the feed from where it was left to its end: that makes of what was known what the collection is."""
        mirror, oldest = collection.mirror, await self.world.log.first_unapplied()
        position = mirror.position
        self.note("feed: went on", when=position is not None)
        self.note("feed: went on where its entries were applied", when=position is not None and int(position) < oldest - 1)
        try:
            await self.read_feed(process, collection, after=position or "0" if mirror.is_whole else None)
        except GoneError:
            self.note("feed: gone, and begun again from a snapshot")
            await self.read_feed(process, collection, snapshot="true")
        if position is None:  # the beginning may not have been kept
            await self.read_feed(process, collection, snapshot="true")
        found = {key: [row.document, row.metadata] for key, row in mirror.records.items()}
        records = collection.oracle.records
        assert list(found) == list(records), f"a feed gives ids {list(found)}, expected {list(records)}"
        assert found == {key: [row[0], row[1]] for key, row in records.items()}, "a feed gives other records"
        for key, row in records.items():
            assert np.array_equal(mirror.records[key].embedding, row[2]), f"a feed gives another vector of {key}"  # type: ignore[arg-type]

    async def read_feed(self, process: SimulatedProcess, collection: Collection, **fields: Any) -> None:
        include = "documents,embeddings,metadatas"
        feed: Any = await process.engine.dispatch(WatchCollection(**collection.address, include=include, **fields))
        lsn = int(fields.get("after") or 0)
        try:
            while True:
                coming = asyncio.ensure_future(anext(feed, None))
                while not coming.done() and not process.engine.feeds.is_anybody_waiting:
                    await asyncio.sleep(0)
                if not coming.done():
                    await feed.aclose()
                change = await coming
                if change is None:
                    return
                if change.kind not in ("heartbeat", "snapshot", "snapshot_end"):
                    assert change.lsn > lsn or change.kind == "snapshot_begin", f"lsn={change.lsn} came after lsn={lsn}"
                    lsn = change.lsn
                collection.mirror.apply(change)
        finally:
            await feed.aclose()

    async def look_again(self) -> None:
        """A view that is open says what it said, whatever has happened to the collection since."""
        held = [item for process in self.world.processes for item in process.held]
        if held:
            self.look_at(self.rng.choice(held))

    async def look_at_all_held(self) -> None:
        for process in self.world.processes:
            for item in process.held:
                self.look_at(item)

    def look_at(self, held: HeldView) -> None:
        self.check_view(held.view, held.records, has_columns=held.has_columns)
        self.note("held view: looked at again")
        if held.collection_id not in {item.id for item in self.collections}:
            self.note("held view: of a deleted collection")
            return
        try:
            with held.reader.view() as now:
                is_newer = now.image.base.manifest.version > held.view.image.base.manifest.version
        except StorageCorrupt:
            return
        self.note("held view: beside a newer base of its reader", when=is_newer)
