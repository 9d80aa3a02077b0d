"""Ending a connection at once, whatever its client has not taken yet: what ASGI has no word for."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

ABORT: Final[ContextVar[Callable[[], None] | None]] = ContextVar("chroma_async.abort", default=None)
"""Of the connection that a request came on; set by the HTTP servers, in the context of their requests' tasks."""


def abort() -> None:
    """Abort the connection of this request, and with it all that goes on there."""
    end = ABORT.get()
    if end is not None:
        end()
