"""Writing an answer at once, and not for ever."""

from __future__ import annotations

import asyncio
from typing import Any, Final

JOIN_BYTES_MAX: Final = 64 * 1024
"""Above this, copying into one piece costs more than handing over several."""


STALL_SECONDS: Final = 60.0
"""A client that has not taken all of an answer, and for so long neither takes nor sends anything, is let go."""


class HeldTransport:
    """A transport that writes together what is written in one turn of the loop: an answer's head and its body.

    HTTP servers write them one by one. Each is a system call and a packet that wakes the client, which together take longer
    than all else that is done for a small request.

    What a client does not take stays in memory, also when the connection is to be closed. So it is aborted when it stalls.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._written_bytes = 0
        self._watching = False
        self.has_heard = False
        """Whether something was received: set by the protocol."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not data:
            return
        if not self._held:
            self._loop.call_soon(self._write)
        self._held.append(data)
        self._held_bytes += len(data)

    def write_eof(self) -> None:
        self._write()
        self._transport.write_eof()

    def close(self) -> None:
        self._write()
        self._transport.close()

    def _write(self) -> None:
        if not self._held:
            return
        held, size = self._held, self._held_bytes
        self._written_bytes += size
        self._held, self._held_bytes = [], 0
        if self._transport.is_closing():
            return
        if size > JOIN_BYTES_MAX:
            self._transport.writelines(held)
        else:
            self._transport.write(b"".join(held))
        if not self._watching and (left := self._transport.get_write_buffer_size()):
            self._watch(self._written_bytes - left)

    def _watch(self, taken_bytes: int) -> None:
        self._watching, self.has_heard = True, False
        self._loop.call_later(STALL_SECONDS, self._look, taken_bytes)

    def _look(self, before: int) -> None:
        left = self._transport.get_write_buffer_size()
        taken = self._written_bytes - left
        if not left:
            self._watching = False
        elif taken > before or self.has_heard:
            self._watch(taken)
        else:
            self._transport.abort()
