"""Where collections are read from or written to: a data directory, or a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from chroma_async.cli.console import fail
from chroma_async.cli.directory import require_directory
from chroma_async.client.split import halves
from chroma_async.errors import PayloadTooLargeError, RateLimitError
from chroma_async.model import Collection, address_of
from chroma_async.protocol import Call, GetRecords
from chroma_async.protocol.records import Include
from chroma_async.protocol.results import Columns

if TYPE_CHECKING:
    from chroma_async.client._async.http import AsyncHttpTransport
    from chroma_async.engine import Engine

R = TypeVar("R")
Headers = Mapping[str, str]

PAGE_ROWS: Final = 500
PATIENCE_SECONDS: Final = 1.0
EVERYTHING: Final[tuple[Include, ...]] = ("embeddings", "documents", "metadatas", "uris")


class Place(Protocol):
    """What answers calls, and gives all records of a collection, in insertion order."""

    async def send(self, call: Call[R]) -> R: ...

    def pages(self, collection: Collection) -> AsyncGenerator[Columns]: ...


@dataclass(frozen=True, slots=True)
class Directory:
    """A data directory, opened in this process, beside others. Pages are of one instant."""

    engine: Engine

    async def send(self, call: Call[R]) -> R:
        while True:
            try:
                return await self.engine.dispatch(call)
            except RateLimitError:  # the compactor is behind; nothing was done
                await asyncio.sleep(PATIENCE_SECONDS)
            except PayloadTooLargeError:
                parts = halves(call)
                if not parts:
                    raise
                *before, last = parts
                for part in before:
                    await self.send(part)
                call = last

    def pages(self, collection: Collection) -> AsyncGenerator[Columns]:
        from chroma_async.engine.handlers.records import all_columns

        return all_columns(self.engine.context, collection, PAGE_ROWS)


@dataclass(frozen=True, slots=True)
class Server:
    """A server, ours or Chroma's. Its ids are those of one instant; what is deleted meanwhile is left out.

    Paging by offset would pass over a record for each one that is deleted before it.
    """

    transport: AsyncHttpTransport

    async def send(self, call: Call[R]) -> R:
        return await self.transport.send(call)

    async def pages(self, collection: Collection) -> AsyncGenerator[Columns]:
        ids = (await self.send(GetRecords(**address_of(collection), include=()))).columns.ids
        for first in range(0, len(ids), PAGE_ROWS):
            yield await self._page(collection, ids[first : first + PAGE_ROWS])

    async def _page(self, collection: Collection, ids: list[str]) -> Columns:
        return (await self.send(GetRecords(**address_of(collection), ids=ids, include=EVERYTHING))).columns


def open_place(path: Path | None, url: str | None, headers: Headers | None = None, *, create: bool = False) -> _Opener:
    """Return what opens a place: a directory, which must exist unless `create`, or the server at a URL; not both."""
    if (path is None) == (url is None):
        fail("name a data directory, or a server with --url" + (", not both." if url else "."))
    if url is not None:
        return _server(url, headers or {})
    assert path is not None
    if not create:
        require_directory(path)
    return _directory(path, compact=create)


_Opener = AbstractAsyncContextManager[Place]


@asynccontextmanager
async def _directory(path: Path, *, compact: bool) -> AsyncGenerator[Place]:
    from chroma_async.engine import open_engine

    async with open_engine(path, compact=compact) as engine:
        yield Directory(engine)


@asynccontextmanager
async def _server(url: str, headers: Headers) -> AsyncGenerator[Place]:
    from chroma_async.client._async.http import AsyncHttpTransport
    from chroma_async.client.address import parse_address
    from chroma_async.client.options import chosen_limits, chosen_timeout
    from chroma_async.client.retry import RetryPolicy
    from chroma_async.client.settings import Settings

    transport = AsyncHttpTransport(
        parse_address(url),
        headers=headers,
        timeout=chosen_timeout(None),
        retry=RetryPolicy(retries=8),
        limits=chosen_limits(None, Settings()),
    )
    try:
        yield Server(transport)
    finally:
        await transport.aclose()
