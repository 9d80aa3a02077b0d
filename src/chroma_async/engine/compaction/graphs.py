"""Graphs are built beside the steps of a compactor, one collection at a time, while applying goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from chroma_async.engine.compaction.jobs import Jobs
from chroma_async.engine.compaction.retries import Retries
from chroma_async.engine.compaction.stores import OpenStores
from chroma_async.errors import StorageCorrupt
from chroma_async.model import Collection, CollectionId
from chroma_async.projections.graph_builds import build_graphs
from chroma_async.projections.store import CollectionStore
from chroma_async.seams import Clock, Workers
from chroma_async.seams.limits import LimitError, limit_error
from chroma_async.settings import EngineSettings

GRAPH_AGAIN_SECONDS_MIN: Final = 30.0
GRAPH_AGAIN_SECONDS_MAX: Final = 3_600.0
"""Until a graph that failed, nobody knows why, is tried again, each time twice as long: reads are exact meanwhile."""

LIMIT_PAUSE_SECONDS: Final = 5.0
"""Where a graph that lacked room, handles or memory waits: nothing else is built meanwhile."""

logger = logging.getLogger("chroma_async.compactor")


class Graphs:
    """Which collections' graphs are to be looked at, and the one that is being built."""

    def __init__(
        self,
        directory: Path,
        stores: OpenStores,
        jobs: Jobs,
        indexers: Workers,
        settings: EngineSettings,
        clock: Clock,
        collection: Callable[[CollectionId], Collection | None],
        on_limit: Callable[[LimitError], None],
    ) -> None:
        """`collection`: as the catalog has it now. `on_limit` is told when the machine lacks what a graph takes."""
        self._directory = directory
        self._stores = stores
        self._jobs = jobs
        self._indexers = indexers
        self._settings = settings
        self._clock = clock
        self._collection = collection
        self._on_limit = on_limit
        self._due: set[CollectionId] = set()
        self._grown: set[CollectionId] = set()
        """Collections with graphs to which something was applied since the last rest."""
        self._at_rest = False
        self.retries = Retries(clock, GRAPH_AGAIN_SECONDS_MIN, GRAPH_AGAIN_SECONDS_MAX)
        self._tasks: dict[CollectionId, asyncio.Task[None]] = {}

    def look_at(self, collection_ids: Iterable[CollectionId]) -> None:
        """Note that collections may want a graph, or another one."""
        self._due.update(collection_ids)

    def look_anew_at(self, collection_ids: Iterable[CollectionId]) -> None:
        """Also at those that have failed: they are configured otherwise now."""
        for collection_id in collection_ids:
            self._due.add(collection_id)
            self.retries.forget(collection_id)

    def note_applied(self, collection_id: CollectionId) -> None:
        """Note that a collection has grown."""
        self._due.add(collection_id)
        if self._stores.has_graphs(collection_id):
            self._grown.add(collection_id)

    def rest(self, at_rest: bool) -> None:
        """Note whether there has been nothing to do for a while; if so, let graphs catch up with what has come."""
        self._at_rest = at_rest
        if at_rest:
            self._due |= self._grown
            self._grown.clear()

    # ---- building

    def start(self) -> None:
        """Begin with the next graph, unless one is being built."""
        if self._tasks:
            return
        collection_id = min(self._due_now(), default=None)
        if collection_id is None:
            return
        collection = self._collection(collection_id)
        self._due.discard(collection_id)
        if collection is not None and self._stores.exists(collection_id):
            self._stores.pin(collection_id)
            self._tasks[collection_id] = asyncio.create_task(self._build_all(collection))

    def _due_now(self) -> set[CollectionId]:
        stores, retries = self._stores, self.retries
        return {item for item in self._due if retries.is_due(item) and not stores.is_left_alone(item)}

    async def build_all_now(self) -> None:
        """Build all graphs that are due, and wait for them."""
        while self._tasks or self._due_now():
            self.start()
            for task in list(self._tasks.values()):
                await task

    async def _build_all(self, collection: Collection) -> None:
        try:
            store = await self._jobs.run(lambda: self._stores.get(collection.id))
            while await self._jobs.run(lambda: self._build(store, collection), self._indexers):
                pass
        except Exception as error:
            limit = limit_error(error, self._directory)
            if limit is not None:
                self._on_limit(limit)
                await self._clock.sleep(LIMIT_PAUSE_SECONDS)
                self._due.add(collection.id)
                return
            self._try_again(collection.id, error)
        else:
            self.retries.forget(collection.id)
        finally:
            self._done_with(collection.id)

    def _build(self, store: CollectionStore, collection: Collection) -> bool:
        def is_wanted() -> bool:
            now = self._collection(collection.id)
            return not self._jobs.stopping and now is not None and now.hnsw == collection.hnsw

        return build_graphs(
            store,
            collection.hnsw,
            rows_min=self._settings.graph_rows_min,
            threads=self._settings.index_threads,
            is_wanted=is_wanted,
            at_rest=self._at_rest,
        )

    def _try_again(self, collection_id: CollectionId, error: Exception) -> None:
        """Say that a graph has failed, and try again later."""
        pause = self.retries.later(collection_id)
        self._due.add(collection_id)
        foreseen = isinstance(error, StorageCorrupt | PermissionError)
        message = "graph.failed collection=%s reads=exact again_seconds=%g reason=%s"
        logger.error(message, collection_id, pause, error, exc_info=None if foreseen else error)

    def _done_with(self, collection_id: CollectionId) -> None:
        self._tasks.pop(collection_id, None)
        self._stores.unpin(collection_id)

    # ---- ending

    async def forget(self, collection_id: CollectionId) -> None:
        """Note that a collection was deleted; a graph of it is given up."""
        await self._cancel(collection_id)
        self._grown.discard(collection_id)
        self.retries.forget(collection_id)

    async def stop(self) -> None:
        """Give up what is being built, and wait until nobody works on it."""
        for collection_id in list(self._tasks):
            await self._cancel(collection_id)

    async def _cancel(self, collection_id: CollectionId) -> None:
        task = self._tasks.get(collection_id)
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self._done_with(collection_id)  # one that had not begun ends without doing so

    def abandon(self) -> None:
        """Give up what is being built, at once."""
        for task in self._tasks.values():
            task.cancel()
