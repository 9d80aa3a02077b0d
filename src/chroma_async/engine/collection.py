"""One collection as a process reads it: the pinned base, the unapplied tail, and the two seen as one."""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from msgspec import Struct

from chroma_async.core.memtable import Memtable, Row, Tail
from chroma_async.core.operators import DOCUMENT_OPERATORS, turned_around
from chroma_async.core.planner import SCAN_BYTES_MAX
from chroma_async.core.where import DocumentTest, FieldTest, Missing, Where, evaluate, matches
from chroma_async.engine.failures import FailureLog
from chroma_async.engine.open_readers import OpenReaders
from chroma_async.engine.row_cache import BaseRows, RowCache
from chroma_async.engine.search import Neighbours, SearchTarget, search
from chroma_async.engine.search_times import SearchTime, SearchTimes
from chroma_async.errors import FormatError, ResourceLimitError, StorageCorrupt, UnavailableError
from chroma_async.index.scan import BLOCK_ROWS, Scan, TailScan
from chroma_async.model import Collection, HnswConfiguration, Lsn, Mask, Slots, Vectors
from chroma_async.projections.fold import fold_entry
from chroma_async.projections.manifest import Manifest
from chroma_async.projections.records import TRIGRAM, RecordTables, StoredRow
from chroma_async.projections.store import CHECK_AT_OPEN_BYTES, RECORDS_FILE
from chroma_async.projections.view import EMPTY_BASE, Base, SegmentView, load_base
from chroma_async.seams import Share, require_wanted, run_in_turn
from chroma_async.seams.limits import FULL, READ_ONLY, limit_error

PIN_ATTEMPTS: Final = 20
"""Times that a reader takes a newer manifest when the one it read was replaced while it opened its files."""

RECORDS_AT_HAND_MAX: Final = 256
"""A read that must not wait reads no more records; nor are rows of more ids fetched along with their slots."""

READ_SECONDS: Final = 10.0
"""A collection that was read so lately is expected to be read again soon: for that entries are folded, and where it was
searched, here or at another worker, rows packed."""

LEVEL_SECONDS: Final = 300.0
"""Of one that was read so lately a new base is kept open, beside writes; opening a large one anew takes a second."""

LEVEL_INTERVAL_SECONDS: Final = 5.0
"""How old the base may be that is kept open for nobody: each newer one costs some time for every record that there is."""

FOLD_AT_HAND_BYTES: Final = 256 * 2**10
"""Entries of more bytes are not folded by a read that must not wait."""

PACKED_AT_ONCE_ROWS: Final = 4 * BLOCK_ROWS
"""Rows that are packed, in a fourth of a second, before searches use them."""

COLUMNS_AT_HAND_ROWS: Final = 1_024
"""Of more rows that were folded the columns are not made by a read that must not wait."""

AGAIN_SECONDS: Final = 5.0
"""Until the newest base is taken ahead of reads once more, after that has failed."""

logger = logging.getLogger("chroma_async.engine")


class NotAtHand(Exception):
    """A read that must not wait would have to: it belongs into a worker thread."""


class Seen(NamedTuple):
    """Version of a manifest, and the LSN through which it is applied."""

    version: int
    applied: Lsn


class Wanted(NamedTuple):
    """What a read needs of its view; see `CollectionReader.view`."""

    columns: bool
    newest: bool
    tail: bool
    search: bool


