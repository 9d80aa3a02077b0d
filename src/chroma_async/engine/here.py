"""Reads that a thread answers itself, without a trip through the engine's event loop and a worker thread.

A sync caller waits for its answer anyway, and two trips between threads cost several times what a search costs. So when the
process knows the log to its end, the handler of a read runs in the caller's thread: it is the same handler, and nothing in
it has to wait. Whatever else there is to do, such as reading new entries of the log, is the event loop's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from chroma_async.engine.batch import QueryJob, search_alone
from chroma_async.engine.collection import CollectionReader
from chroma_async.engine.feed import Feeds
from chroma_async.engine.follower import Follower
from chroma_async.engine.handlers import HANDLERS
from chroma_async.engine.handlers.records import is_visible
from chroma_async.engine.progress import Progress
from chroma_async.engine.reads import DirectRunner
from chroma_async.engine.streams import Queues
from chroma_async.engine.writer import Writer
from chroma_async.errors import StorageCorrupt
from chroma_async.metrics import AnsweredElsewhere, Metrics
from chroma_async.model import CollectionId
from chroma_async.protocol import Call, CountRecords, GetIndexingStatus, GetRecords, QueryRecords
from chroma_async.protocol.records import Reading, RecordsCall
from chroma_async.protocol.results import QueryResult
from chroma_async.seams import InlineWorkers, Seams, Workers
from chroma_async.settings import EngineSettings
from chroma_async.wal import LogStore

if TYPE_CHECKING:
    from chroma_async.engine.engine import Engine

R = TypeVar("R")

READS: Final[frozenset[type[Call[Any]]]] = frozenset({CountRecords, GetIndexingStatus, GetRecords, QueryRecords})


class InlineBatcher:
    """Searches for one query at a time, in the caller's thread."""

    async def run(self, job: QueryJob) -> QueryResult:
        return search_alone(job)


class Here:
    """The engine as a handler sees it that runs in the caller's thread. Any number of threads may use it at once."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.workers: Workers = InlineWorkers()
        self._runner = DirectRunner()
        self._batcher = InlineBatcher()

    @property
    def settings(self) -> EngineSettings:
        return self.engine.settings

    @property
    def seams(self) -> Seams:
        return self.engine.seams

    @property
    def follower(self) -> Follower[CollectionReader]:
        return self.engine.follower

    @property
    def writer(self) -> Writer:
        return self.engine.writer

    @property
    def log(self) -> LogStore:
        return self.engine.log

    @property
    def progress(self) -> Progress:
        return self.engine.progress

    @property
    def metrics(self) -> Metrics:
        return self.engine.metrics

    @property
    def streams(self) -> Queues:
        return self.engine.streams

    @property
    def feeds(self) -> Feeds:
        return self.engine.feeds

    @property
    def is_ready(self) -> bool:
        return self.engine.is_ready

    def runner(self, collection_id: CollectionId) -> DirectRunner:
        return self._runner

    def batcher(self, collection_id: CollectionId) -> InlineBatcher:
        return self._batcher

    async def wait_for_room(self, collection_id: CollectionId, size_bytes: int) -> None:
        raise AssertionError("unreachable: reads need no room")

    def answer(self, call: Call[R]) -> tuple[R] | None:
        """Answer a read in this thread. None: it is no read, entries of the log are to be read first, or it failed in a way
        that the event loop has to look into.

        Raises:
            ChromaError: as `Engine.dispatch`.
        """
        engine = self.engine
        if type(call) not in READS or not engine.is_ready or not engine.is_level:
            return None
        collection_id = CollectionId(cast("RecordsCall[R]", call).collection_id)
        if collection_id not in engine.follower.sinks():
            return None
        with suppress(AnsweredElsewhere), engine.metrics.timed_call(type(call).__name__):
            call.validate()
            if isinstance(call, Reading) and not is_visible(self, call, collection_id):
                raise AnsweredElsewhere
            try:
                return (_run(cast("Coroutine[Any, Any, R]", HANDLERS[type(call)](self, call))),)
            except (StorageCorrupt, sqlite3.DatabaseError, UnicodeDecodeError, OSError) as error:
                raise AnsweredElsewhere from error
        return None


def _run(handler: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that never waits."""
    try:
        handler.send(None)
    except StopIteration as end:
        return cast("R", end.value)
    handler.close()
    raise AssertionError("a read waited for something")
