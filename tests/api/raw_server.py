"""A server that misbehaves as told: it reads requests, keeps them, and answers each with the next of its replies."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

Reply = Callable[[socket.socket], None]


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def answer(status: int, body: str | bytes = b"", **headers: str) -> Reply:
    """A well-formed HTTP answer; underscores in header names become hyphens."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return lambda peer: peer.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + content)


def fault(status: int, name: str, message: str, **headers: str) -> Reply:
    """An error in the server's own form."""
    return answer(status, json.dumps({"error": name, "message": message}), content_type="application/json", **headers)


HEARTBEAT = answer(200, '{"nanosecond heartbeat": 7}')
EMPTY = answer(200, "{}")


def raw(content: bytes) -> Reply:
    return lambda peer: peer.sendall(content)


def reset(peer: socket.socket) -> None:
    """Break the connection without a goodbye."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def late(seconds: float, then: Reply) -> Reply:
    def reply(peer: socket.socket) -> None:
        time.sleep(seconds)
        then(peer)

    return reply


class RawServer:
    """Answers on a free port of 127.0.0.1, each connection in a thread; the last reply is repeated."""

    def __init__(self, *replies: Reply) -> None:
        self.requests: list[Request] = []
        self.times: list[float] = []
        self._replies: Sequence[Reply] = replies
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in [self._accepting, *self._threads]:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(peer,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: socket.socket) -> None:
        with peer:
            request = _read(peer)
            if request is None:
                return
            reply = self._replies[min(len(self.requests), len(self._replies) - 1)]
            self.requests.append(request)
            self.times.append(time.monotonic())
            try:
                reply(peer)
            except OSError:
                return


def _read(peer: socket.socket) -> Request | None:
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = peer.recv(65536)
        if not chunk:
            return None
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += peer.recv(65536)
    method, target, _ = first.split(" ")
    return Request(method, target, headers, body)
