"""The one writer of a process: drains an inbox into one transaction (group commit), then answers.

A request leaves a proposal and awaits the outcome. The writer takes the log's turn, knows the log to its end, decides each
proposal against the catalog, appends the accepted ones and commits once. One bad proposal fails alone. A caller that is
cancelled gives up its answer; what was proposed is appended whole or not at all.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from msgspec import Struct, field

from chroma_async.core.catalog import Catalog, Rows
from chroma_async.core.events import CatalogEvent, RecordsDeleted, RecordsHead, RecordsWritten, encode, signed
from chroma_async.engine.author import AUTHOR
from chroma_async.engine.failures import FailureLog
from chroma_async.engine.follower import Follower
from chroma_async.errors import (
    ChromaError,
    DirectoryReplacedError,
    InsufficientStorageError,
    LogConflict,
    LogError,
    PayloadTooLargeError,
    ResourceLimitError,
    UnavailableError,
)
from chroma_async.metrics import Metrics
from chroma_async.model import CollectionId, Lsn
from chroma_async.seams import Clock
from chroma_async.seams.limits import LimitError, check_room, is_over, limit_error
from chroma_async.wal import LogStore, NewEntry

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

BATCH_ENTRIES_MAX: Final = 256
BATCH_BYTES_MAX: Final = 32 * 2**20
ENTRY_BYTES_MAX: Final = 900 * 10**6
"""Of one entry. SQLite takes no row of a gigabyte, and says so when it is too late to refuse that write alone."""

logger = logging.getLogger("chroma_async.writer")


class Append(Struct, frozen=True):
    """One entry to be: what the catalog folds, and the bytes, encoded by whoever proposed it."""

    head: CatalogEvent | RecordsHead | RecordsDeleted
    payload: bytes
    collection: CollectionId | None
    operation_id: str | None = None

    @classmethod
    def of_catalog(cls, event: CatalogEvent) -> Append:
        return cls(event, encode(event), None)

    @classmethod
    def of_records(cls, event: RecordsWritten | RecordsDeleted, operation_id: str | None = None) -> Append:
        """Encode the event.

        Raises:
            PayloadTooLargeError: it is too large for one entry.
        """
        head, payload = event.head if isinstance(event, RecordsWritten) else event, encode(event)
        if len(payload) > ENTRY_BYTES_MAX:
            sizes = f"bytes={len(payload)} bytes_max={ENTRY_BYTES_MAX}"
            raise PayloadTooLargeError(f"a write is too large for one entry of the log; send fewer records at once. {sizes}")
        return cls(head, payload, head.collection, operation_id)


class Decision(Struct, Generic[R], frozen=True):
    """What a proposal comes to: entries, and the answer, given the LSN of its last entry (of the log's end for none)."""

    appends: Sequence[Append]
    answer: Callable[[Lsn], R]


def happened(*events: CatalogEvent) -> Decision[None]:
    """Decide that these happened to the catalog."""
    return Decision([Append.of_catalog(event) for event in events], lambda lsn: None)


class Proposal(Struct, Generic[R], eq=False):
    """A write that waits. `decide` is pure and may refuse by raising a ChromaError.

    `prepare` runs before it, with the log's turn held and everything known, when the decision needs to look at records.
    `author` is whoever the proposal was made for.
    """

    decide: Callable[[Catalog], Decision[R]]
    size_bytes: int = 0
    prepare: Callable[[], Awaitable[None]] | None = None
    repeats: Repeats[R] | None = None
    author: str | None = field(default_factory=AUTHOR.get)
    outcome: asyncio.Future[R] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Repeats(Protocol[R_co]):
    """What makes a write that is sent again the same write: entries have operation ids that begin with its `prefixes`."""

    @property
    def prefixes(self) -> Sequence[str]: ...

    def answer(self, known: Mapping[str, tuple[str, Lsn]]) -> R_co | None:
        """Return the answer once more; None where there was none, and the proposal is to be decided.

        `known` has the greatest operation id of each prefix that the log knows one of. Nothing is appended until then.

        Raises:
            ChromaError: it was another write, or is none any more.
        """
        ...


class OutcomeUnknown(Exception):
    """An append failed, and whether its entries are in the log, or safe, can't be told; the cause is what it met."""


class Writer:
    """Owns the appending side of a process's log.

    What the machine lacks (room, handles, memory) fails the calls that met it, and no later ones: each group tries anew, so
    writing resumes by itself. So does whatever else happens before an append. What is unexplained from there on stops the
    writer for good.
    """

    def __init__(
        self,
        log: LogStore,
        follower: Follower[Any],
        clock: Clock,
        metrics: Metrics,
        directory: Path,
        disk_reserve_bytes: int = 0,
        appended: Callable[[], None] = lambda: None,
    ) -> None:
        """`appended` is called after each append, before anybody is told of it."""
        self._log = log
        self._follower = follower
        self._clock = clock
        self._metrics = metrics
        self._directory = directory
        self._reserve_bytes = disk_reserve_bytes
        self._appended = appended
        self._failures = FailureLog(logger, directory)
        self._limit: LimitError | None = None
        self._limited_bytes = 0
        self._inbox: list[Proposal[Any]] = []
        self._work = asyncio.Event()
        self._refusal: str | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="chroma_async.writer")

    async def close(self) -> None:
        """Append what is waiting, then stop."""
        if self._task is None:
            return
        self._refusal = self._refusal or "the engine is stopping"
        self._work.set()
        task, self._task = self._task, None
        await task

    def abandon(self) -> None:
        """Stop at once; what waits is never answered."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    @property
    def refusal(self) -> str | None:
        """Why writes are refused until somebody does something; None while they are not."""
        if self._refusal is None:
            try:
                self._log.require_in_place()
            except DirectoryReplacedError as error:
                return error.message
        return self._refusal

    @property
    def limit(self) -> LimitError | None:
        """What the machine lacked for the last write; None when that was none, or seems to be there again."""
        if self._limit is not None and is_over(self._limit, self._directory, self._limited_bytes, self._reserve_bytes):
            self.note_limit(None)
        return self._limit

    def note_limit(self, limit: LimitError | None, size_bytes: int = 0) -> None:
        """Know, and tell, what the machine lacked for a write of so many bytes; None: nothing any more."""
        before, self._limit, self._limited_bytes = self._limit, limit, size_bytes
        reason = None if limit is None else limit.reason
        if before is not None and before.reason != reason:
            self._metrics.write_limit.labels(before.reason).set(0)
            logger.info("writes.resumed after=%s", before.reason)
        if limit is not None and (before is None or before.reason != reason):
            self._metrics.write_limit.labels(limit.reason).set(1)
            logger.warning("writes.refused reason=%s message=%r", reason, limit.message)

    async def submit(self, proposal: Proposal[R]) -> R:
        """Return the answer after the entries are durable.

        Raises:
            ChromaError: the proposal was refused.
            UnavailableError: the engine takes no writes.
        """
        if self._refusal is not None:
            raise UnavailableError(f"writes are refused: {self._refusal}")
        self._inbox.append(proposal)
        self._work.set()
        return await proposal.outcome

    async def _run(self) -> None:
        while self._task is not None or self._inbox:
            await self._work.wait()
            self._work.clear()
            while self._inbox:
                await self.process(self._take())

    def _take(self) -> list[Proposal[Any]]:
        """The next group: as many proposals as fit, or one alone that needs to look at records."""
        if self._inbox[0].prepare is not None:
            return [self._inbox.pop(0)]
        count = size = 0
        prefixes: set[str] = set()
        for proposal in self._inbox[:BATCH_ENTRIES_MAX]:
            size += proposal.size_bytes
            if proposal.prepare is not None or (count and size > BATCH_BYTES_MAX):
                break
            if proposal.repeats is not None:
                if not prefixes.isdisjoint(proposal.repeats.prefixes):
                    break  # it has to see what comes of the one before
                prefixes.update(proposal.repeats.prefixes)
            count += 1
        group, self._inbox = self._inbox[:count], self._inbox[count:]
        return group

    async def process(self, group: Sequence[Proposal[Any]]) -> None:
        """Decide, append, commit and answer one group."""
        size = _size_of(group)
        try:
            group = self._with_room(group, size)
            if not group:
                return
            size = _size_of(group)
            async with self._log.exclusive():
                answers = await self._append(group)
        except OutcomeUnknown as error:
            self._stop_writing(group, error.__cause__ or error)
        except Exception as error:
            limit = limit_error(error, self._directory)
            if limit is not None:
                self.note_limit(limit, size)
                self._fail(group, limit)
            elif isinstance(error, ChromaError):
                self._fail(group, error)
            elif isinstance(error, LogError) or type(error) is sqlite3.DatabaseError:
                self._refuse(group, "the log can't be read on", error)
            else:
                self._failures.note("write.failed", error)
                self._fail(group, UnavailableError(f"the write was not made, and may be sent again. reason={error!r}"))
        else:
            if size or self._limit is None:
                self.note_limit(None)
            for proposal, answer in answers:
                _resolve(proposal, answer)

    def _with_room(self, group: Sequence[Proposal[Any]], size: int) -> Sequence[Proposal[Any]]:
        """Those that the disk has room for: deletions and changes of the catalog always, so that room can be made."""
        if not size:
            return group
        try:
            check_room(self._directory, size, self._reserve_bytes)
        except InsufficientStorageError as limit:
            self.note_limit(limit, size)
            self._fail([proposal for proposal in group if proposal.size_bytes], limit)
            return [proposal for proposal in group if not proposal.size_bytes]
        return group

    async def _append(self, group: Sequence[Proposal[Any]]) -> list[tuple[Proposal[Any], Any]]:
        prefixes = [prefix for proposal in group if proposal.repeats is not None for prefix in proposal.repeats.prefixes]
        if not prefixes:
            return await self._append_new(group)
        known = await self._log.operations(prefixes)
        answers: list[tuple[Proposal[Any], Any]] = []
        new: list[Proposal[Any]] = []
        for proposal in group:
            answer = None if proposal.repeats is None else _answer_again(proposal.repeats, known)
            if answer is None:
                new.append(proposal)
            else:
                answers.append((proposal, answer))
        if any(not isinstance(answer, ChromaError) for _, answer in answers):
            await self._sync()  # who wrote it may not have fsynced it
        return answers + (await self._append_new(new) if new else [])

    async def _sync(self) -> None:
        try:
            await self._log.sync()
        except (InsufficientStorageError, ResourceLimitError):
            raise
        except Exception as error:
            raise OutcomeUnknown from error

    async def _append_new(self, group: Sequence[Proposal[Any]]) -> list[tuple[Proposal[Any], Any]]:
        while True:
            await self._follower.catch_up()
            for proposal in group:
                if proposal.prepare is not None:
                    try:
                        await proposal.prepare()
                    except Exception as error:
                        return [(proposal, error)]  # alone in its group; nothing was appended, so nothing is unknown
            draft = self._drafted(group)
            if not draft.entries:
                return draft.answers()
            try:
                with self._metrics.append_seconds.time():
                    first = await self._log.append(draft.entries, after=self._follower.position, rows=draft.rows)
            except LogConflict:
                continue
            except (InsufficientStorageError, ResourceLimitError):
                raise  # the log knows that it kept nothing
            except Exception as error:
                raise OutcomeUnknown from error
            try:
                self._appended()
                self._metrics.append_entries.observe(len(draft.entries))
                self._metrics.committed_lsn.set(first + len(draft.entries) - 1)
                self._follower.accept(first, [(entry.collection, entry.payload) for entry in draft.entries], draft.catalog)
            except Exception as error:
                raise OutcomeUnknown from error
            return draft.answers()

    def _drafted(self, group: Sequence[Proposal[Any]]) -> _Draft:
        """The transaction of a group.

        Proposals that turn out to be impossible only when they are carried out fail alone, too: what they may have changed
        of the catalog by then is thrown away with the draft.
        """
        failures: dict[int, Exception] = {}
        while True:
            draft = _Draft(self._follower.catalog.fork(), self._follower.position, self._clock.now_ns())
            for number, proposal in enumerate(group):
                try:
                    draft.add(proposal, failures.get(number))
                except Exception as error:
                    failures[number] = error
                    break
            else:
                return draft

    def _fail(self, group: Sequence[Proposal[Any]], error: ChromaError) -> None:
        for proposal in group:
            if not proposal.outcome.done():
                proposal.outcome.set_exception(error)

    def _stop_writing(self, group: Sequence[Proposal[Any]], error: BaseException) -> None:
        self._refuse(group, "an append failed in a way that leaves its outcome unknown", error)

    def stop_unsynced(self, error: BaseException) -> None:
        """An fsync failed: take no more writes. What was acknowledged before it may not be on disk."""
        self._refuse((), "the log could not be fsynced, so that its newest entries may be lost in a power cut", error)

    def _refuse(self, group: Sequence[Proposal[Any]], what: str, error: BaseException) -> None:
        """A stopped database is a good database compared with a guessing one."""
        self._refusal = f"{what}; restart to go on. reason={error!r}"
        logger.error("writer.stopped reason=%r", error)
        inbox, self._inbox = self._inbox, []
        self._fail([*group, *inbox], UnavailableError(f"writes are refused: {self._refusal}"))


def _size_of(group: Sequence[Proposal[Any]]) -> int:
    return sum(proposal.size_bytes for proposal in group)


def _answer_again(repeats: Repeats[Any], known: Mapping[str, tuple[str, Lsn]]) -> Any:
    try:
        return repeats.answer(known)
    except ChromaError as error:
        return error


class _Draft:
    """A transaction in the making."""

    def __init__(self, catalog: Catalog, position: Lsn, now_ns: int) -> None:
        self.catalog = catalog
        self.entries: list[NewEntry] = []
        self.rows: Rows = {}
        self._position = position
        self._now_ns = now_ns
        self._answers: list[tuple[Proposal[Any], Any]] = []

    def add(self, proposal: Proposal[Any], failure: Exception | None = None) -> None:
        """Let a proposal in, or note why not; one is known to fail.

        Raises:
            Exception: it can't be carried out, and the draft is of no use any more.
        """
        if failure is not None:
            self._answers.append((proposal, failure))
            return
        try:
            decision = proposal.decide(self.catalog)
        except Exception as error:  # it has changed nothing
            self._answers.append((proposal, error))
            return
        for append in decision.appends:
            self.rows.update(self.catalog.apply(append.head))
            payload = append.payload if proposal.author is None else signed(append.payload, proposal.author)
            self.entries.append(NewEntry(payload, self._now_ns, append.collection, append.operation_id))
        lsn = Lsn(self._position + len(self.entries))
        self._answers.append((proposal, decision.answer(lsn)))

    def answers(self) -> list[tuple[Proposal[Any], Any]]:
        return self._answers


def _resolve(proposal: Proposal[Any], answer: object) -> None:
    if proposal.outcome.done():
        return
    if isinstance(answer, Exception):
        proposal.outcome.set_exception(answer)
    else:
        proposal.outcome.set_result(answer)
