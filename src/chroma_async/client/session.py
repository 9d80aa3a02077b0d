"""What a client has written and seen, as an LSN: its reads see at least that, whichever server answers them."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from chroma_async.errors import NotYetVisibleError
from chroma_async.model import Lsn
from chroma_async.protocol import Call
from chroma_async.protocol.records import Reading

C = TypeVar("C", bound=Call[Any])


class Session:
    """The newest LSN that answers named. For any number of threads."""

    def __init__(self) -> None:
        self.lsn = Lsn(0)
        self._lock = threading.Lock()

    def saw(self, lsn: int | None) -> None:
        """Take note of an LSN that an answer named, or another client."""
        if lsn is not None and lsn > self.lsn:
            with self._lock:
                self.lsn = Lsn(max(self.lsn, lsn))

    def reading(self, call: C) -> C:
        """Return the call so that it sees what this client has seen; one of the applied records sees what is applied."""
        if isinstance(call, Reading) and not call.is_of_applied and self.lsn > (call.min_lsn or 0):
            return msgspec.structs.replace(call, min_lsn=self.lsn)
        return call

    def forget(self) -> None:
        """Begin anew."""
        with self._lock:
            self.lsn = Lsn(0)

    @contextmanager
    def forgetting(self) -> Generator[None]:
        """Begin anew where a read was told that the server has not seen what this client has: it may have another log."""
        try:
            yield
        except NotYetVisibleError:
            self.forget()
            raise
