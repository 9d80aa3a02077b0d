"""How fast the generator itself can go: the same requests against a server that does nothing.

If a server under test comes near this figure, the figure measured is the generator's, not the server's.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from multiprocessing.connection import Connection as Pipe

from load_tests.errors import RequestFailed
from load_tests.generator import Address, Lane, run_lane

_START_SECONDS_MAX = 30.0


class _EmptyServer(asyncio.Protocol):
    """Answers every complete request with the same prepared bytes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length_at = self._buffer.find(b"Content-Length: ") + len(b"Content-Length: ")
        length = int(self._buffer[length_at : self._buffer.find(b"\r\n", length_at)])
        if len(self._buffer) >= head_end + 4 + length:
            self._buffer.clear()
            assert self._transport is not None
            self._transport.write(self._answer)


def measure_ceiling(lane: Lane, *, answer_bytes: int) -> float:
    """Requests per second of `lane` against an empty server whose answers have `answer_bytes` bytes.

    Raises:
        RequestFailed: the empty server did not start.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, answer_bytes), daemon=True)
    process.start()
    try:
        if not ours.poll(_START_SECONDS_MAX):
            raise RequestFailed(f"the empty server did not start. waited_seconds={_START_SECONDS_MAX:g}")
        return run_lane(Address("127.0.0.1", int(ours.recv())), lane).per_second
    finally:
        process.kill()
        process.join()


def _serve(pipe: Pipe, answer_bytes: int) -> None:
    asyncio.run(_serve_forever(pipe, answer_bytes))


async def _serve_forever(pipe: Pipe, answer_bytes: int) -> None:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {answer_bytes}\r\n\r\n"
    answer = head.encode("ascii") + b" " * answer_bytes
    server = await asyncio.get_running_loop().create_server(lambda: _EmptyServer(answer), "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()
