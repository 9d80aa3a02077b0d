"""A client of ingest streams that reads while it writes, over HTTP/1.1 or HTTP/2, and does as little as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import urlencode

import h2.config
import h2.connection
import h2.events
import orjson

from chroma_async.model import DEFAULT_DATABASE, DEFAULT_TENANT
from chroma_async.protocol import Ingest
from chroma_async.protocol.ingest import NDJSON

SECONDS_MAX = 20.0


def target(collection_id: str, **query: Any) -> str:
    path = Ingest.route.path.format(tenant=DEFAULT_TENANT, database=DEFAULT_DATABASE, collection_id=collection_id)
    return f"{path}?{urlencode(query)}" if query else path


class Stream:
    """A request whose body flows beside its answer. `status` is known with the first line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self._rest = b""
        self._is_over = False

    async def begin(self, path: str, content_type: str, **headers: str) -> Self:
        lines = [f"POST {path} HTTP/1.1", "host: localhost", f"content-type: {content_type}", "transfer-encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        return self

    async def send(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def line(self) -> dict[str, Any] | None:
        """Return the next line of the answer, or the body of one that is no stream; None at its end."""
        async with asyncio.timeout(SECONDS_MAX):
            if not self.status:
                await self._head()
            while b"\n" not in self._rest and not self._is_over:
                await self._more()
            text, _, self._rest = self._rest.partition(b"\n")
            return orjson.loads(text) if text else None

    async def _head(self) -> None:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(head[0].split(" ")[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (item.partition(":") for item in head[1:-2])}

    async def _more(self) -> None:
        if "content-length" in self.headers:
            self._rest += await self.reader.readexactly(int(self.headers["content-length"]))
            self._is_over = True
            return
        try:
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            self._rest += (await self.reader.readexactly(size + 2))[:-2]
        except asyncio.IncompleteReadError:
            size = 0
        self._is_over = not size

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        while (line := await self.line()) is not None:
            yield line

    async def last(self) -> dict[str, Any]:
        """Return the line that says that it is the last, with the errors of all of them, and do not wait for more."""
        errors: list[Any] = []
        async for found in self.lines():
            errors += found.get("errors", [])
            if "done" in found or "error" in found:
                return {**found, "errors": errors}
        raise AssertionError("the answer ended early")

    def close(self) -> None:
        self.writer.transport.abort()


class Stream2(Stream):
    """The same over HTTP/2, begun without an upgrade."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._changed = asyncio.Event()
        self._receiving: asyncio.Task[None] | None = None
        self.id = 0

    async def begin(self, path: str, content_type: str, **headers: str) -> Self:
        self._connection.initiate_connection()
        self.id = self._connection.get_next_available_stream_id()
        pseudo = {
            ":method": "POST",
            ":path": path,
            ":scheme": "http",
            ":authority": "localhost",
            "content-type": content_type,
        }
        self._connection.send_headers(self.id, [*pseudo.items(), *headers.items()])
        self._flush()
        self._receiving = asyncio.create_task(self._receive())
        return self

    def _flush(self) -> None:
        self.writer.write(self._connection.data_to_send())

    async def _receive(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await self.reader.read(2**16):
                for event in self._connection.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived):
                        self.headers = {str(name): str(value) for name, value in event.headers}
                        self.status = int(self.headers[":status"])
                    elif isinstance(event, h2.events.DataReceived):
                        self._rest += event.data
                        self._connection.acknowledge_received_data(event.flow_controlled_length, self.id)
                    elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                        self._is_over = True
                self._flush()
                self._changed.set()
        self._is_over = True
        self._changed.set()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(SECONDS_MAX):
            while data and not self._is_over:
                room = min(self._connection.local_flow_control_window(self.id), self._connection.max_outbound_frame_size)
                if room:
                    self._connection.send_data(self.id, data[:room])
                    data = data[room:]
                    self._flush()
                else:
                    await self._wait()

    async def end(self) -> None:
        self._connection.end_stream(self.id)
        self._flush()

    async def _head(self) -> None:
        while not self.status and not self._is_over:
            await self._wait()

    async def _more(self) -> None:
        length = self.headers.get("content-length")
        if length is not None and len(self._rest) >= int(length):
            self._is_over = True
        else:
            await self._wait()

    def close(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
        super().close()


@asynccontextmanager
async def streaming(
    port: int,
    collection_id: str,
    *,
    content_type: str = NDJSON,
    http2: bool = False,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    prefix: str = "",
    **query: Any,
) -> AsyncIterator[Stream]:
    """Begin a stream; its connection is cut at the end of the block."""
    if tls is not None:
        tls.set_alpn_protocols(["h2" if http2 else "http/1.1"])
    named = None if tls is None else "localhost"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24, ssl=tls, server_hostname=named)
    stream = (Stream2 if http2 else Stream)(reader, writer)
    try:
        yield await stream.begin(prefix + target(collection_id, **query), content_type, **(headers or {}))
    finally:
        stream.close()