class CollectionReader:
    """Gives read views of one collection.

    `offer`, `close` and views at hand are for the event loop too, everything else for worker threads.
    """

    def __init__(
        self,
        directory: Path,
        freed: Lsn = Lsn(0),  # noqa: B008
        opened: OpenReaders | None = None,
        position: Callable[[], Lsn] = lambda: Lsn(0),
        share: Share = run_in_turn,
        row_cache: RowCache | None = None,
        searched: SearchTime | None = None,
    ) -> None:
        """`freed`: the log has freed the entries through this LSN, so that only the files have them.

        `position` gives the LSN through which all entries were offered. `share` runs the parts of a large search.
        `row_cache` keeps rows of results; None: nothing does. `searched` says when the collection was searched last, here
        or by whoever else has it.
        """
        self._row_cache = RowCache(0) if row_cache is None else row_cache
        self._base_rows = self._row_cache.of_new_base()
        self._position = position
        self._share = share
        self._freed = freed
        self._directory = directory
        self._opened = OpenReaders() if opened is None else opened
        self._released = False
        self._pending: deque[tuple[Lsn, bytes]] = deque()
        self._connections: list[RecordTables] = []
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._base: Base = EMPTY_BASE
        self._scans: tuple[Scan | None, ...] = ()
        """Of the base, each of its first rows; what is not packed yet, or won't be, is searched in another way."""
        self._is_packed = True
        """Whether they have all rows that can be packed."""
        self._gave_up_packing = False
        """Whether that failed for this base."""
        self._packing = threading.Lock()
        self._memtable = Memtable(applied=Lsn(0), next_slot=0)
        self._tail_scan = TailScan()
        self._image: Image | None = None
        self._base_image: Image | None = None
        self._seen = Seen(version=0, applied=Lsn(0))
        self._behind = False
        self._searched = SearchTimes().of(directory.name) if searched is None else searched
        self._read_at = self._viewed_at = self._renewed_at = self._readied_at = self._again_at = -math.inf
        self._failures = FailureLog(logger, directory)
        self._closed = False
        self._goes_ahead = False
        """Whether a thread folds and packs ahead of the next read."""
        self._checked = False
        self._refusal: str | None = None
        self._dropped = Lsn(0)
        """Entries through this LSN are not kept any more: only a base that holds them may be read."""
        self._offered_bytes = 0
        self._dropped_bytes = 0

    @property
    def pending_bytes(self) -> int:
        """Bytes of the entries that wait. Offering and dropping have a counter each: they are done by different threads."""
        return self._offered_bytes - self._dropped_bytes

    @property
    def manifest(self) -> Manifest:
        """Of the base that is open; an empty one while none is."""
        return self._base.manifest

    @property
    def pending_entries(self) -> int:
        return len(self._pending)

    def pending(self) -> list[tuple[Lsn, bytes]]:
        """The entries that may not be applied yet, oldest first."""
        return list(self._pending)

    @property
    def oldest_pending(self) -> Lsn | None:
        """LSN of the oldest entry that may not be applied yet; None: all are."""
        try:
            return self._pending[0][0]
        except IndexError:
            return None

    @property
    def newest_pending(self) -> Lsn:
        """LSN of the newest entry that may not be applied yet; 0: all are."""
        try:
            return self._pending[-1][0]
        except IndexError:
            return Lsn(0)

    @property
    def is_behind(self) -> bool:
        """Whether the base is an older one than readers have seen published; `refresh` is due, and has not failed lately."""
        return self._behind and time.monotonic() >= self._again_at

    def newest_pending_through(self, lsn: Lsn) -> Lsn:
        """LSN of the newest entry up to this one that may not be applied yet; 0: all are."""
        return next((found for found, _ in reversed(self._pending.copy()) if found <= lsn), Lsn(0))

    def offer(self, lsn: Lsn, payload: bytes) -> None:
        """Take an entry of this collection; entries come in LSN order."""
        self._pending.append((lsn, payload))
        self._offered_bytes += len(payload)

    def refuse(self, reason: str) -> None:
        """Answer nothing any more: an entry of this collection is damaged in the log."""
        self._refusal = reason

    def close(self) -> None:
        self._closed = True
        self._opened.forget(self)
        with self._lock:  # views that are read keep what they need
            self._forget_base()
        self._close_connections()

    def _close_connections(self) -> None:
        while (tables := self._idle_connection()) is not None:
            tables.close()

    def release(self) -> bool:
        """Let go of files and memory, which the next read opens again; False while somebody is opening them."""
        if not self._loading.acquire(blocking=False):
            return False
        try:
            if not self._lock.acquire(blocking=False):
                return False
            try:
                self._forget_base()
            finally:
                self._lock.release()
        finally:
            self._loading.release()
        self._close_connections()
        return True

    def _forget_base(self) -> None:
        self._released = self._released or bool(self._base.manifest.version)
        self._base, self._scans, self._is_packed, self._image, self._base_image = EMPTY_BASE, (), True, None, None
        self._base_rows = self._row_cache.of_new_base()
        self._memtable, self._tail_scan = Memtable(applied=Lsn(0), next_slot=0), TailScan()
        self._behind = False

    def is_stale(self) -> bool:
        """Whether the compactor has published since these files were opened, or removed them."""
        version = self._base.manifest.version
        if not version:
            return False
        try:
            tables = self._borrow()
            if tables is None:
                return True
            try:
                return tables.version() != version
            finally:
                self._give_back(tables)
        except (sqlite3.Error, OSError):
            return False  # whoever reads will be told

    @contextmanager
    def view(
        self,
        *,
        columns: bool = False,
        at_hand: bool = False,
        newest: bool = False,
        tail: bool = True,
        search: bool = False,
    ) -> Generator[View]:
        """A read view: everything that was offered before, seen in one instant. `columns`: metadata can be filtered;
        `search`: nearest records will be asked for, so that rows are worth packing.

        What the view holds does not depend on how much of it was applied. `newest`: as much as was. Without `tail`: only
        what was, and then as much of it as is.

        Raises:
            NotAtHand: only with `at_hand`: it takes files that are not open, a lock that another thread holds, to fold
                many entries, or to compare rows that are not packed yet.
            StorageCorrupt: a file of the collection is damaged.
            OSError: one can't be opened now, whatever is in it.
            sqlite3.DatabaseError: its tables are, or can't be opened.
        """
        if self._refusal is not None:
            raise StorageCorrupt(self._refusal)
        self._opened.touch(self)
        self._viewed_at = time.monotonic()
        if search:
            self._searched.note()
        wanted, position = Wanted(columns, newest or not tail, tail, search), self._position()
        if at_hand:
            with self._view_at_hand(wanted) as held:
                yield held.of_position(position)
            return
        tables = self._borrow()
        if tables is None:
            with self._lock:
                pinned = None if self._base.manifest.version or self._released else self._pinned(None, wanted)
            if pinned is not None:
                yield pinned.of_position(position)
                return
            tables = RecordTables(self._directory / RECORDS_FILE, writable=False)  # another thread has seen them meanwhile
        try:
            with self._snapshot(tables, wanted) as pinned:
                yield pinned.of_position(position)
            if tables.unchanging and not tables.is_unchanged():
                raise ResourceLimitError(
                    "the collection was written to while it was read without room to share it; try again"
                )
        finally:
            self._give_back(tables)

    @contextmanager
    def _view_at_hand(self, wanted: Wanted) -> Generator[View]:
        tables = self._idle_connection()
        if tables is None:
            raise NotAtHand
        try:
            with tables.transaction():
                yield self._pin_at_hand(tables, wanted)
        finally:
            self._give_back(tables)

    def _pin_at_hand(self, tables: RecordTables, wanted: Wanted) -> View:
        if not self._lock.acquire(blocking=False):
            raise NotAtHand
        try:
            if not self._suits(tables, wanted.newest) or self._unfolded_bytes() > FOLD_AT_HAND_BYTES or self._goes_ahead:
                raise NotAtHand
            if wanted.columns and self._memtable.rows_without_columns > COLUMNS_AT_HAND_ROWS:
                raise NotAtHand
            if wanted.search and not self._is_packed:
                raise NotAtHand
            return self._pinned(tables, wanted, at_hand=True)
        finally:
            self._lock.release()

    def _unfolded_bytes(self) -> int:
        """Bytes of the newest entries, those that no view has seen yet. The caller is the event loop, and holds the lock."""
        size = 0
        for lsn, payload in reversed(self._pending):
            if lsn <= self._memtable.through:
                break
            size += len(payload)
        return size

    @contextmanager
    def _snapshot(self, tables: RecordTables, wanted: Wanted) -> Generator[View]:
        for _ in range(PIN_ATTEMPTS):
            with tables.transaction():
                pinned = self._try_pin(tables, wanted)
                if pinned is not None:
                    yield pinned
                    return
        raise UnavailableError(f"the collection changes faster than it can be opened; try again. attempts={PIN_ATTEMPTS}")

    def _try_pin(self, tables: RecordTables, wanted: Wanted) -> View | None:
        """Pin what this transaction sees; None when another thread is ahead of it, or its files are gone by now."""
        try:
            with self._lock:
                if self._suits(tables, wanted.newest):
                    return self._pinned(tables, wanted)
            if self._renew(tables, packed=False):
                with self._lock:
                    return self._pinned(tables, wanted) if self._suits(tables, wanted.newest) else None
        except StorageCorrupt:
            if tables.is_newest():
                raise
        return None

    def trim(self) -> int:
        """Forget entries that the tables hold by now; return the bytes of those that remain.

        Nothing is opened for that which nobody reads, nor kept level: the next read opens what there is then.
        """
        if self._pending:
            now = time.monotonic()
            if not self._base.manifest.version:
                self._forget_applied()
            elif now - max(self._viewed_at, self._searched.anywhere) >= LEVEL_SECONDS:
                if self.release():
                    self._forget_applied()
            elif self._is_recent(self._viewed_at) or (
                now - self._viewed_at < LEVEL_SECONDS and now - self._renewed_at >= LEVEL_INTERVAL_SECONDS
            ):
                self.refresh()
            else:
                self._forget_applied()
        return self.pending_bytes

    @property
    def is_to_be_ready(self) -> bool:
        """Whether another worker is asked for what this one is not: its next client may come here, and finds this open."""
        return (
            self._is_recent(self._searched.heeded)
            and not self._is_recent(self._viewed_at)
            and time.monotonic() - self._readied_at >= LEVEL_INTERVAL_SECONDS
            and self._opened.has_room
        )

    def make_ready(self) -> None:
        """Take the newest base, for whoever comes; its rows are packed afterwards."""
        self._readied_at = time.monotonic()
        self.refresh()

    def _forget_applied(self) -> None:
        """Forget entries that were applied, without their base: whoever reads next loads one that holds them."""
        if not self._loading.acquire(blocking=False):
            return
        try:
            manifest = self.published()
            if manifest is None or not manifest.version:
                return
            with self._lock:
                self._drop_applied(manifest.applied)
                is_open = bool(self._base.manifest.version)
                self._released = self._released or not is_open
                if not is_open or not self._is_read:  # what is folded would keep entries that nobody counts any more
                    self._memtable, self._tail_scan, self._image = _empty_memtable(self._base), TailScan(), None
        finally:
            self._loading.release()

    def published(self) -> Manifest | None:
        """The newest manifest, an empty one before the first; None: it can't be read, or the collection was deleted.

        Nothing stays open for it.
        """
        if self._closed or self._refusal is not None:
            return None
        try:
            tables = self._borrow()
            if tables is None:
                return Manifest()
            try:
                return tables.manifest()
            finally:
                if self._base.manifest.version:
                    self._give_back(tables)
                else:
                    tables.close()
        except (StorageCorrupt, FormatError, sqlite3.Error, OSError):
            return None  # whoever reads will be told

    def refresh(self) -> None:
        """Take the newest base. Views go on with the one before meanwhile, unless entries beyond that were forgotten."""
        self._opened.touch(self)
        with self._in_background("refresh.failed"), self._instant() as tables:
            self._again_at = time.monotonic() + AGAIN_SECONDS
            if tables is not None:
                self._refresh(tables)
            self._again_at = -math.inf

    @contextmanager
    def _in_background(self, failed: str) -> Generator[None]:
        """Do what is done ahead of reads. What keeps it from being done is logged: whoever reads meets it, and is told."""
        try:
            yield
        except (StorageCorrupt, sqlite3.DatabaseError, UnicodeDecodeError, OSError) as error:
            self._failures.note(f"{failed} collection={self._directory.name}", error)

    @contextmanager
    def _instant(self) -> Generator[RecordTables | None]:
        """One instant of the tables; None: there are none yet."""
        tables = self._borrow()
        if tables is None:
            yield None
            return
        try:
            with tables.transaction():
                yield tables
        finally:
            self._give_back(tables)

    @property
    def has_much_to_fold(self) -> bool:
        """Whether entries have come that are more than a read on the event loop may fold, and a read is expected.

        False while a thread is at work here.
        """
        if not self._base.manifest.version or not self._is_read or not self._lock.acquire(blocking=False):
            return False
        try:
            return self._unfolded_bytes() > FOLD_AT_HAND_BYTES
        finally:
            self._lock.release()

    def fold_ahead(self) -> None:
        """Fold and pack what has come since the last read, so that the next one need not.

        Reads wait for one entry at most.
        """
        with self._in_background("fold.failed"):
            self._fold_ahead()

    def _fold_ahead(self) -> None:
        self._goes_ahead = True
        try:
            with self._instant() as tables:
                if tables is not None:
                    self._fold_one_by_one(tables)
            with self._lock:
                tail_scan, (first, vectors) = self._tail_scan, self._memtable.vectors()
            tail_scan.pack(first, vectors)
        except BaseException:
            self._read_at = -math.inf  # whoever reads next will be told; nothing is tried before
            raise
        finally:
            self._goes_ahead = False

    def _fold_one_by_one(self, tables: RecordTables) -> None:
        """Fold the entries that wait now, those that may be, over the base that is open."""
        for lsn, payload in self.pending():
            with self._lock:
                if lsn <= self._memtable.through:
                    continue
                if not self._suits(tables, newest=False):
                    return
                fold_entry(self._memtable, lsn, payload, tables)

    def _refresh(self, tables: RecordTables) -> None:
        """Of a base that is packed the next one is packed before it is taken: only what is new is left to be."""
        is_packed = self._is_packed and bool(self._base.manifest.version)
        try:
            self._renew(tables, packed=is_packed and self._is_searched)
        except StorageCorrupt:
            if tables.is_newest():
                raise

    # ---- connections

    def _borrow(self) -> RecordTables | None:
        idle = self._idle_connection()
        if idle is not None:
            return idle
        path = self._directory / RECORDS_FILE
        if not path.exists():
            if self._freed:
                raise StorageCorrupt(f"records are missing, and the only copy. path={path} freed={self._freed}")
            return None
        try:
            return self._open(path)
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None  # the compactor is just making it: everything is still in the tail
            if not _lacks_room_to_share(error, path):
                raise
            return RecordTables(path, writable=False, unchanging=True)

    def _open(self, path: Path) -> RecordTables:
        tables = RecordTables(path, writable=False)
        try:
            tables.version()
            self._check_once(tables)
        except BaseException:
            tables.close()
            raise
        return tables

    def _check_once(self, tables: RecordTables) -> None:
        """Check small tables whole before anything is read of them: a damaged index would hide records silently."""
        if self._checked or tables.size_bytes() > CHECK_AT_OPEN_BYTES:
            return
        problem = tables.problem(patient=False)
        if problem is not None:
            raise StorageCorrupt(f"records are damaged. path={self._directory / RECORDS_FILE} reason={problem}")
        self._checked = True

    def _idle_connection(self) -> RecordTables | None:
        try:
            return self._connections.pop()
        except IndexError:
            return None

    def _give_back(self, tables: RecordTables) -> None:
        """Without the lock, which another thread may hold for long: one step of a list is atomic."""
        if tables.unchanging:
            tables.close()
            return
        self._connections.append(tables)
        if self._closed:
            self._close_connections()

    # ---- pinning, under the lock

    def _suits(self, tables: RecordTables, newest: bool) -> bool:
        """Whether a view of this transaction may be made of the base and the memtable as they are.

        Not when entries were forgotten that neither of them has. Else it may when the base is the transaction's. It also may
        when the base is an older one, of which the memtable knows all that changed up to the transaction's manifest: what a
        row of the tables says of an unchanged record is the same then as now, and of all others the memtable says what they
        are. Slots are the same in both: a function of the log.
        """
        version, base = tables.version(), self._base.manifest
        self._behind = self._behind or version > base.version
        if base.applied < self._dropped and self._memtable.through < self._dropped:
            return False
        if version == base.version:
            return True
        if newest or version < base.version or not base.version:
            return False
        if version != self._seen.version:
            manifest = tables.manifest()
            if manifest.space != base.space:
                return False
            self._seen = Seen(version, manifest.applied)
        return self._seen.applied <= self._memtable.through

    @property
    def _is_read(self) -> bool:
        """Whether somebody will probably read soon. For nobody the tail is not folded, which takes time and memory."""
        return self._is_recent(self._read_at)

    @property
    def _is_searched(self) -> bool:
        """Whether somebody will probably search soon, who searches here or at another worker now."""
        return self._is_recent(self._searched.heeded)

    @staticmethod
    def _is_recent(moment: float) -> bool:
        return time.monotonic() - moment < READ_SECONDS

    def _pinned(self, tables: RecordTables | None, wanted: Wanted, *, at_hand: bool = False) -> View:
        if not wanted.tail:
            return View(self._applied_image(), tables, self._share, self._base_rows, at_hand=at_hand)
        columns = wanted.columns
        self._read_at = time.monotonic()
        self._fold_pending(self._memtable, tables)
        image = self._image
        if image is None or image.through != self._memtable.through or (columns and not image.has_columns):
            tail = self._memtable.tail(columns=columns)
            image = self._image = Image(self._base, tail, self._scans, self._tail_scan, has_columns=columns)
        return View(image, tables, self._share, self._base_rows, at_hand=at_hand)

    def _applied_image(self) -> Image:
        """The base alone."""
        if self._base_image is None or self._base_image.base is not self._base:
            manifest = self._base.manifest
            nothing = Memtable(applied=manifest.applied, next_slot=manifest.next_slot).tail(columns=True)
            self._base_image = Image(self._base, nothing, self._scans, TailScan(), has_columns=True, has_tail=False)
        return self._base_image

    def _fold_pending(self, memtable: Memtable, tables: RecordTables | None) -> None:
        for lsn, payload in tuple(self._pending):
            if lsn > memtable.through:
                fold_entry(memtable, lsn, payload, tables)

    def _drop_applied(self, applied: Lsn) -> None:
        self._dropped = max(self._dropped, applied)
        while self._pending and self._pending[0][0] <= applied:
            _, payload = self._pending.popleft()
            self._dropped_bytes += len(payload)

    # ---- renewing, beside views

    def _renew(self, tables: RecordTables, *, packed: bool) -> bool:
        """Make the base of this transaction the reader's, and fold over it what it lacks; False: it is no newer one.

        `packed`: its rows are packed before, which no read should wait for: it takes seven times as long as comparing them.
        """
        with self._loading:
            before = self._base
            if tables.version() <= before.manifest.version:
                return tables.version() == before.manifest.version
            manifest = tables.manifest()
            if manifest.applied < self._dropped:
                return False  # an older instant than entries were forgotten for
            if manifest.applied < self._freed:
                raise StorageCorrupt(
                    f"the newest records are lost. path={self._directory} applied={manifest.applied} freed={self._freed}"
                )
            base = load_base(self._directory, manifest, before, tables)
            if packed:
                for segment in _to_be_packed(base):
                    self._pack(segment)
            folded: Memtable | None = None
            if self._is_read and self._memtable.through < manifest.applied:
                folded = _empty_memtable(base)
                self._fold_pending(folded, tables)
            elif self._is_read:
                self._fold_one_by_one(tables)  # what is left to be folded keeps reads waiting
            with self._lock:
                self._drop_applied(manifest.applied)
                memtable, tail_scan = self._memtable, self._tail_scan
                if memtable.applied != manifest.applied:
                    memtable, tail_scan = (folded, TailScan()) if folded is not None else self._memtable_over(base)
                if self._is_read:
                    self._fold_pending(memtable, tables)
                self._base, self._memtable, self._tail_scan = base, memtable, tail_scan
                self._base_rows = self._row_cache.of_new_base()
                self._take_scans()
                self._gave_up_packing = False
                self._image = None
                self._behind = False
                self._renewed_at = time.monotonic()
            return True

    @property
    def is_to_be_packed(self) -> bool:
        """Whether rows are to be packed, since the collection was searched lately and will be again."""
        return not self._is_packed and not self._gave_up_packing and self._is_searched

    def pack(self) -> None:
        """Pack the rows of a segment of the base. Searches go on with what is packed, and compare the others.

        When that fails, as with damaged vectors, this base's are not packed any more.
        """
        with self._in_background("pack.failed"):
            try:
                for segment in _to_be_packed(self._base)[:1]:
                    self._pack(segment)
            except BaseException:
                self._gave_up_packing = True
                raise
            self._use_packed()

    def _pack(self, segment: SegmentView) -> None:
        """Pack a segment's rows; searches use those that are packed while others follow."""
        while not segment.is_packed and not self._closed:
            with self._packing:
                segment.scanned(PACKED_AT_ONCE_ROWS)
            self._use_packed()

    def _use_packed(self) -> None:
        with self._lock:
            if not self._is_packed:
                self._take_scans()
                self._image = self._base_image = None

    def _take_scans(self) -> None:
        """Use what is packed of the base."""
        segments = self._base.segments
        self._scans = tuple(segment.scan.latest if _is_scanned(segment) else None for segment in segments)
        self._is_packed = all(
            not _is_scanned(segment) or segment.is_covered(scan) for segment, scan in zip(segments, self._scans, strict=True)
        )

    def _memtable_over(self, base: Base) -> tuple[Memtable, TailScan]:
        """What is folded and packed, over a newer base; nothing, where nothing is that it lacks, or nobody reads."""
        manifest = base.manifest
        if self._is_read and self._memtable.applied <= manifest.applied <= self._memtable.through:
            rebased = self._memtable.rebased(applied=manifest.applied, next_slot=manifest.next_slot)
            return rebased, self._tail_scan if manifest.space == self._base.manifest.space else TailScan()
        return _empty_memtable(base), TailScan()


