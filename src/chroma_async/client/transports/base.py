"""What a client asks of a transport."""

from __future__ import annotations

from typing import Protocol, TypeVar

from chroma_async.client.session import Session
from chroma_async.protocol import Call
from chroma_async.protocol.changes import Change, WatchCall

R = TypeVar("R")


class AsyncOpenFeed(Protocol):
    """A feed that is open. `log` is the identity of the log that it reads. Who waits while it is closed may be told late."""

    @property
    def log(self) -> str | None: ...

    async def next(self) -> Change | None:
        """Return the next change; None: the feed has ended."""
        ...

    async def aclose(self) -> None: ...


class OpenFeed(Protocol):
    """The same for threads."""

    @property
    def log(self) -> str | None: ...

    def next(self) -> Change | None: ...

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """Answers calls.

    1. `send` returns the result of the call, or raises one of `chroma_async.errors`.
    2. `send` may be called by many tasks at once, and without `open`, which it then does itself.
    3. `open_feed` returns a feed, as `send` returns a result; it reads nothing of it.
    4. `aclose` may be called twice; after it, `send` raises.
    5. A read sees at least what `session` has seen.
    """

    session: Session

    async def open(self) -> None: ...

    async def send(self, call: Call[R]) -> R: ...

    async def open_feed(self, call: WatchCall) -> AsyncOpenFeed: ...

    async def aclose(self) -> None: ...


class Transport(Protocol):
    """The same for threads."""

    session: Session

    def open(self) -> None: ...

    def send(self, call: Call[R]) -> R: ...

    def open_feed(self, call: WatchCall) -> OpenFeed: ...

    def close(self) -> None: ...
