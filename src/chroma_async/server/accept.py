"""Accept connections so that workers share them.

Workers wait on one listening socket. An event loop that wakes takes all connections that wait there, so a whole pool of a
client ends up with one worker while the others idle. Here a worker takes one at a time, and pauses after it the longer, the
more it has: who has fewer is there first.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

PAUSE_SECONDS: Final = 0.0003
"""For each connection that the worker has open, up to `PAUSES_MAX` of them."""

PAUSES_MAX: Final = 8

RETRY_SECONDS: Final = 0.01
"""After a refused accept: without descriptors, trying at once would only burn the processor."""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FairServer:
    """Stands where `asyncio.start_server` puts its server: accepts until it is closed; open connections go on."""

    def __init__(self, serve: Serve, listening: socket.socket) -> None:
        self._serve = serve
        self._listening = listening
        self._open = 0
        self._accepting = asyncio.create_task(self._accept(), name="chroma_async.accept")

    def close(self) -> None:
        self._accepting.cancel()

    async def wait_closed(self) -> None:
        with suppress(asyncio.CancelledError):
            await self._accepting
        self._listening.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        self._listening.setblocking(False)
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listening)
            except OSError:  # the client left already, or there are no descriptors for now
                await asyncio.sleep(RETRY_SECONDS)
                continue
            with suppress(OSError):
                await loop.connect_accepted_socket(self._protocol, connection)
            await asyncio.sleep(PAUSE_SECONDS * min(self._open, PAUSES_MAX))

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), self._counted)

    async def _counted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            await self._serve(reader, writer)
        finally:
            self._open -= 1


async def start_server(serve: Serve, *, sock: socket.socket, **_: Any) -> FairServer:
    """Take the arguments of `asyncio.start_server` that a plain socket needs."""
    return FairServer(serve, sock)