def _empty_memtable(base: Base) -> Memtable:
    return Memtable(applied=base.manifest.applied, next_slot=base.manifest.next_slot)


def _is_scanned(segment: SegmentView) -> bool:
    """Whether a segment's rows are to be packed: there are some beyond its graph, and not too many."""
    ndim = int(segment.vectors.shape[1])
    return 0 < (segment.rows - segment.scan_first) * ndim <= SCAN_BYTES_MAX


def _to_be_packed(base: Base) -> list[SegmentView]:
    return [segment for segment in base.segments if _is_scanned(segment) and not segment.is_packed]


def _lacks_room_to_share(error: sqlite3.OperationalError, path: Path) -> bool:
    """Whether tables can't be opened for want of the file that SQLite shares, and nothing of them is in its journal."""
    limit = limit_error(error, path.parent)
    journal = path.with_name(f"{path.name}-wal")
    empty = not journal.exists() or not journal.stat().st_size
    return limit is not None and limit.reason in (FULL, READ_ONLY) and empty


class Image:
    """Base and tail as one, without a connection: shared by all reads of one instant. What is derived is kept."""

    def __init__(
        self,
        base: Base,
        tail: Tail,
        scans: tuple[Scan | None, ...],
        tail_scan: TailScan,
        *,
        has_columns: bool,
        has_tail: bool = True,
    ) -> None:
        self.base = base
        self.tail = tail
        self.scans = scans
        self._tail_scan = tail_scan
        self.has_columns = has_columns
        self.has_tail = has_tail
        self._targets: dict[HnswConfiguration, SearchTarget] = {}

    @property
    def size(self) -> int:
        """Number of slots, live or not: the length of every mask."""
        return self.tail.next_slot

    @property
    def live(self) -> int:
        return self.base.live + self.tail.live_delta

    @property
    def through(self) -> Lsn:
        return self.tail.through

    @cached_property
    def alive(self) -> Mask:
        """Which slots hold a record, shape (size,)."""
        alive = np.zeros(self.size, dtype=np.bool_)
        alive[: len(self.base.alive)] = self.base.alive
        alive[self.tail.dead] = False
        alive[self.tail.live_new_slots()] = True
        return alive

    @cached_property
    def hidden(self) -> Mask | None:
        """Slots of the base whose vector there is not the current one, shape (base.next_slot,); None: none."""
        tail = self.tail
        if not len(tail.dead) and not len(tail.revectored):
            return None
        hidden = np.zeros(len(self.base.alive), dtype=np.bool_)
        hidden[tail.dead] = True
        hidden[tail.revectored] = True
        return hidden

    def target(self, hnsw: HnswConfiguration) -> SearchTarget:
        """What queries search; made once for a configuration, and nearly always there is one.

        A new space counts when the base has it: then all distances change at once (`CollectionStore.build_graphs`).
        """
        target = self._targets.get(hnsw)
        if target is None:
            space = self.base.manifest.space if self.base.manifest.rows else hnsw.space
            packed = self._tail_scan.of(space, self.tail.first_vector, self.tail.vectors)
            target = self._targets[hnsw] = SearchTarget(
                space, self.base, self.tail, self.scans, self.hidden, hnsw.ef_search, packed
            )
        return target

    @cached_property
    def tail_vectors(self) -> dict[int, int]:
        """Position in the tail's vectors of each slot that has its current vector there."""
        rows = np.flatnonzero(self.tail.owners >= 0)
        return dict(zip(self.tail.owners[rows].tolist(), rows.tolist(), strict=True))


