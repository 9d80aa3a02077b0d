"""How far writes have come, for those who wait for it. All who wait for a stage share one look at the manifests.

Applying is done by another process as a rule, and what it has done is told by the manifests alone. While nobody waits,
nobody looks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from msgspec import Struct, field

from chroma_async.core.upkeep import SegmentShape, graph_target
from chroma_async.model import STAGES, Collection, CollectionId, Lsn, Stage
from chroma_async.projections.manifest import Manifest, SegmentRef
from chroma_async.seams import Clock, Workers

LOOK_SECONDS: Final = 0.05

logger = logging.getLogger("chroma_async.engine")


class Published(Protocol):
    """A collection whose projections can be looked at."""

    def published(self) -> Manifest | None:
        """The newest manifest, for worker threads; None: it can't be told, or the collection is gone."""
        ...


class _Waiter(Struct, eq=False):
    """Somebody who waits until a collection has come to `wanted`, with all entries through `lsn`."""

    collection_id: CollectionId
    lsn: Lsn
    wanted: Stage
    deadline: float
    outcome: asyncio.Future[Stage]
    reached: Stage = "committed"
    rows: dict[int, int] = field(default_factory=dict[int, int])
    """Of each segment, how many vectors it had when all entries were applied: what comes later is not waited for."""

    def look(self, manifest: Manifest, collection: Collection, rows_min: int) -> None:
        """Note how far the collection has come."""
        if manifest.applied < self.lsn:
            return
        rows = {segment.number: segment.rows for segment in manifest.segments}
        if self.reached == "committed" or not self.rows.keys() <= rows.keys():
            self.reached, self.rows = "applied", rows
        if manifest.is_built_as(collection.hnsw) and not _lacks_graphs(manifest, self.rows, rows_min):
            self.reached = "indexed"

    @property
    def is_content(self) -> bool:
        return STAGES.index(self.reached) >= STAGES.index(self.wanted)

    def answer(self) -> None:
        if not self.outcome.done():
            self.outcome.set_result(self.reached)


class Progress:
    """Lets calls wait for the compactor. Belongs to the event loop."""

    def __init__(
        self,
        clock: Clock,
        workers: Workers,
        graph_rows_min: int,
        collection: Callable[[CollectionId], Collection | None],
        reader: Callable[[CollectionId], Published],
    ) -> None:
        self._clock = clock
        self._workers = workers
        self._graph_rows_min = graph_rows_min
        self._collection = collection
        self._reader = reader
        self._waiters: list[_Waiter] = []
        self._looking: asyncio.Task[None] | None = None
        self._stopped = False

    async def wait(self, collection_id: CollectionId, lsn: Lsn, wanted: Stage, seconds: float) -> Stage:
        """Wait until the entries of a collection through `lsn` have come as far as wanted; return how far they have.

        That may be less: when the time is over, the collection was deleted or can't be read, or this process stops.
        """
        return (await self.wait_for_all({collection_id: lsn}, wanted, seconds))[collection_id]

    async def wait_for_all(
        self, targets: Mapping[CollectionId, Lsn], wanted: Stage, seconds: float
    ) -> dict[CollectionId, Stage]:
        """The same for many collections, within one time."""
        if wanted == "committed" or self._stopped or not targets:
            return dict.fromkeys(targets, "committed")
        deadline, loop = self._clock.monotonic() + seconds, asyncio.get_running_loop()
        waiters = [_Waiter(name, lsn, wanted, deadline, loop.create_future()) for name, lsn in targets.items()]
        self._waiters += waiters
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_until_all_are_content(), name="chroma_async.progress")
        try:
            return {waiter.collection_id: await waiter.outcome for waiter in waiters}
        finally:
            for waiter in waiters:
                waiter.outcome.cancel()

    async def until(
        self, collection_id: CollectionId, is_met: Callable[[Manifest], bool], seconds: float
    ) -> Manifest | None:
        """Wait for a manifest of which something holds; None: none came in time, or none will."""
        deadline = self._clock.monotonic() + seconds
        while not self._stopped and self._collection(collection_id) is not None:
            manifest = await self._workers.run(self._reader(collection_id).published)
            if manifest is None:
                return None
            if is_met(manifest):
                return manifest
            if self._clock.monotonic() >= deadline:
                return None
            await self._clock.sleep(LOOK_SECONDS)
        return None

    @property
    def is_stopped(self) -> bool:
        """Whether nobody is to wait any more."""
        return self._stopped

    def stop(self) -> None:
        """Let nobody wait any more: this process is about to end."""
        self._stopped = True
        for waiter in self._waiters:
            waiter.answer()

    async def close(self) -> None:
        """Stop, and end what is under way."""
        self.stop()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    async def _look_until_all_are_content(self) -> None:
        try:
            while True:
                self._waiters = [waiter for waiter in self._waiters if not waiter.outcome.done()]
                if not self._waiters:
                    return
                await self._look()
                if any(not waiter.outcome.done() for waiter in self._waiters):
                    await self._clock.sleep(LOOK_SECONDS)
        except Exception:
            logger.exception("progress.failed")
        finally:
            self._looking = None
            for waiter in self._waiters:
                waiter.answer()

    async def _look(self) -> None:
        waiters = list(self._waiters)
        readers = {
            name: self._reader(name)
            for name in {item.collection_id for item in waiters}
            if self._collection(name) is not None
        }
        manifests = await self._workers.run(lambda: {name: reader.published() for name, reader in readers.items()})
        now = self._clock.monotonic()
        for waiter in waiters:
            manifest, collection = manifests.get(waiter.collection_id), self._collection(waiter.collection_id)
            if manifest is None or collection is None:
                waiter.answer()
                continue
            waiter.look(manifest, collection, self._graph_rows_min)
            if waiter.is_content or now >= waiter.deadline:
                waiter.answer()


def lowest(stages: Iterable[Stage], otherwise: Stage) -> Stage:
    """Return the stage that all have reached; of nobody `otherwise`."""
    found = set(stages)
    for stage in STAGES:
        if stage in found:
            return stage
    return otherwise


def vectors_due(manifest: Manifest, rows_min: int) -> int:
    """Return how many vectors wait for a graph; those of segments that need none are not counted."""
    return sum(_due(segment, segment.rows, rows_min) for segment in manifest.segments)


def _lacks_graphs(manifest: Manifest, rows: Mapping[int, int], rows_min: int) -> bool:
    """Whether a graph is due for one of these segments, were there only so many vectors in it."""
    return any(_due(segment, rows.get(segment.number, 0), rows_min) for segment in manifest.segments)


def _due(segment: SegmentRef, rows: int, rows_min: int) -> int:
    indexed = 0 if segment.graph is None else segment.graph.rows
    if rows <= indexed or graph_target(SegmentShape(rows, indexed, rows, segment.sealed), rows_min) is None:
        return 0
    return rows - indexed
