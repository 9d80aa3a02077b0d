"""All records of a collection, page by page, as of one instant: what copies of it are made from."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import TypeVar

from chroma_async.engine.collection import CollectionReader
from chroma_async.engine.follower import Follower
from chroma_async.engine.read_view import View
from chroma_async.model import CollectionId, Slots
from chroma_async.seams import Workers

T = TypeVar("T")


@asynccontextmanager
async def view_of_now(
    follower: Follower[CollectionReader], workers: Workers, collection_id: CollectionId
) -> AsyncGenerator[View]:
    """A read view of all that was acknowledged before, by whichever process. It stays open as long as it is read."""
    await follower.catch_up()
    reader = follower.sink(collection_id)
    with ExitStack() as stack:
        yield await workers.run(lambda: stack.enter_context(reader.view()))


async def pages(workers: Workers, view: View, rows: int, read: Callable[[View, Slots], T]) -> AsyncGenerator[T]:
    """What `read` makes of the records of a view, `rows` at a time in insertion order; it runs in worker threads.

    One page at least, which may be empty.
    """
    slots = view.slots(None, None, "include")
    for first in range(0, max(1, len(slots)), rows):
        yield await workers.run(partial(read, view, slots[first : first + rows]))
