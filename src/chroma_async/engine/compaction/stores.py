"""The stores that a compactor has open, and collections that it leaves alone."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from chroma_async.errors import FormatError, StorageCorrupt
from chroma_async.model import CollectionId, Lsn
from chroma_async.projections.graph_process import write_graph_elsewhere
from chroma_async.projections.graphs import write_graph
from chroma_async.projections.store import LEFT_ALONE_FILE, RECORDS_FILE, CollectionStore
from chroma_async.seams import Seams
from chroma_async.seams.limits import limit_error

OPEN_STORES_MAX: Final = 64

DAMAGED_SECONDS: Final = 30.0
"""Until a damaged collection is tried again: it may have been repaired meanwhile."""

DAMAGE_CODES: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})

logger = logging.getLogger("chroma_async.compactor")


class OpenStores:
    """Stores by collection, least recently used first. Several threads ask for them: what is applied and what is indexed
    are of threads of their own."""

    def __init__(self, root: Path, seams: Seams, noted_applied: Callable[[CollectionId], Lsn], *, apart: bool) -> None:
        """`root`: the directory of all collections.

        `noted_applied`: gives the LSN through which a collection's entries may be freed.
        `apart`: graphs are built by processes of their own.
        """
        self._root = root
        self._seams = seams
        self._noted_applied = noted_applied
        self._write_graph = write_graph_elsewhere if apart else write_graph
        self._stores: dict[CollectionId, CollectionStore] = {}
        self._lock = threading.Lock()
        self._pinned: set[CollectionId] = set()
        self._left: dict[CollectionId, CollectionStore] = {}
        """Those that were pinned when they turned out to be damaged: closed when they are not any more."""
        self._damaged: dict[CollectionId, float] = {}
        """Collections to leave alone, each until a moment of the monotonic clock."""

    def get(self, collection_id: CollectionId) -> CollectionStore:
        """The store of a collection, opened when it is not.

        Raises:
            StorageCorrupt: it is damaged, or lacks what the log may have freed.
        """
        with self._lock:
            store = self._stores.pop(collection_id, None)
            if store is None:
                self._seams.files.make_directory(self._root)
                store = self._open(collection_id)
            self._stores[collection_id] = store
            self._close_surplus()
            return store

    def _open(self, collection_id: CollectionId) -> CollectionStore:
        """Never one that lacks what the log may have freed: it would be made up of what is left."""
        noted_applied, directory = self._noted_applied(collection_id), self._root / collection_id
        if noted_applied and not (directory / RECORDS_FILE).exists():
            raise StorageCorrupt(f"records are missing, and the only copy. path={directory} noted_applied={noted_applied}")
        store = CollectionStore(directory, self._seams.files, self._write_graph)
        if store.applied < noted_applied:
            store.close()
            raise StorageCorrupt(
                f"the newest records are lost. path={directory} applied={store.applied} noted_applied={noted_applied}"
            )
        return store

    def _close_surplus(self) -> None:
        for collection_id in list(self._stores)[: max(0, len(self._stores) - OPEN_STORES_MAX)]:
            if collection_id not in self._pinned:
                self._stores.pop(collection_id).close()

    def pin(self, collection_id: CollectionId) -> None:
        """Keep a store open: somebody works on it beside the steps."""
        self._pinned.add(collection_id)

    def unpin(self, collection_id: CollectionId) -> None:
        self._pinned.discard(collection_id)
        left = self._left.pop(collection_id, None)
        if left is not None:
            left.close()

    def opened(self) -> list[CollectionStore]:
        """The stores that are open now."""
        return list(self._stores.values())

    def has_graphs(self, collection_id: CollectionId) -> bool:
        """Whether a store that is open has graphs."""
        store = self._stores.get(collection_id)
        return store is not None and any(segment.graph is not None for segment in store.manifest.segments)

    def exists(self, collection_id: CollectionId) -> bool:
        """Whether there is anything of a collection on the disk."""
        return (self._root / collection_id).exists()

    def remove(self, collection_id: CollectionId) -> None:
        """Remove a collection from the disk, durably."""
        self._leave(collection_id)
        self._damaged.pop(collection_id, None)
        self._seams.files.remove(self._root / collection_id)
        self._seams.files.sync_directory(self._root)

    def close_idle(self) -> None:
        """Give back the handles and memory of stores that nobody works on; what is published is read again."""
        with self._lock:
            for collection_id in [name for name in self._stores if name not in self._pinned]:
                self._stores.pop(collection_id).close()

    def close_all(self) -> None:
        for store in (*self._stores.values(), *self._left.values()):
            store.close()
        self._stores.clear()
        self._left.clear()

    # ---- damage

    @contextmanager
    def guarded(self, collection_id: CollectionId) -> Generator[None]:
        """Leave a collection alone for a while that is damaged or may not be read: the others go on. It is tried again."""
        try:
            yield
        except (StorageCorrupt, FormatError, sqlite3.DatabaseError, UnicodeDecodeError, PermissionError) as error:
            if isinstance(error, sqlite3.OperationalError) and _code_of(error) not in DAMAGE_CODES:
                raise
            if limit_error(error, self._root.parent) is not None:
                raise
            self._damaged[collection_id] = self._seams.clock.monotonic() + DAMAGED_SECONDS
            self._leave(collection_id)
            what = "unreadable" if isinstance(error, PermissionError) else "damaged"
            self._tell(collection_id, what)
            logger.error("collection.%s collection=%s reason=%s", what, collection_id, error)

    def is_left_alone(self, collection_id: CollectionId) -> bool:
        return self._damaged.get(collection_id, 0.0) > self._seams.clock.monotonic()

    def note_sound(self, collection_id: CollectionId) -> None:
        """Note that a collection could be worked on."""
        self._damaged.pop(collection_id, None)
        if (self._root / collection_id / LEFT_ALONE_FILE).exists():
            self._seams.files.remove(self._root / collection_id / LEFT_ALONE_FILE)

    def _leave(self, collection_id: CollectionId) -> None:
        """Have the next one who asks open the store anew; whoever works on the one that is open may end that."""
        with self._lock:
            store = self._stores.pop(collection_id, None)
        if store is not None and collection_id in self._pinned:
            self._left.setdefault(collection_id, store)
        elif store is not None:
            store.close()

    def _tell(self, collection_id: CollectionId, what: str) -> None:
        """Tell all processes that nothing of a collection is applied now: its writes must not hold up those of others.

        Not by the error's words, which may be a record's.
        """
        directory = self._root / collection_id
        with suppress(OSError):  # no room or no right to do so: then they do
            self._seams.files.make_directory(directory)
            self._seams.files.write(directory / LEFT_ALONE_FILE, [f"{what}: see the log of whoever compacts".encode()])


def _code_of(error: sqlite3.Error) -> int:
    """SQLite's code; errors of Python's module itself have none: a text that is no UTF-8, which is damage."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
