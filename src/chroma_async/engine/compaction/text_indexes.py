"""Text indexes follow the documents that were applied, where nothing else is to be done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from chroma_async.engine.compaction.jobs import Jobs
from chroma_async.engine.compaction.stores import OPEN_STORES_MAX, OpenStores
from chroma_async.model import Collection, CollectionId
from chroma_async.projections.store import CollectionStore

TEXT_CHUNK_DOCUMENTS: Final = 2_048
"""Documents that enter a text index at a time: a tenth of a second."""

TEXT_STORES_MAX: Final = 16
"""Collections whose text index is looked at in one step."""


class TextIndexes:
    """Which collections have documents that their text index may lack."""

    def __init__(self, stores: OpenStores, jobs: Jobs, collection: Callable[[CollectionId], Collection | None]) -> None:
        """`collection`: as the catalog has it now."""
        self._stores = stores
        self._jobs = jobs
        self._collection = collection
        self._behind: dict[CollectionId, None] = {}
        """In the order in which they are looked at."""

    def look_at(self, collection_ids: Iterable[CollectionId]) -> None:
        """Note that collections may have new documents."""
        self._behind.update(dict.fromkeys(collection_ids))

    def index_now(self, store: CollectionStore) -> None:
        """Index some documents of a store that is open, if it would be closed before its turn comes."""
        if len(self._behind) >= OPEN_STORES_MAX:
            store.index_documents(TEXT_CHUNK_DOCUMENTS)

    async def step(self, *, lag_max: int) -> bool:
        """Bring indexes that lack more documents than that a step nearer; say whether there was one."""
        busy = False
        for collection_id in list(self._behind)[:TEXT_STORES_MAX]:
            del self._behind[collection_id]
            if self._collection(collection_id) is None or not self._stores.exists(collection_id):
                continue
            if self._stores.is_left_alone(collection_id):
                continue
            lag = 0
            with self._stores.guarded(collection_id):
                lag = await self._jobs.run(partial(self._index, collection_id, lag_max))
            if lag:
                self._behind[collection_id] = None  # behind the others
            busy = busy or lag > lag_max
        return busy

    def _index(self, collection_id: CollectionId, lag_max: int) -> int:
        """Return how many documents the index lacked before."""
        store = self._stores.get(collection_id)
        lag = store.unindexed_documents()
        if lag > lag_max:
            store.index_documents(TEXT_CHUNK_DOCUMENTS)
        return lag
