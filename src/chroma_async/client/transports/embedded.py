"""Transports to an engine in this process. The engine and all it needs are imported when one is opened, not before."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from chroma_async.client.background import BackgroundLoop
from chroma_async.client.session import Session
from chroma_async.client.single import Single
from chroma_async.protocol import Call
from chroma_async.protocol.changes import Change, ChangeFeed, WatchCall
from chroma_async.settings import EngineSettings

R = TypeVar("R")

CLOSED = "this client is closed; open another one"
NOT_ASYNCIO = (
    "an embedded async client needs asyncio's event loop; under trio use AsyncHttpClient with a server, or the sync client "
    "in a thread"
)
ELSEWHERE = "an embedded client lives in the event loop that opened it, and ends with it; open another one in this loop"


class Engine(Protocol):
    """What answers calls."""

    @property
    def position(self) -> int:
        """LSN through which the engine knows the log."""
        ...

    async def dispatch(self, call: Call[R]) -> R: ...

    def answer_here(self, call: Call[R]) -> tuple[R] | None:
        """Answer a read in the caller's thread, whichever it is; None when only `dispatch` can."""
        ...


EngineOpener: TypeAlias = Callable[[], AbstractAsyncContextManager[Engine]]


def engine_opener(path: Path | None, settings: EngineSettings, *, compact: bool = True) -> EngineOpener:
    """Return what opens the engine of a directory, or an ephemeral one when `path` is None.

    Raises (when called):
        ImportError: the engine's dependencies are not installed; the message says how.
    """

    def opened() -> AbstractAsyncContextManager[Engine]:
        try:
            from chroma_async.engine import open_engine
        except ModuleNotFoundError as error:
            raise ImportError(
                f"an embedded client needs the engine: pip install 'chroma-async[server]'. missing={error.name}"
            ) from error
        return open_engine(path, settings, compact=compact)

    return opened


class AsyncEmbeddedFeed:
    """A feed of an engine in this loop."""

    def __init__(self, feed: ChangeFeed) -> None:
        self._feed = feed

    @property
    def log(self) -> str | None:
        return self._feed.identity

    async def next(self) -> Change | None:
        return await anext(self._feed, None)

    async def aclose(self) -> None:
        await self._feed.aclose()


class EmbeddedFeed:
    """A feed of an engine in a background loop."""

    def __init__(self, feed: ChangeFeed, background: BackgroundLoop, is_closed: Callable[[], bool]) -> None:
        """`is_closed` says whether the engine is gone, and the feed with it."""
        self._feed = feed
        self._background = background
        self._is_closed = is_closed

    @property
    def log(self) -> str | None:
        return self._feed.identity

    def next(self) -> Change | None:
        if self._is_closed():
            raise RuntimeError(CLOSED)

        async def following() -> Change | None:
            return await anext(self._feed, None)

        return self._background.call(following)

    def close(self) -> None:
        if not self._is_closed():
            self._background.call(self._feed.aclose)


class AsyncEmbeddedTransport(Single):
    """An engine in the loop of its caller.

    The engine is opened and closed by one task of ours, so that any task may be the first to call and any other may close.
    """

    def __init__(self, open_engine: EngineOpener) -> None:
        self._open_engine = open_engine
        self._stop = asyncio.Event()
        self._host: asyncio.Task[None] | None = None
        self._engine: asyncio.Future[Engine] | None = None
        self._closed = False
        self.session = Session()

    async def open(self) -> None:
        await self._opened()

    async def send(self, call: Call[R]) -> R:
        engine = await self._opened()
        with self.session.forgetting():
            result = await engine.dispatch(self.session.reading(call))
        self.session.saw(_lsn_of(call, result, engine))
        return result

    async def open_feed(self, call: WatchCall) -> AsyncEmbeddedFeed:
        return AsyncEmbeddedFeed(await self.send(call))

    async def aclose(self) -> None:
        host = self._host
        if host is not None and not host.done():
            self._require_own_loop(host)
        self._closed = True
        self._stop.set()
        if host is not None and not host.cancelled():
            await asyncio.shield(host)

    async def _opened(self) -> Engine:
        if self._closed:
            raise RuntimeError(CLOSED)
        if self._engine is None:
            loop = _running_loop()
            self._engine = loop.create_future()
            self._host = loop.create_task(self._run(self._engine), name="chroma-async-engine")
        self._require_own_loop(self._engine)
        if self._engine.done() and self._host is not None and self._host.done():
            if self._host.cancelled():
                raise RuntimeError(CLOSED)
            await self._host
        return await asyncio.shield(self._engine)

    @staticmethod
    def _require_own_loop(future: asyncio.Future[Any]) -> None:
        if future.get_loop() is not asyncio.get_running_loop():
            raise RuntimeError(ELSEWHERE)

    async def _run(self, opened: asyncio.Future[Engine]) -> None:
        """Hold the engine open until told to stop. A failure to open is the opener's to hear, and may be tried again."""
        try:
            async with self._open_engine() as engine:
                opened.set_result(engine)
                await self._stop.wait()
        except BaseException as error:
            if opened.done():
                raise
            self._engine = None
            if isinstance(error, asyncio.CancelledError):
                opened.cancel()
                raise
            opened.set_exception(error)


class EmbeddedTransport(Single):
    """An engine in a background loop, for callers in any number of threads. Most reads need only the caller's."""

    def __init__(self, open_engine: EngineOpener) -> None:
        self._open_engine = open_engine
        self._background = BackgroundLoop()
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._closed = False
        self.session = Session()

    def open(self) -> None:
        self._opened()

    def send(self, call: Call[R]) -> R:
        engine = self._opened()
        call = self.session.reading(call)
        answered = engine.answer_here(call)
        if answered is None:
            with self.session.forgetting():
                answered = self._background.call(_dispatch, engine, call)
        self.session.saw(_lsn_of(call, answered[0], engine))
        return answered[0]

    def open_feed(self, call: WatchCall) -> EmbeddedFeed:
        return EmbeddedFeed(self.send(call), self._background, lambda: self._closed)

    def close(self) -> None:
        with self._lock:
            self._closed, self._engine = True, None
        self._background.close()

    def _opened(self) -> Engine:
        self._background.check_process()
        with self._lock:
            if self._closed:
                raise RuntimeError(CLOSED)
            if self._engine is None:
                self._engine = self._background.hold(self._open_engine())
            return self._engine


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(NOT_ASYNCIO) from None


def _lsn_of(call: Call[Any], result: object, engine: Engine) -> int | None:
    """The LSN of an answer, as its header would say over HTTP."""
    return engine.position if call.writes_catalog else cast("int | None", getattr(result, "lsn", None))


async def _dispatch(engine: Engine, call: Call[R]) -> tuple[R]:
    return (await engine.dispatch(call),)
