"""Accept connections so that workers share them.

Workers wait on one listening socket. An event loop that wakes takes all connections that wait there, so a whole pool of a
client ends up with one worker while the others idle; and who is at work anyway is there before who has to be woken. Here a
worker takes one connection at a time, and leaves it for a while to one that has less to do, as long as there is such a one.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, cast

from chroma_async.server.listen import LISTEN_BACKLOG
from chroma_async.server.loads import Said
from chroma_async.server.tls import HANDSHAKE_SECONDS, ServerContext
from chroma_async.server.transport import HeldTransport
from chroma_async.server.workload import Workload

PAUSE_SECONDS: Final = 0.0003
"""How long a connection is left to a worker that has less to do, for each connection that it has less, up to `FEW`."""

FEW: Final = 8

PATIENCE_SECONDS: Final = 0.25
"""The same for one that has much less to do. It has to be woken, and on a busy machine to wait for a processor: beside an
ingest stream for a tenth of a second now and then. Whose connection went to the worker of the stream instead would wait for
seconds, until that has packed what the other one has packed already."""

LOOK_SECONDS: Final = 0.001
"""Between looks whether somebody has taken the connection; uvloop knows no part of a millisecond."""

RETRY_SECONDS: Final = 0.01
"""After a refused accept: without descriptors, trying at once would only burn the processor."""

FIRST_REQUEST_SECONDS: Final = 1.0
"""From a stop on, how long a connection without a request so far may take to begin one: its client knows of no stop."""

READ_BYTES: Final = 256 * 1024
"""What is read of a body in chunks at a time, as much as `asyncio` takes from a socket: each piece costs its way through all
layers."""

HEAD_BYTES_MAX: Final = 64 * 1024
"""Of a request's line and headers."""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FairServer:
    """Accepts connections until it is closed; those that are open go on.

    It stands where `asyncio.start_server` or `loop.create_server` put their server. `make` makes a connection's protocol,
    which tells `load` that it is open.
    """

    def __init__(
        self,
        make: Callable[[], asyncio.BaseProtocol],
        listening: socket.socket,
        load: Workload,
        tls: ServerContext | None = None,
    ) -> None:
        self._make = make
        self._tls = tls
        self._handshakes: set[asyncio.Task[None]] = set()
        self._load = load
        self._listening = listening
        self._listening.setblocking(False)
        self._is_closing = False
        self._last: list[socket.socket] = []
        """Connections that waited when this was closed."""
        self._absent: Said | None = None
        """What somebody has said who did not come: until it says something else, it is not waited for so long again."""
        self._readable: asyncio.Future[None] | None = None
        self._accepting = asyncio.create_task(self._accept(), name="chroma_async.accept")

    def close(self) -> None:
        """Accept those that wait, and then no more. A connection that has been accepted is not given up.

        The loop forgets the socket at once: who called this may close it.
        """
        self._is_closing = True
        self._load.leave()
        if self._tls is None:  # else they are closed: they would not have the time for a handshake
            for _ in range(LISTEN_BACKLOG):
                try:
                    self._last.append(self._listening.accept()[0])
                except BlockingIOError:
                    break
                except OSError:  # that client has left
                    continue
        if self._readable is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            _settle(self._readable)

    async def wait_closed(self) -> None:
        for handshake in self._handshakes:
            handshake.cancel()
        await self._accepting
        self._listening.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        self._load.count()
        while not self._is_closing:
            await self._until_readable(loop)
            if not await self._has_turn(loop) or self._is_closing:
                continue
            try:
                connection, _ = self._listening.accept()
            except BlockingIOError:  # another worker was there first
                continue
            except OSError:  # the client left already, or there are no descriptors for now
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if self._tls is None:
                await self._begin(connection)
            else:
                connection.setblocking(False)
                handshake = asyncio.create_task(self._shake_hands(connection, self._tls))
                self._handshakes.add(handshake)
                handshake.add_done_callback(self._handshakes.discard)
        for connection in self._last:
            await self._begin(connection)

    async def _begin(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(self._make, connection)

    async def _has_turn(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Leave the connection that waits to one that has less to do; return whether it has not taken it in time."""
        began = loop.time()
        while (ahead := self._load.ahead) > 0:
            is_long = ahead > FEW and self._load.least != self._absent
            if loop.time() - began >= (PATIENCE_SECONDS if is_long else PAUSE_SECONDS * min(ahead, FEW)):
                if is_long:
                    self._absent = self._load.least
                break
            await asyncio.sleep(LOOK_SECONDS)
            if self._is_closing or not self._is_readable():
                return False
        return True

    def _is_readable(self) -> bool:
        poll = select.poll()
        poll.register(self._listening, select.POLLIN)
        return bool(poll.poll(0))

    async def _until_readable(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for a connection, or for the end. `loop.sock_accept` can't be ended without losing one that is there."""
        self._readable = readable = loop.create_future()
        loop.add_reader(self._listening, _settle, readable)
        try:
            await readable
        finally:
            self._readable = None
            if not self._is_closing:
                loop.remove_reader(self._listening)

    async def _shake_hands(self, connection: socket.socket, tls: ServerContext) -> None:
        """Begin TLS, while others are accepted: a client may be slow, or speak something else."""
        loop = asyncio.get_running_loop()
        self._load.count(connections=1)  # its protocol does so afterwards
        try:
            tls.refresh()
            with suppress(OSError):
                await loop.connect_accepted_socket(self._make, connection, ssl=tls, ssl_handshake_timeout=HANDSHAKE_SECONDS)
        finally:
            self._load.count(connections=-1)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class StreamProtocol(asyncio.StreamReaderProtocol):
    """A connection's streams, of which the one that writes holds back until the end of the loop's turn."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._held = HeldTransport(cast("asyncio.Transport", transport), asyncio.get_running_loop())
        super().connection_made(cast("asyncio.Transport", self._held))

    def data_received(self, data: bytes) -> None:
        self._held.has_heard = True
        super().data_received(data)


async def start_server(
    load: Workload, serve: Serve, *, sock: socket.socket, ssl: ServerContext | None = None, **_: Any
) -> FairServer:
    """Take the arguments of `asyncio.start_server` that matter here."""

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        load.count(connections=1)
        try:
            await serve(reader, writer)
        except asyncio.CancelledError:  # at the server's end; asyncio would log what is cancelled as a failure
            writer.close()
        finally:
            load.count(connections=-1)

    def make() -> StreamProtocol:
        return StreamProtocol(asyncio.StreamReader(limit=READ_BYTES), counted)

    return FairServer(make, sock, load, ssl)
