"""Which addresses are trusted to say who their clients are."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from starlette.types import Scope

_V6_PREFIX: Final = 64

UNIX: Final = "unix"
"""The address of every peer that comes through a unix socket."""


class TrustedPeers:
    """A set of addresses, of networks in CIDR notation, and `unix`."""

    def __init__(self, entries: Sequence[str]) -> None:
        """Take the entries.

        Raises:
            ValueError: one is neither an address nor a network; the message names it.
        """
        self._unix = UNIX in entries
        self._networks = [_network(entry) for entry in entries if entry != UNIX]

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def __contains__(self, peer: str) -> bool:
        if peer == UNIX:
            return self._unix
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in self._networks)


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(entry)
    except ValueError as error:
        raise ValueError(
            f"not an address, not a network like 10.0.0.0/8, and not {UNIX!r}: {error}. got={entry!r}"
        ) from error


def client_of(scope: Scope) -> str:
    """The address of a request's client: the peer of the connection, or whom a trusted one names."""
    client: tuple[str, int] | None = scope.get("client")
    return client[0] if client else UNIX


def source_of(address: str) -> str:
    """Return whom an address is counted as: for IPv6 its network, since one customer usually has 2^64 addresses of it."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, _V6_PREFIX), strict=False))
