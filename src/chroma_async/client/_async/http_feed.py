"""A feed of changes over HTTP: a response that goes on, a change on each line."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol, cast

import httpx
import orjson

from chroma_async.client.answers import Failure, read_failure
from chroma_async.client.pool import AsyncPool
from chroma_async.errors import ServerUnreachableError
from chroma_async.protocol.changes import LOG_HEADER, Change
from chroma_async.protocol.ingest import NDJSON


class Explain(Protocol):
    """Tells what it means that nothing more comes."""

    def __call__(self, error: httpx.RequestError, *, safe_to_repeat: bool) -> Failure: ...


class AsyncHttpFeed:
    """Reads changes off a response. Lines end with a line feed and nothing else: texts may hold other line separators."""

    def __init__(self, pool: AsyncPool, response: httpx.Response, explain: Explain) -> None:
        self._pool = pool
        self._response = response
        self._explain = explain
        self._pieces: AsyncIterator[bytes] = response.aiter_bytes()
        self._lines: deque[bytes] = deque()
        self._begun: list[bytes] = []

    @property
    def log(self) -> str | None:
        return cast("str | None", self._response.headers.get(LOG_HEADER))

    async def next(self) -> Change | None:
        """Return the next change; None: the server has ended the feed.

        Raises:
            ServerUnreachableError: the connection broke.
            ChromaError: the server says why the feed ends.
        """
        while not self._lines:
            try:
                piece = await anext(self._pieces)
            except StopAsyncIteration:
                return None
            except httpx.RequestError as error:
                raise self._explain(error, safe_to_repeat=True).error from error
            except httpx.StreamError:
                return None  # it was closed meanwhile
            self._take(piece)
        line = self._lines.popleft()
        try:
            return Change.from_json(line)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ServerUnreachableError(f"this is no feed of changes. line={line[:80]!r}") from error

    def _take(self, piece: bytes) -> None:
        *ended, rest = piece.split(b"\n")
        for line in ended:
            self._begun.append(line)
            whole = b"".join(self._begun)
            self._begun.clear()
            if whole:
                self._lines.append(whole)
        if rest:
            self._begun.append(rest)

    async def aclose(self) -> None:
        await self._pool.let_go(self._response)


async def opened_feed(pool: AsyncPool, response: httpx.Response, explain: Explain) -> AsyncHttpFeed:
    """Return the feed that a response is.

    Raises:
        ChromaError: it is none: the server, or a hop before it, refused.
    """
    if response.is_success and response.headers.get("content-type", "").startswith(NDJSON):
        return AsyncHttpFeed(pool, response, explain)
    try:
        await response.aread()
    except httpx.RequestError as error:
        raise explain(error, safe_to_repeat=True).error from error
    finally:
        await pool.let_go(response)
    if response.is_success:
        raise ServerUnreachableError(f"this is no feed of changes; check host and port. body={response.text[:80]!r}")
    raise read_failure(response, safe_to_repeat=True).error
