"""The table from call to handler, and what a handler may use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct

from chroma_async.core.catalog import Catalog
from chroma_async.engine.batch import QueryJob
from chroma_async.engine.collection import CollectionReader
from chroma_async.engine.feeds import Feeds
from chroma_async.engine.follower import Follower
from chroma_async.engine.progress import Progress
from chroma_async.engine.reads import ReadRunner
from chroma_async.engine.streams import Queues
from chroma_async.engine.writer import Writer
from chroma_async.errors import NotFoundError
from chroma_async.metrics import Metrics
from chroma_async.model import Collection, CollectionId
from chroma_async.protocol import Call
from chroma_async.protocol.results import QueryResult
from chroma_async.protocol.validation import parse_collection_id
from chroma_async.seams import Seams, Workers
from chroma_async.settings import EngineSettings
from chroma_async.wal import LogStore

R = TypeVar("R")
C = TypeVar("C", bound=Call[Any])


class Batcher(Protocol):
    """Where queries of one collection are searched."""

    async def run(self, job: QueryJob) -> QueryResult: ...


class Context(Struct, frozen=True, kw_only=True):
    """The engine as its handlers see it."""

    settings: EngineSettings
    seams: Seams
    workers: Workers
    follower: Follower[CollectionReader]
    writer: Writer
    log: LogStore
    progress: Progress
    metrics: Metrics
    streams: Queues
    feeds: Feeds
    is_ready: Callable[[], bool]
    """Whether it has recovered, and is not stopping."""
    runner: Callable[[CollectionId], ReadRunner]
    """Where a collection's reads run."""
    batcher: Callable[[CollectionId], Batcher]
    """Where a collection's queries are searched."""
    before_write: Callable[[CollectionId, int | None], Awaitable[None]]
    """See that entries of a collection, with vectors of a dimension (None: with none), will be applied: awaited before any
    is proposed."""
    wait_for_room: Callable[[CollectionId, int], Awaitable[None]]
    """Wait until so many bytes more may wait to be applied."""


Handler = Callable[[Context, Any], Awaitable[Any]]

HANDLERS: Final[dict[type[Call[Any]], Handler]] = {}


def handles(
    call: type[Call[R]],
) -> Callable[[Callable[[Context, Any], Awaitable[R]]], Callable[[Context, Any], Awaitable[R]]]:
    """Register the function that answers a call; its result is of the call's type."""

    def register(function: Callable[[Context, Any], Awaitable[R]]) -> Callable[[Context, Any], Awaitable[R]]:
        assert call not in HANDLERS
        HANDLERS[call] = function
        return function

    return register


class RecordsAddress(Protocol):
    """A call that names a collection within its tenant and database."""

    @property
    def tenant(self) -> str: ...
    @property
    def database(self) -> str: ...
    @property
    def collection_id(self) -> str: ...


def require_collection(catalog: Catalog, call: RecordsAddress) -> Collection:
    """Return the collection of a call, if it belongs to the tenant and database of its path.

    Raises:
        NotFoundError: there is none, or it is somebody else's.
    """
    collection = catalog.collection(parse_collection_id(call.collection_id))
    if collection is None or (collection.tenant, collection.database) != (call.tenant, call.database):
        raise NotFoundError(f"Collection [{call.collection_id}] does not exist.")
    return collection
