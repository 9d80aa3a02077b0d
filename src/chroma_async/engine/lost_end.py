"""A log that ends before what was applied of it goes on behind that.

So it is in a copy of a directory that was made while this was in use, with the log copied first. Its next entries would get
LSNs that the tables of a collection have applied already: the compactor would pass them over. And whoever has seen what was
applied would wait for an LSN that the log does not come to.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from weakref import WeakSet

from chroma_async.engine.collection import CollectionReader
from chroma_async.engine.follower import Follower
from chroma_async.errors import FormatError, StorageCorrupt, UnavailableError
from chroma_async.model import CollectionId, Lsn
from chroma_async.projections.manifest import Manifest
from chroma_async.protocol.lines import check_dimension
from chroma_async.seams import Workers
from chroma_async.seams.limits import limit_error
from chroma_async.wal import LogStore, check_lost

logger = logging.getLogger("chroma_async.log")


class LostEnd:
    """Compares the log with tables of collections: once with each that is written to, and with those that are read."""

    def __init__(self, log: LogStore, follower: Follower[CollectionReader], workers: Workers, directory: Path) -> None:
        self._log = log
        self._follower = follower
        self._workers = workers
        self._directory = directory
        self._compared: WeakSet[CollectionReader] = WeakSet()
        """Those whose tables were found not to be ahead of the log: they never are again."""

    async def before_write(self, collection_id: CollectionId, dimension: int | None) -> None:
        """See that entries of a collection will be applied: of vectors of this dimension, None for none.

        A collection whose manifest is damaged is let through: its writes wait for a repair.

        Raises:
            StorageCorrupt: its tables are too far ahead of the log, or have vectors of another dimension than it says.
            InvalidDimensionException: its records have vectors of another dimension, which the log does not know of.
            UnavailableError: its tables are ahead of the log still, since they could not be looked at twice.
            LimitError, OSError, sqlite3.OperationalError: it can't be told now.
        """
        if self._follower.catalog.collection(collection_id) is None:
            return  # it was deleted meanwhile
        reader = self._follower.sink(collection_id)
        if reader in self._compared:
            return
        if not reader.has_tables:  # nothing of it was applied: a write to a new collection is not held up
            self._log.require_in_place()
            self._compared.add(reader)
            return
        manifest = await self._workers.run(lambda: self._manifest_of(reader))
        if manifest is None:
            return
        if await self._is_ahead(manifest.applied):
            await self._go_on_after(reader, manifest.applied)
        self._log.require_in_place()  # else these are the tables of another
        if await self._is_ahead(manifest.applied):
            raise UnavailableError("the log ends before what was applied of this collection; try again")
        known = self._follower.catalog.collection(collection_id)
        if known is not None and manifest.dimension is not None and known.dimension != manifest.dimension:
            if known.dimension is not None:
                dimensions = f"log={known.dimension} records={manifest.dimension}"
                raise StorageCorrupt(f"the log says another dimension than the records have: restore a backup. {dimensions}")
            check_dimension(manifest.dimension, dimension)
            return  # until the log knows it too
        self._compared.add(reader)

    async def look(self) -> None:
        """Go on behind what readers have seen applied.

        Raises:
            StorageCorrupt, LimitError, OSError: that is too far, or not possible now.
            DirectoryReplacedError: this is not where the log is any more.
        """
        failure: Exception | None = None
        position = self._follower.position
        ahead = [
            (reader, applied)
            for reader in self._follower.sinks().values()
            if (applied := reader.manifest.applied) > position
        ]
        for reader, applied in ahead:
            try:
                if await self._is_ahead(applied):
                    await self._go_on_after(reader, applied)
            except Exception as error:  # the others may be made up for all the same
                failure = error
        if failure is not None:
            raise failure

    async def _is_ahead(self, applied: Lsn) -> bool:
        """Whether something is applied that the log does not have; what this process has not read of it yet, it reads."""
        if applied > self._follower.position:
            await self._follower.catch_up()
        return applied > self._follower.position

    async def _go_on_after(self, reader: CollectionReader, seen: Lsn) -> None:
        """Decide with the turn held, so that the log has no other end, and is this directory's. `seen`: applied before."""
        check_lost(self._follower.position, seen)  # else not worth the turn
        async with self._log.exclusive():
            manifest = await self._workers.run(lambda: self._manifest_of(reader))
            if manifest is None or not await self._is_ahead(manifest.applied):
                return
            newest, applied = self._follower.position, manifest.applied
            self._log.require_in_place()  # while that was read, too
            await self._log.go_on_after(applied)
        logger.error("log.tail_lost newest=%d applied=%d entries=%d", newest, applied, applied - newest)

    def _manifest_of(self, reader: CollectionReader) -> Manifest | None:
        """What the tables say, empty where there are none; None: that is damaged."""
        try:
            return reader.stored_manifest()
        except (StorageCorrupt, FormatError):
            return None
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) or limit_error(error, self._directory) is not None:
                raise
            return None
