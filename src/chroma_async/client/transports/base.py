"""What a client asks of a transport."""

from __future__ import annotations

from typing import Protocol, TypeVar

from chroma_async.client.session import Session
from chroma_async.protocol import Call

R = TypeVar("R")


class AsyncTransport(Protocol):
    """Answers calls.

    1. `send` returns the result of the call, or raises one of `chroma_async.errors`.
    2. `send` may be called by many tasks at once, and without `open`, which it then does itself.
    3. `aclose` may be called twice; after it, `send` raises.
    4. A read sees at least what `session` has seen.
    """

    session: Session

    async def open(self) -> None: ...

    async def send(self, call: Call[R]) -> R: ...

    async def aclose(self) -> None: ...


class Transport(Protocol):
    """The same for threads."""

    session: Session

    def open(self) -> None: ...

    def send(self, call: Call[R]) -> R: ...

    def close(self) -> None: ...
