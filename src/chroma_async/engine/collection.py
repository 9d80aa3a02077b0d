"""One collection as a process reads it: a base that is open, the tail folded over it, and the entries that wait."""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from chroma_async.engine.connections import Connections
from chroma_async.engine.failures import FailureLog
from chroma_async.engine.open_base import FoldedTail, OpenBase
from chroma_async.engine.open_readers import OpenReaders
from chroma_async.engine.pending import Entries, PendingEntries
from chroma_async.engine.read_times import ReadTimes
from chroma_async.engine.read_view import Image, NotAtHand, View
from chroma_async.engine.row_cache import RowCache
from chroma_async.engine.search_times import SearchTime, SearchTimes
from chroma_async.errors import FormatError, ResourceLimitError, StorageCorrupt, UnavailableError
from chroma_async.index.packing import BLOCK_ROWS
from chroma_async.model import Lsn
from chroma_async.projections.manifest import Manifest
from chroma_async.projections.records import RecordTables
from chroma_async.projections.store import LEFT_ALONE_FILE, RECORDS_FILE
from chroma_async.projections.view import EMPTY_BASE, Base, SegmentView, load_base
from chroma_async.seams import Clock, Share, SystemClock, run_in_turn

PIN_ATTEMPTS: Final = 20
"""Times that a reader takes a newer manifest when the one it read was replaced while it opened its files."""

LEVEL_INTERVAL_SECONDS: Final = 5.0
"""How old the base may be that is kept open for nobody: each newer one costs some time for every record that there is."""

FOLD_AT_HAND_BYTES: Final = 256 * 2**10
"""Entries of more bytes are not folded by a read that must not wait."""

COLUMNS_AT_HAND_ROWS: Final = 1_024
"""Of more rows that were folded the columns are not made by a read that must not wait."""

PACKED_AT_ONCE_ROWS: Final = 4 * BLOCK_ROWS
"""Rows that are packed, in a fourth of a second, before searches use them."""

LEFT_ALONE_SECONDS: Final = 120.0
"""After so long the word that a collection is left alone has been forgotten there: it was repaired, or nobody compacts."""

AGAIN_SECONDS: Final = 5.0
"""Until the newest base is taken ahead of reads once more, after that has failed."""

