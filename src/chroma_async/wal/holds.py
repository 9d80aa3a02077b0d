"""Who is inside of `exclusive`, so that it can be nested, and an append inside of it does not wait for itself."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_inside: ContextVar[tuple[object, ...]] = ContextVar("chroma_async_log_holds", default=())


class Holds:
    """The one hold on a log at a time, as seen by the code that runs inside of it.

    Tasks that are started inside a hold are inside of it too, while it lasts. That makes
    `asyncio.wait_for(log.append(...))` under `exclusive` work, which runs in a task of its own.
    """

    def __init__(self) -> None:
        self._current: object | None = None

    def inside(self) -> bool:
        return self._current is not None and self._current in _inside.get()

    @contextmanager
    def entered(self) -> Generator[None]:
        """Mark the running code as the holder. Only for who has the lock."""
        hold = self._current = object()
        _inside.set((*_inside.get(), hold))
        try:
            yield
        finally:
            self._current = None
            _inside.set(tuple(other for other in _inside.get() if other is not hold))
