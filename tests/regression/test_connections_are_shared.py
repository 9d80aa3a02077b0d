"""A client that opened many connections at once had all of them at one worker: the others idled, and throughput halved."""

import asyncio
import socket

import pytest

from chroma_async.server.accept import FairServer
from chroma_async.server.listen import listen

pytestmark = pytest.mark.anyio

CONNECTIONS = 16


async def test_connections_that_come_at_once_are_shared() -> None:
    listening = listen("127.0.0.1", 0)
    counts = [0, 0]
    finished = asyncio.Event()

    def server(number: int, accepting: socket.socket) -> FairServer:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            counts[number] += 1
            await finished.wait()
            writer.close()

        return FairServer(serve, accepting)

    clients = [socket.create_connection(listening.getsockname()) for _ in range(CONNECTIONS)]
    servers = [server(number, listening.dup()) for number in range(2)]
    while sum(counts) < CONNECTIONS:
        await asyncio.sleep(0.01)
    assert min(counts) >= CONNECTIONS // 4
    finished.set()
    for each in servers:
        each.close()
        await each.wait_closed()
    await asyncio.sleep(0.05)
    for open_socket in (*clients, listening):
        open_socket.close()
