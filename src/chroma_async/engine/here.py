"""Reads that a thread answers itself, without a trip through the engine's event loop and a worker thread.

A sync caller waits for its answer anyway, and two trips between threads cost several times what a search costs. So when the
process knows the log to its end, the handler of a read runs in the caller's thread: it is the same handler, and nothing in
it has to wait. Whatever else there is to do, such as reading new entries of the log, is the event loop's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar, cast

from msgspec.structs import replace

from chroma_async.engine.batch import QueryJob, search_alone
from chroma_async.engine.handlers import HANDLERS
from chroma_async.engine.handlers.records import is_visible
from chroma_async.engine.handlers.registry import Context
from chroma_async.engine.reads import DirectRunner
from chroma_async.errors import StorageCorrupt
from chroma_async.metrics import AnsweredElsewhere
from chroma_async.model import CollectionId
from chroma_async.protocol import Call, CountRecords, GetIndexingStatus, GetRecords, QueryRecords
from chroma_async.protocol.records import Reading, RecordsCall
from chroma_async.protocol.results import QueryResult
from chroma_async.seams import InlineWorkers

R = TypeVar("R")

READS: Final[frozenset[type[Call[Any]]]] = frozenset({CountRecords, GetIndexingStatus, GetRecords, QueryRecords})


class InlineBatcher:
    """Searches for one query at a time, in the caller's thread."""

    async def run(self, job: QueryJob) -> QueryResult:
        return search_alone(job)


RUNNER: Final = DirectRunner()
BATCHER: Final = InlineBatcher()


class Here:
    """Answers in the caller's thread. Any number of threads may use it at once."""

    def __init__(self, context: Context) -> None:
        self._context = replace(
            context, workers=InlineWorkers(), runner=_runner, batcher=_batcher, wait_for_room=_unreachable
        )

    def answer(self, call: Call[R]) -> tuple[R] | None:
        """Answer a read in this thread. None: it is no read, entries of the log are to be read first, or it failed in a way
        that the event loop has to look into.

        Raises:
            ChromaError: as `Engine.dispatch`.
        """
        context = self._context
        follower = context.follower
        if type(call) not in READS or not context.is_ready() or follower.position < context.log.barrier():
            return None
        collection_id = CollectionId(cast("RecordsCall[R]", call).collection_id)
        if collection_id not in follower.sinks():
            return None
        with suppress(AnsweredElsewhere), context.metrics.timed_call(type(call).__name__):
            call.validate()
            if isinstance(call, Reading) and not is_visible(context, call, collection_id):
                raise AnsweredElsewhere
            try:
                return (_run(cast("Coroutine[Any, Any, R]", HANDLERS[type(call)](context, call))),)
            except (StorageCorrupt, sqlite3.DatabaseError, UnicodeDecodeError, OSError) as error:
                raise AnsweredElsewhere from error
        return None


def _runner(collection_id: CollectionId) -> DirectRunner:
    return RUNNER


def _batcher(collection_id: CollectionId) -> InlineBatcher:
    return BATCHER


async def _unreachable(collection_id: CollectionId, size_bytes: int) -> None:
    raise AssertionError("reads need no room")


def _run(handler: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that never waits."""
    try:
        handler.send(None)
    except StopIteration as end:
        return cast("R", end.value)
    handler.close()
    raise AssertionError("a read waited for something")
