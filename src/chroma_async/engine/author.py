"""Who writes: known to a server that authenticates its callers, and kept with each entry that they cause."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

AUTHOR: Final[ContextVar[str | None]] = ContextVar("chroma_async.author", default=None)
"""The name of whoever the calls of this task or thread are for; None where nobody is known, as in an embedded client."""
