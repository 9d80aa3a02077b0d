"""The listening socket, bound once by the parent and inherited by every worker."""

from __future__ import annotations

import socket
from typing import Final

LISTEN_BACKLOG: Final = 2048


class ListenError(Exception):
    """The address can't be listened on; the message says why and what to change."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on `host` and `port`; port 0 takes a free one.

    Raises:
        ListenError: the host is unknown, the port is taken, or listening is not permitted.
    """
    try:
        family, kind, protocol, _, address = _resolve(host, port)
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"unknown host; name an address of this machine. host={host!r} ({error})") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind(address)
        bound.listen(LISTEN_BACKLOG)
    except OSError as error:
        bound.close()
        raise ListenError(f"{_reason(error)} host={host!r} port={port} ({error.strerror})") from error
    return bound


def url_of(bound: socket.socket) -> str:
    """Return the URL at which a client on this machine reaches the socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _resolve(host: str, port: int) -> tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]:
    """Return the address to bind; of a name with several the IPv4 one, which more clients try."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return min(found, key=lambda entry: entry[0] != socket.AF_INET)  # type: ignore[return-value]


def _reason(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "not permitted to listen there; ports below 1024 need privileges: choose another --port."
    return "can't listen there; choose another --port or --host, or stop the program that uses it."
