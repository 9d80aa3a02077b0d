"""The change feed: where a feed begins, and whether it can."""

from __future__ import annotations

from contextlib import suppress

from chroma_async.engine.changes import CollectionChanges, DatabaseChanges, Source, gone
from chroma_async.engine.feed import Feed
from chroma_async.engine.handlers.registry import Context, handles, require_collection
from chroma_async.errors import LogCorrupt, LogTruncated, NotFoundError, UnavailableError
from chroma_async.model import Lsn
from chroma_async.protocol import WatchCollection, WatchDatabase
from chroma_async.protocol.changes import ChangeFeed, parse_cursor, parse_lsn


def _source(context: Context) -> Source:
    if context.feeds.is_stopped:
        raise UnavailableError("the server is stopping")
    return Source(context.log, context.follower, context.workers, context.seams.clock, context.feeds)


@handles(WatchCollection)
async def watch_collection(context: Context, call: WatchCollection) -> ChangeFeed:
    source = _source(context)
    collection = require_collection(context.follower.catalog, call)
    _check_log(context, call.log)
    position = None if call.snapshot == "true" else context.follower.position
    if call.after is not None:
        oldest = (await context.log.freed_through()).get(collection.id, Lsn(0))
        position = await _position(context, parse_lsn(call.after), oldest)
    changes = CollectionChanges(source, collection, call.choice(), position)
    return Feed(source.feeds, source.log.identity, changes)


@handles(WatchDatabase)
async def watch_database(context: Context, call: WatchDatabase) -> ChangeFeed:
    source, catalog = _source(context), context.follower.catalog
    if catalog.database(call.tenant, call.database) is None:
        raise NotFoundError(f"Database [{call.database}] not found.")
    _check_log(context, call.log)
    position = None if call.snapshot == "true" else context.follower.position
    if call.after is not None:
        after, identity = parse_cursor(call.after)
        _check_log(context, identity)
        position = await _position(context, after, await _oldest_of_database(context, call))
    changes = DatabaseChanges(source, call.tenant, call.database, call.choice(), position)
    return Feed(source.feeds, source.log.identity, changes)


async def _oldest_of_database(context: Context, call: WatchDatabase) -> Lsn:
    """The LSN after which nothing is missing of the database, or of what there is in the log of its catalog."""
    freed_through = await context.log.freed_through()
    collections = context.follower.catalog.collections(call.tenant, call.database)
    freed = max((freed_through.get(item.id, Lsn(0)) for item in collections), default=Lsn(0))
    return max(freed, Lsn(await context.log.oldest() - 1))


async def _position(context: Context, after: Lsn, oldest: Lsn) -> Lsn:
    """Where to go on. 0 means the oldest that is kept.

    Raises:
        GoneError: something is missing between the position and what is kept; or the log ends before it.
    """
    if after > context.follower.position:
        await _look_at_the_end(context, after)
    newest = context.follower.position
    if after > newest:
        raise gone(f"the log ends before it. after={after} newest={newest}")
    if after and after < oldest:
        raise gone(f"after={after} oldest={oldest}")
    return max(after, oldest)


async def _look_at_the_end(context: Context, wanted: Lsn) -> None:
    """Know what is committed. A feed of another process may have given it before its writer has told of it."""
    with suppress(LogTruncated, LogCorrupt):  # to be found, and dealt with, by whoever catches up
        async for _ in context.log.read(after=context.follower.position, through=wanted):
            pass  # the log remembers how far it has seen
    await context.follower.catch_up()


def _check_log(context: Context, identity: str | None) -> None:
    if identity is not None and identity != context.log.identity:
        raise gone(f"this is another log, such as that of a restored backup. log={context.log.identity}")