logger = logging.getLogger("chroma_async.engine")


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

    `offer`, `close` and views at hand are for the event loop too, everything else for worker threads. A thread that makes a
    base holds `_loading`, for long; whoever looks at the base and the tail or puts others in their place holds `_lock`.
    """

    def __init__(
        self,
        directory: Path,
        noted_applied: Lsn = Lsn(0),  # noqa: B008
        opened: OpenReaders | None = None,
        position: Callable[[], Lsn] = lambda: Lsn(0),
        share: Share = run_in_turn,
        row_cache: RowCache | None = None,
        searched: SearchTime | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`noted_applied`: the entries through this LSN may be freed: only the files are sure to have them.

        `position` gives the LSN through which all entries were offered. `share` runs the parts of a large search.
        `row_cache` keeps rows of results; None: nothing does. `searched` says when the collection was searched last, here
        or by whoever else has it.
        """
        self._clock = clock or SystemClock()
        self.times = ReadTimes(searched or SearchTimes(clock=clock).of(directory.name), self._clock)
        self.entries = PendingEntries()
        self._directory = directory
        self._noted_applied = noted_applied
        self._opened = OpenReaders() if opened is None else opened
        self._position = position
        self._share = share
        self._row_cache = RowCache(0) if row_cache is None else row_cache
        self._connections = Connections(directory, noted_applied)
        self._failures = FailureLog(logger, directory)

        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._packing = threading.Lock()
        self._base = self._opened_base(EMPTY_BASE)
        self._tail = FoldedTail.nothing_over(EMPTY_BASE)
        self._image: Image | None = None
        """Of both."""
        self._released = False
        """Whether entries may have been forgotten that the base, which is none, does not have."""
        self._seen = Seen(version=0, applied=Lsn(0))
        self._behind = False
        self._goes_ahead = False
        """Whether a thread folds and packs ahead of the next read."""
        self._renewed_at = self._readied_at = self._again_at = -math.inf
        self._closed = False
        self._refusal: str | None = None

    # ---- how far it is

    @property
    def manifest(self) -> Manifest:
        """Of the base that is open; an empty one while none is."""
        return self._base.manifest

    @property
    def is_behind(self) -> bool:
        """Whether the base is an older one than readers have seen published; `refresh` is due, and has not failed lately."""
        return self._behind and self._clock.monotonic() >= self._again_at

    @property
    def has_much_to_fold(self) -> bool:
        """Whether entries have come that are more than a read on the event loop may fold, and a read is expected.

        False while a thread is at work here.
        """
        if not self._base.is_open or not self.times.is_read or not self._lock.acquire(blocking=False):
            return False
        try:
            return self._unfolded_bytes() > FOLD_AT_HAND_BYTES
        finally:
            self._lock.release()

    @property
    def is_to_be_packed(self) -> bool:
        """Whether rows are to be packed, since the collection was searched lately and will be again."""
        return not self._base.is_packed and not self._base.gave_up_packing and self.times.is_searched

    @property
    def is_to_be_ready(self) -> bool:
        """Whether another worker is asked for what this one is not: its next client may come here, and finds this open."""
        return (
            self.times.is_searched
            and not self.times.is_viewed
            and self._clock.monotonic() - self._readied_at >= LEVEL_INTERVAL_SECONDS
            and self._opened.has_room
        )

    def is_stale(self) -> bool:
        """Whether the compactor has published since these files were opened, or removed them."""
        version = self._base.manifest.version
        if not version:
            return False
        try:
            tables = self._connections.borrow()
            if tables is None:
                return True
            try:
                return tables.version() != version
            finally:
                self._connections.give_back(tables)
        except (sqlite3.Error, OSError):
            return False  # whoever reads will be told

    def published(self) -> Manifest | None:
        """The newest manifest, an empty one before the first; None: it can't be read, or the collection was deleted.

        Nothing stays open for it.
        """
        if self._closed or self._refusal is not None:
            return None
        try:
            tables = self._connections.borrow()
            if tables is None:
                return Manifest()
            try:
                return tables.manifest()
            finally:
                if self._base.is_open:
                    self._connections.give_back(tables)
                else:
                    tables.close()
        except (StorageCorrupt, FormatError, sqlite3.Error, OSError):
            return None  # whoever reads will be told

    @property
    def has_tables(self) -> bool:
        """Whether anything of it was ever applied; says so of tables that are just being made, too."""
        try:
            (self._directory / RECORDS_FILE).stat()
        except FileNotFoundError:
            return False
        return True

    def stored_manifest(self) -> Manifest:
        """The newest manifest, an empty one before the first, whatever else of the tables is damaged.

        Raises:
            FormatError, StorageCorrupt, sqlite3.DatabaseError: it can't be read.
        """
        return self._connections.manifest()

    # ---- beginning and end

    def offer(self, lsn: Lsn, payload: bytes) -> None:
        """Take an entry of this collection; entries come in LSN order."""
        self.entries.add(lsn, payload)

    def miss(self, through: Lsn) -> None:
        """Note that entries through this LSN were applied, some of which were not offered."""
        self.entries.miss(through)

    def refuse(self, reason: str) -> None:
        """Answer nothing any more: an entry of this collection is damaged in the log."""
        self._refusal = reason

    def left_alone(self) -> str | None:
        """Why nothing of this collection is applied for the time being; None: it is."""
        if self._refusal is not None:
            return self._refusal
        path = self._directory / LEFT_ALONE_FILE
        try:
            if time.time() - path.stat().st_mtime > LEFT_ALONE_SECONDS:  # each attempt says so anew
                return None
            return path.read_text(errors="replace")
        except OSError:
            return None

    def close(self) -> None:
        self._closed = True
        self._opened.forget(self)
        with self._lock:  # views that are read keep what they need
            self._forget_base()
        self._connections.close()

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
        self._connections.close_idle()
        return True

    def _forget_base(self) -> None:
        self._released = self._released or self._base.is_open
        self._use(self._opened_base(EMPTY_BASE), FoldedTail.nothing_over(EMPTY_BASE))

    # ---- views

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
        self.times.note_view(search=search)
        wanted, position = Wanted(columns, newest or not tail, tail, search), self._position()
        with (self._view_at_hand if at_hand else self._view)(wanted) as view:
            yield view.of_position(position)

    @contextmanager
    def _view(self, wanted: Wanted) -> Generator[View]:
        tables = self._connections.borrow()
        if tables is None:
            with self._lock:
                pinned = self._pinned_without_files(wanted)
            if pinned is not None:
                yield pinned
                return
            tables = self._connections.anew()  # another thread has seen them meanwhile
        try:
            with self._snapshot(tables, wanted) as pinned:
                yield pinned
            if tables.unchanging and not tables.is_unchanged():
                raise ResourceLimitError(
                    "the collection was written to while it was read without room to share it; try again"
                )
        finally:
            self._connections.give_back(tables)

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
                entries = self.entries.now()
                if self._suits(tables, wanted.newest):
                    return self._pinned(tables, wanted, entries)
            if self._renew(tables, packed=False):
                with self._lock:
                    entries = self.entries.now()
                    return self._pinned(tables, wanted, entries) if self._suits(tables, wanted.newest) else None
        except StorageCorrupt:
            if tables.is_newest():
                raise
        return None

    @contextmanager
    def _view_at_hand(self, wanted: Wanted) -> Generator[View]:
        tables = self._connections.idle()
        if tables is None:
            raise NotAtHand
        try:
            with tables.transaction():
                yield self._pin_at_hand(tables, wanted)
        finally:
            self._connections.give_back(tables)

    def _pin_at_hand(self, tables: RecordTables, wanted: Wanted) -> View:
        if not self._lock.acquire(blocking=False):
            raise NotAtHand
        try:
            entries = self.entries.now()
            if not self._suits(tables, wanted.newest) or self._unfolded_bytes() > FOLD_AT_HAND_BYTES or self._goes_ahead:
                raise NotAtHand
            if wanted.columns and self._tail.memtable.rows_without_columns > COLUMNS_AT_HAND_ROWS:
                raise NotAtHand
            if wanted.search and not self._base.is_packed:
                raise NotAtHand
            return self._pinned(tables, wanted, entries, at_hand=True)
        finally:
            self._lock.release()

    # ---- pinning, under the lock

    def _suits(self, tables: RecordTables, newest: bool) -> bool:
        """Whether a view of this transaction may be made of base and tail as they are, and of entries taken before.

        Not when there are entries that neither of them has, and that are not here, or not any more. Else it may when the
        base is the transaction's. It also may when the base is an older one, of which the tail knows all that changed up to
        the transaction's manifest: what a row of the tables says of an unchanged record is the same then as now, and of all
        others the tail says what they are. Slots are the same in both: a function of the log.
        """
        version, base, through = tables.version(), self._base.manifest, self._tail.through
        self._behind = self._behind or version > base.version
        complete_after = self.entries.complete_after
        if base.applied < complete_after and through < complete_after:
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
        return self._seen.applied <= through

    def _pinned_without_files(self, wanted: Wanted) -> View | None:
        """A view of entries alone; None: they are not all that there is."""
        entries = self.entries.now()
        if self._base.is_open or self._released or self.entries.complete_after:
            return None
        return self._pinned(None, wanted, entries)

    def _pinned(self, tables: RecordTables | None, wanted: Wanted, entries: Entries, *, at_hand: bool = False) -> View:
        image = self._folded_image(tables, wanted.columns, entries) if wanted.tail else self._base.image()
        return View(image, tables, self._share, self._base.rows, at_hand=at_hand)

    def _folded_image(self, tables: RecordTables | None, columns: bool, entries: Entries) -> Image:
        self.times.note_read()
        self._tail.fold(entries, tables)
        image = self._image
        if image is None or image.through != self._tail.through or (columns and not image.has_columns):
            tail = self._tail.memtable.tail(columns=columns)
            image = self._image = Image(self._base.base, tail, self._base.scans, self._tail.scan, has_columns=columns)
        return image

    def _unfolded_bytes(self) -> int:
        """Bytes of the newest entries, those that no view has seen yet. The caller is the event loop."""
        return self.entries.bytes_after(self._tail.through)

    def _use(self, base: OpenBase, tail: FoldedTail) -> None:
        self._base, self._tail, self._image, self._behind = base, tail, None, False

    # ---- renewing, beside views

    def _renew(self, tables: RecordTables, *, packed: bool) -> bool:
        """Make the base of this transaction the reader's, and fold over it what it lacks; False: it is no newer one.

        `packed`: its rows are packed before, which no read should wait for: it takes seven times as long as comparing them.
        """
        with self._loading:
            before = self._base.base
            if tables.version() <= before.manifest.version:
                return tables.version() == before.manifest.version
            manifest = tables.manifest()
            needed = max(self._noted_applied, self.entries.complete_after)  # entries through this LSN are in a base only
            if manifest.applied < needed:
                if manifest.applied >= self._noted_applied and not tables.is_newest():
                    return False  # an older instant than entries were forgotten for
                raise StorageCorrupt(
                    f"the newest records are lost. path={self._directory} applied={manifest.applied} needed={needed}"
                )
            base = self._opened_base(load_base(self._directory, manifest, before, tables))
            if packed:
                for segment in base.to_be_packed():
                    self._pack(segment)
            folded: FoldedTail | None = None
            if self.times.is_read and self._tail.through < manifest.applied:
                folded, entries = FoldedTail.nothing_over(base.base), self.entries.now()
                if manifest.applied < self.entries.complete_after:
                    return False
                folded.fold(entries, tables)
            elif self.times.is_read:
                self._fold_one_by_one(tables)  # what is left to be folded keeps reads waiting
            with self._lock:
                entries = self.entries.now()
                if manifest.applied < self.entries.complete_after:
                    return False
                self.entries.drop_through(manifest.applied)
                tail = self._tail
                if tail.applied != manifest.applied:
                    tail = folded or self._tail_over(base.base)
                if self.times.is_read:
                    tail.fold(entries, tables)
                base.use_packed()
                self._use(base, tail)
                self._renewed_at = self._clock.monotonic()
            return True

    def _opened_base(self, base: Base) -> OpenBase:
        return OpenBase(base, self._row_cache.of_new_base())

    def _tail_over(self, base: Base) -> FoldedTail:
        """What is folded, over a newer base; nothing, where nothing is that it lacks, or nobody reads."""
        rebased = self._tail.over(base, self._base.base) if self.times.is_read else None
        return rebased or FoldedTail.nothing_over(base)

    # ---- ahead of reads

    def trim(self) -> int:
        """Forget entries that the tables hold by now; return the bytes of those that remain.

        Nothing is opened for that which nobody reads, nor kept level: the next read opens what there is then.
        """
        if self.entries:
            if not self._base.is_open:
                self._forget_applied()
            elif self.times.is_left:
                if self.release():
                    self._forget_applied()
            elif self.times.is_viewed or (
                self.times.is_kept_level and self._clock.monotonic() - self._renewed_at >= LEVEL_INTERVAL_SECONDS
            ):
                self.refresh()
            else:
                self._forget_applied()
        return self.entries.size_bytes

    def _forget_applied(self) -> None:
        """Forget entries that were applied, without their base: whoever reads next loads one that holds them."""
        if not self._loading.acquire(blocking=False):
            return
        try:
            manifest = self.published()
            if manifest is None or not manifest.version:
                return
            with self._lock:
                self.entries.drop_through(manifest.applied)
                is_open = self._base.is_open
                self._released = self._released or not is_open
                if not is_open or not self.times.is_read:  # what is folded would keep entries that nobody counts any more
                    self._tail, self._image = FoldedTail.nothing_over(self._base.base), None
        finally:
            self._loading.release()

    def make_ready(self) -> None:
        """Take the newest base, for whoever comes; its rows are packed afterwards."""
        self._readied_at = self._clock.monotonic()
        self.refresh()

    def refresh(self) -> None:
        """Take the newest base. Views go on with the one before meanwhile, unless entries beyond that were forgotten."""
        self._opened.touch(self)
        with self._in_background("refresh.failed"), self._connections.instant() as tables:
            self._again_at = self._clock.monotonic() + AGAIN_SECONDS
            if tables is not None:
                self._refresh(tables)
            self._again_at = -math.inf

    def _refresh(self, tables: RecordTables) -> None:
        """Of a base that is packed the next one is packed before it is taken: only what is new is left to be."""
        is_packed = self._base.is_packed and self._base.is_open
        try:
            self._renew(tables, packed=is_packed and self.times.is_searched)
        except StorageCorrupt:
            if tables.is_newest():
                raise

    def fold_ahead(self) -> None:
        """Fold and pack what has come since the last read, so that the next one need not.

        Reads wait for one entry at most.
        """
        with self._in_background("fold.failed"):
            self._fold_ahead()

    def _fold_ahead(self) -> None:
        self._goes_ahead = True
        try:
            with self._connections.instant() as tables:
                if tables is not None:
                    self._fold_one_by_one(tables)
            with self._lock:
                scan, (first, vectors) = self._tail.scan, self._tail.memtable.vectors()
            scan.pack(first, vectors)
        except BaseException:
            self.times.expect_no_read()  # whoever reads next will be told; nothing is tried before
            raise
        finally:
            self._goes_ahead = False

    def _fold_one_by_one(self, tables: RecordTables) -> None:
        """Fold the entries that wait now, those that may be, over the base that is open."""
        for entry in self.entries.now():
            with self._lock:
                if entry[0] <= self._tail.through:
                    continue
                if not self._suits(tables, newest=False):
                    return
                self._tail.fold((entry,), tables)

    def pack(self) -> None:
        """Pack the rows of a segment of the base. Searches go on with what is packed, and compare the others.

        When that fails, as with damaged vectors, this base's are not packed any more.
        """
        base = self._base
        with self._in_background("pack.failed"):
            try:
                for segment in base.to_be_packed()[:1]:
                    self._pack(segment)
            except BaseException:
                base.gave_up_packing = True
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
            if not self._base.is_packed:
                self._base.use_packed()
                self._image = None

    @contextmanager
    def _in_background(self, failed: str) -> Generator[None]:
        """Do what is done ahead of reads. What keeps it from being done is logged: whoever reads meets it, and is told."""
        try:
            yield
        except (StorageCorrupt, sqlite3.DatabaseError, UnicodeDecodeError, OSError) as error:
            self._failures.note(f"{failed} collection={self._directory.name}", error)