class View:
    """One instant of a collection, with the connection that reads its rows."""

    def __init__(
        self,
        image: Image,
        tables: RecordTables | None,
        share: Share = run_in_turn,
        base_rows: BaseRows | None = None,
        *,
        at_hand: bool = False,
    ) -> None:
        self.image = image
        self._tables = tables
        self._share = share
        self._base_rows = base_rows
        self._at_hand = at_hand
        self._fetched: dict[int, StoredRow] = {}
        """By slot: rows that came along when the slots of their ids were looked up."""
        self.lsn = image.through
        """All entries through this LSN were seen; of a view without a tail, all that it holds of this collection."""

    def of_position(self, position: Lsn) -> View:
        """Note through which LSN all entries had been offered when this view was asked for."""
        if self.image.has_tail:
            self.lsn = max(self.lsn, position)
        return self

    def expect(self, records: int) -> None:
        """Say how many records will be read.

        Raises:
            NotAtHand: that takes long, and this view is for a read that must not.
        """
        if self._at_hand and records > RECORDS_AT_HAND_MAX:
            raise NotAtHand

    # ---- which records

    def slots_of(self, ids: Sequence[str], *, with_rows: bool = False) -> Slots:
        """Slots of the ids that exist, ascending, each once. `with_rows`: their rows are wanted next, and come along."""
        known = self.image.tail.known
        asked = [record_id for record_id in ids if record_id not in known]
        found = set[int]()
        if self._tables is not None and asked:
            if with_rows:
                self._fetched = self._tables.rows_of(asked)
                found.update(self._fetched)
            else:
                found.update(self._tables.slots_of(asked).values())
        found.update(row.slot for record_id in ids if (row := known.get(record_id)) is not None)
        return np.asarray(sorted(found), dtype=np.int64)

    def mask(self, ids: Sequence[str] | None, where: Where | None, missing: Missing) -> Mask | None:
        """Which slots hold a record of these ids that passes the filter, shape (size,); None: every live one may."""
        if ids is None and where is None:
            return None
        if ids is None:
            allowed = self.image.alive
        else:
            allowed = np.zeros(self.image.size, dtype=np.bool_)
            allowed[self.slots_of(ids)] = True
        if where is None:
            return allowed
        return allowed & evaluate(where, lambda leaf: self._test(leaf, missing), self.image.size)

    def slots(self, ids: Sequence[str] | None, where: Where | None, missing: Missing, *, with_rows: bool = False) -> Slots:
        """Slots of the records of these ids that pass the filter, ascending.

        `with_rows`: the rows of all of them are wanted next, so those of a few ids come along.
        """
        if ids is not None and where is None:
            return self.slots_of(ids, with_rows=with_rows and len(ids) <= RECORDS_AT_HAND_MAX)
        mask = self.mask(ids, where, missing)
        return np.flatnonzero(self.image.alive if mask is None else mask)

    def _test(self, leaf: FieldTest | DocumentTest, missing: Missing) -> Mask:
        require_wanted()  # of a thousand tests of long documents each may take long
        return self._test_field(leaf, missing) if isinstance(leaf, FieldTest) else self._test_document(leaf, missing)

    def _test_field(self, test: FieldTest, missing: Missing) -> Mask:
        """Newer pieces know their slots' whole metadata, so what they say replaces what older ones said."""
        mask = np.zeros(self.image.size, dtype=np.bool_)
        for piece in (*self.image.base.pieces, *self.image.tail.pieces):
            mask[piece.where] = piece.test(test, missing)
        return mask

    def _test_document(self, test: DocumentTest, missing: Missing) -> Mask:
        mask = np.zeros(self.image.size, dtype=np.bool_)
        if self._tables is not None:
            mask[: len(self.image.base.alive)] = self._test_stored_documents(self._tables, test, missing)
        tail = self.image.tail
        for row in (*tail.overrides.values(), *(row for row in tail.rows if row is not None)):
            mask[row.slot] = matches(test, None, row.document, missing)
        return mask

    def _test_stored_documents(self, tables: RecordTables, test: DocumentTest, missing: Missing) -> Mask:
        if test.operator not in ("$contains", "$not_contains") or len(test.operand) < TRIGRAM:
            self.expect(self.image.live)
        if test.operator in ("$contains", "$not_contains"):
            slots = tables.slots_containing(test.operand)
        else:
            positive = DocumentTest("$regex", test.operand)
            found = [slot for slot, text in tables.documents() if matches(positive, None, text, missing)]
            slots = np.asarray(found, dtype=np.int64)
        hits = self._stored(slots)
        if DOCUMENT_OPERATORS[test.operator].negates is None:
            return hits
        return turned_around(hits, lambda: self._stored(tables.slots_containing("")), missing)

    def _stored(self, slots: Slots) -> Mask:
        mask = np.zeros(len(self.image.base.alive), dtype=np.bool_)
        mask[slots[slots < len(mask)]] = True  # the tables may be of a newer base, whose records are the tail's here
        return mask

    # ---- what they hold

    def rows(self, slots: Slots) -> list[StoredRow]:
        """The rows of these slots, in their order; each of them is live."""
        wanted = slots.tolist()
        tail = self.image.tail
        newer = {} if tail.is_empty else {slot: row for slot in wanted if (row := tail.row(slot)) is not None}
        stored = [slot for slot in wanted if slot not in newer] if newer else wanted
        found = self._stored_rows(stored)
        if len(found) < len(set(stored)):
            raise StorageCorrupt(f"records are missing. slots={sorted(set(stored) - found.keys())[:10]}")
        return [_stored(newer[slot]) if slot in newer else found[slot] for slot in wanted]

    def _stored_rows(self, slots: Sequence[int]) -> dict[int, StoredRow]:
        if all(slot in self._fetched for slot in slots):
            return self._fetched
        if self._tables is None:
            return {}
        if self._base_rows is None or self._tables.unchanging:  # these may turn out to have changed meanwhile
            return self._tables.rows(slots)
        return self._base_rows.rows(slots, self._tables.rows)

    def vectors(self, slots: Slots) -> Vectors:
        """The vectors of these slots, shape (n, ndim); each of them is live."""
        newer = self.image.tail_vectors
        positions = np.asarray([newer.get(slot, -1) for slot in slots.tolist()], dtype=np.int64)
        if not len(slots) or (positions >= 0).all():
            return self.image.tail.vectors.take(positions)
        old = positions < 0
        out = np.empty((len(slots), self.image.base.manifest.dimension or 0), dtype=np.float32)
        out[old] = self.image.base.vectors_of(slots[old])
        if not old.all():  # a tail without vectors has no dimension either
            out[~old] = self.image.tail.vectors.take(positions[~old])
        return out

    # ---- which are nearest

    def nearest(
        self, collection: Collection, queries: Vectors, masks: Sequence[Mask | None], counts: Sequence[int]
    ) -> list[Neighbours]:
        """min(counts[i], matches) nearest records for each query i, shape (queries, ndim)."""
        return search(self.image.target(collection.hnsw), queries, masks, counts, self._share)

    # ---- how far it is

    def indexing_status(self) -> IndexingCounts:
        """Operations that reached the base, and those that still wait in the tail."""
        base = self.image.base.manifest
        return IndexingCounts(indexed=base.operations, unindexed=self.image.tail.operations)


class IndexingCounts(Struct, frozen=True):
    """Written and deleted records, ever: applied, and not yet applied."""

    indexed: int
    unindexed: int


def _stored(row: Row) -> StoredRow:
    return row.slot, row.id, row.document, row.metadata_json, row.uri
