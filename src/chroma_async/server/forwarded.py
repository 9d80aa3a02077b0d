"""What a reverse proxy says of a request: where it came from, and under which address its sender knows this server.

Anybody can send these headers. They count only where the peer of the connection is trusted, and of a list of addresses only
the part that trusted peers have added: it is read from its end, up to the first address that is not trusted. That one is the
client. What stands before it may be invented.

`X-Forwarded-Prefix` says under which path the proxy offers the server, for the links in its pages. It never changes which
path is meant: a proxy that forgets to set the header passes on a client's, who could then reach a path that the proxy
refuses. What is taken off a path is `root_path`, which is configured.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from chroma_async.server.peers import TrustedPeers, client_of
from chroma_async.settings import ServerSettings

PEER: Final = "chroma_async.peer"
"""Name in the scope of the address at the other end of the connection; `unix` for a unix socket."""

HOPS_MAX: Final = 32
PEERS_MAX: Final = 1024

Headers = Sequence[tuple[bytes, bytes]]

_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+/?")
_HOST: Final = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
_PAIR: Final = re.compile(r"""\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^\s",;=]*)\s*(?:([;,])|$)""")
"""One `name=value` of RFC 7239, and whether it ends its element."""


class Forwarded:
    """Takes the root path off, and takes a trusted proxy at its word."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        """Wrap an application.

        Raises:
            ValueError: an entry of `trusted_proxies` is neither an address nor a network.
        """
        self._app = app
        self._prefix = settings.root_path.encode("latin-1")
        self._slash = self._prefix + b"/"
        self._root_path = settings.root_path
        trusted = TrustedPeers(settings.trusted_proxies)
        self._is_trusted = lru_cache(PEERS_MAX)(trusted.__contains__)
        self._read = _read_rfc_7239 if settings.proxy_headers == "forwarded" else _read_x_forwarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            self._rewrite(scope)
        await self._app(scope, receive, send)

    def _rewrite(self, scope: Scope) -> None:
        scope[PEER] = peer = client_of(scope)
        if self._prefix:
            self._take_prefix_off(scope)
        if self._is_trusted(peer):
            said = self._read(scope["headers"])
            self._set_client(scope, peer, said.clients)
            if said.scheme is not None:
                scope["scheme"] = said.scheme
            if said.host is not None:
                headers = [header for header in scope["headers"] if header[0] != b"host"]
                scope["headers"] = [(b"host", said.host.encode("latin-1")), *headers]
            if said.prefix is not None:
                scope["root_path"] = said.prefix

    def _take_prefix_off(self, scope: Scope) -> None:
        """Once, and only a whole segment: a proxy may have done it already."""
        raw_path: bytes = scope["raw_path"]
        scope["root_path"] = self._root_path
        if raw_path.startswith(self._slash):
            scope["raw_path"] = raw_path[len(self._prefix) :]
            scope["path"] = scope["path"][len(self._root_path) :]

    def _set_client(self, scope: Scope, peer: str, clients: Sequence[str]) -> None:
        found = None
        for hop in clients[: -HOPS_MAX - 1 : -1]:
            address = _address(hop)
            if address is None:
                break
            found = address
            if not self._is_trusted(address[0]):
                break
        if found is not None and found[0] != peer:
            scope["client"] = found


class _Said:
    """What the headers of a request say. `clients` begins with the one that is furthest away."""

    __slots__ = ("clients", "host", "prefix", "scheme")

    def __init__(self) -> None:
        self.clients: Sequence[str] = ()
        self.scheme: str | None = None
        self.host: str | None = None
        self.prefix: str | None = None


def _read_x_forwarded(headers: Headers) -> _Said:
    said = _Said()
    clients: list[str] = []
    for name, value in headers:
        if not name.startswith(b"x-forwarded-"):
            continue
        text = value.decode("latin-1")
        if name == b"x-forwarded-for":
            clients.extend(text.split(","))
        elif name == b"x-forwarded-proto":
            said.scheme = _scheme(_last(text))
        elif name == b"x-forwarded-host":
            said.host = _host(_last(text))
        elif name == b"x-forwarded-prefix":
            said.prefix = _prefix(_last(text))
    said.clients = clients
    return said


def _read_rfc_7239(headers: Headers) -> _Said:
    """`Forwarded`, of which several are one list; and the prefix, for which the RFC has no word."""
    said = _Said()
    clients: list[str] = []
    last: dict[str, str] = {}
    for name, value in headers:
        if name == b"x-forwarded-prefix":
            said.prefix = _prefix(_last(value.decode("latin-1")))
        elif name == b"forwarded":
            elements = list(_elements(value.decode("latin-1")))
            clients.extend(element.get("for", "") for element in elements)
            last = elements[-1]
    said.clients = clients
    said.scheme = _scheme(last.get("proto", ""))
    said.host = _host(last.get("host", ""))
    return said


def _elements(text: str) -> Iterator[dict[str, str]]:
    """The elements of a header, names in lower case; what can't be understood ends with one that says nothing."""
    element: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _PAIR.match(text, position)
        if match is None:
            yield {}
            return
        name, value, end = match.groups()
        element[name.lower()] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        position = match.end()
        if end == ",":
            yield element
            element = {}
    yield element


def _last(text: str) -> str:
    """What the nearest proxy has added."""
    return text.rpartition(",")[2].strip()


def _scheme(text: str) -> str | None:
    lower = text.lower()
    return lower if lower in ("http", "https") else None


def _host(text: str) -> str | None:
    return text if _HOST.fullmatch(text) else None


def _prefix(text: str) -> str | None:
    """A path that can stand in a link: not to another host, not upward."""
    segments = text.split("/")
    return text.rstrip("/") if _PREFIX.fullmatch(text) and ".." not in segments and "." not in segments else None


@lru_cache(PEERS_MAX)
def _address(hop: str) -> tuple[str, int] | None:
    """Address and port of `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`; port 0 where none is said.

    None for what hides an address (`unknown`, `_name`) or is none.
    """
    text = hop.strip()
    port = ""
    if text.startswith("["):
        text, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    return str(mapped or address), number
