"""The contract of a log, written once; every implementation passes the same suite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

from msgspec import Struct

from chroma_async.model import CollectionId, Lsn

Durability = Literal["commit", "interval", "off"]


class NewEntry(Struct, frozen=True):
    """What one accepted call appends: an encoded event, and the collection whose state it changes.

    `collection` is None for events of the catalog alone. `operation_id`, when given, makes a retry harmless.
    `time_ns` is the writer's clock, in nanoseconds since 1970.
    """

    payload: bytes
    time_ns: int
    collection: CollectionId | None = None
    operation_id: str | None = None


class Entry(Struct, frozen=True):
    """What one LSN holds. `payload` is None where it was freed: a projection holds its effect."""

    lsn: Lsn
    collection: CollectionId | None
    payload: bytes | None
    time_ns: int


class History(Struct, frozen=True):
    """Some entries in LSN order, and the LSN through which there are no others."""

    entries: list[Entry]
    through: Lsn


class Weight(Struct, frozen=True):
    """What the payloads of some neighbouring entries weigh together: those through `through`, as old as `time_ns`."""

    through: Lsn
    time_ns: int
    size_bytes: int


class CatalogRows(Struct, frozen=True):
    """The rows kept beside the log, and the LSN of the log in the same instant."""

    lsn: Lsn
    rows: Mapping[str, bytes]


class LogStore(Protocol):
    """A durable, totally ordered sequence of entries, and a small keyed state committed with them.

    A store is one partition: LSNs of two stores do not compare.

    1. LSNs are dense: the first entry has 1, each next one is one more. They are never reused, also after truncation
       and restart.
    2. `append` returns the LSN of the first entry after all of its entries and rows are durable at the configured
       level. All of them, or none. With `commit` that is after an fsync; with `interval` and `off` before it, and with
       `interval` who appends calls `sync` soon after. A log is shared by processes of different durability: what one
       of them commits with an fsync takes what was appended before to the disk with it.
    3. `append(after=n)` appends only if the log ends at n; else it changes nothing and raises `LogConflict`.
    4. A caller that is cancelled while it appends leaves all of the call or nothing of it, and the store usable.
    5. An append whose operation ids were all appended before, within the window, appends nothing and returns the
       LSN that the first of them has, whatever `after` says. One that mixes them with anything new is refused
       (`ValueError`): nobody but the caller can tell what of it is a retry. The window is 100,000 LSNs at least, and
       truncation does not shorten it.
    6. `read(after, through)` yields entries in LSN order, first the one that follows `after`, each whole, with its
       checksum verified (`LogCorrupt`). A missing LSN raises `LogHole`; it never skips silently. It ends with
       what was the newest entry when it began.
    7. Reading below the oldest kept entry raises `LogTruncated`, and reading on from beyond the newest `LogReset`.
    8. `barrier` returns an LSN at or above all that any process was told is appended, before the call. It is cheap:
       no I/O when nothing has happened.
    9. `exclusive` keeps every other writer, in this and in other processes, from appending while it is held; waiters
       are served one after another, without polling. A holder that dies releases it. It may be nested, and tasks
       that are started inside of it may append.
    10. An entry whose payload was freed is there without it, so that LSNs stay dense, until it is forgotten at the old end
       of the log. Both are for good, and done by whoever has the log as a `TruncatableLog`.
    11. `catalog` returns the rows and the LSN of one instant.
    12. `identity` is made once, at creation, and tells two logs apart.
    13. What was appended before `sync` survives a power cut after it, whatever the durability. Nothing may be derived
        and kept for good from an entry that is not that safe.
    14. While `pinned` is held, by whichever process, nothing is freed and forgotten. A holder that dies lets go.
        Appending goes on.
    15. `history` never skips: of a collection it raises `LogTruncated` when anything after the position was freed, in
        the same instant as it reads; of all collections it gives freed entries without payload, as `read` does.
    16. After `close`, every call raises `RuntimeError`, but another `close`.
    17. `go_on_after` makes up for an end that was lost: entries of no collection, without payload, have the LSNs up to
        there, and nothing else is ever given them. It changes nothing where the log has come so far.
    18. `require_in_place` raises `DirectoryReplacedError` while another log, or none, is where this one was opened, and so
        does whatever needs `exclusive`: its holder would be alone with a log that nobody else sees.
    """

    @property
    def identity(self) -> str: ...

    def require_in_place(self) -> None: ...

    async def append(
        self, entries: Sequence[NewEntry], *, after: Lsn, rows: Mapping[str, bytes | None] | None = None
    ) -> Lsn:
        """Append entries and change catalog rows (None deletes one), in one transaction.

        Raises:
            LogConflict: the log does not end at `after`; read on from there, decide again.
            ValueError: no entries, one operation id on two of them, or old and new operations in one append.
            InsufficientStorageError, ResourceLimitError: nothing was appended, for want of what the message says.
            OSError or the driver's error: nothing is known about the outcome; the caller must stop writing.
        """
        ...

    async def operations(self, prefixes: Sequence[str]) -> Mapping[str, tuple[str, Lsn]]:
        """Return, by prefix, the greatest operation id that begins so, of an entry within the window, and the entry's LSN.

        Greatest is the last in the order of the code points; a prefix that none begins with has no item.

        With the log's turn held, nothing is appended between the answer and an append.
        """
        ...

    async def go_on_after(self, lsn: Lsn) -> None:
        """Give the next entry an LSN above this one, which something that was derived from this log has.

        Raises:
            StorageCorrupt: more than `LOST_MAX` entries would be lost.
            InsufficientStorageError, ResourceLimitError: nothing was changed, for want of what the message says.
        """
        ...

    def exclusive(self) -> AbstractAsyncContextManager[None]: ...

    async def sync(self) -> None:
        """Make durable all that was appended before this call, by whichever process.

        Raises:
            InsufficientStorageError, ResourceLimitError: it was not begun; try again.
            OSError: it failed, and what of the log is on disk is not known.
        """
        ...

    def barrier(self) -> Lsn: ...

    def read(self, *, after: Lsn, through: Lsn | None = None) -> AsyncIterator[Entry]: ...

    async def history(self, collection: CollectionId | None, *, after: Lsn, bytes_max: int) -> History:
        """Return the next entries of a collection, or of the whole log: one at least, if there are any.

        Their payloads are `bytes_max` together at most, unless the first alone is more: then it comes alone.

        Raises:
            LogTruncated: something between `after` and what is kept was freed.
            LogReset, LogHole, LogCorrupt: as `read`.
        """
        ...

    async def catalog(self) -> CatalogRows: ...

    def pinned(self) -> AbstractAsyncContextManager[None]: ...

    async def noted_applied(self) -> Mapping[CollectionId, Lsn]:
        """The LSN through which a collection was noted as applied, ever: its projections must hold all up to there.

        `note_applied` notes it, and `truncate_collection`. It is at or above `freed_through`.
        """
        ...

    async def freed_through(self) -> Mapping[CollectionId, Lsn]:
        """The LSN of the newest entry of a collection whose payload was freed, ever, or is about to be: a history begins
        after it."""
        ...

    async def first_unapplied(self) -> Lsn:
        """LSN of the oldest entry that nobody has said is applied; one above the newest when there is none."""
        ...

    async def oldest(self) -> Lsn:
        """LSN of the oldest kept entry; one above the newest when none is kept."""
        ...

    async def weights(self) -> list[Weight]:
        """What the kept payloads weigh, oldest first; the last one is through the newest entry. None of an empty log."""
        ...

    async def size_bytes(self) -> int:
        """Bytes that the store takes on disk (0 for one in memory)."""
        ...

    async def close(self) -> None: ...


class TruncatableLog(LogStore, Protocol):
    """A log as those have it who free what was applied: the compactor, and a purge.

    While the log is pinned, what frees or notes changes nothing more and returns False; ask again later.
    """

    async def note_applied(self, collection: CollectionId, *, through: Lsn) -> bool:
        """Note that a collection was applied: its payloads up to there may be freed. `noted_applied` tells of it."""
        ...

    async def truncate_collection(self, collection: CollectionId, *, through: Lsn, keep_after: Lsn | None = None) -> bool:
        """Note that a collection was applied, free its payloads up to there, and forget the old end of the log.

        The old end is what has no payload, and entries of the catalog (collection None), whose effect its rows hold: all up
        to the first other entry, or to `keep_after` where that is given and comes first.
        """
        ...

    async def truncate(self, *, through: Lsn) -> bool:
        """Free what was noted as applied, of all collections up to there, and forget the old end up to there."""
        ...

    async def first_lost(self) -> Lsn | None:
        """The first of the LSNs that are kept whose entry was lost, as `go_on_after` made up for; None: there is none."""
        ...

    async def owners(self, lsns: Iterable[Lsn]) -> Mapping[Lsn, CollectionId | None]:
        """Whose the entries at these LSNs are, freed or not; what the log has forgotten, or does not have, is left out."""
        ...

    async def holding(self) -> frozenset[CollectionId]:
        """The collections of which a payload is kept, existing or deleted."""
        ...

    async def tidy(self) -> bool:
        """Give back what the store holds on disk for the next appends. For when there are none: one may have to wait.

        False: not all of it, since somebody was reading.
        """
        ...

    async def scrub(self) -> None:
        """Leave no bytes of freed entries on the disk.

        Raises:
            UnavailableError: somebody reads the log.
        """
        ...
