"""An identity that a proxy names, which is believed from trusted addresses only."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from chroma_async.server.auth.files import Source
from chroma_async.server.auth.identity import Identity
from chroma_async.server.auth.lines import Roles, check_name
from chroma_async.server.auth.provider import Credential, Provider, Rejected, Scheme, Verified
from chroma_async.server.peers import TrustedPeers

CACHED_MAX: Final = 10_000


class ForwardedProvider(Provider):
    """The name in a header of a trusted proxy. What a proxy says is not remembered: another peer may say the same."""

    name = "proxy"
    schemes: frozenset[Scheme] = frozenset({"peer"})
    is_slow = False
    challenge: str | None = None

    def __init__(self, trusted: TrustedPeers, roles: Source[Roles]) -> None:
        self._is_trusted = lru_cache(maxsize=CACHED_MAX)(trusted.__contains__)
        self._roles = roles
        self._identity = lru_cache(maxsize=CACHED_MAX)(self._made)

    @property
    def generation(self) -> object:
        self._roles.current()
        return self._roles.generation

    def verify(self, credential: Credential) -> Verified:
        if not self._is_trusted(credential.peer):
            raise Rejected(f"not from a trusted proxy. peer={credential.peer!r}")
        return Verified(self._identity(credential.value, self._roles.current()), 0.0)

    def _made(self, value: bytes, roles: Roles) -> Identity:
        """The identity of a name; made anew when the roles were read anew."""
        try:
            name = value.decode("utf-8")
            check_name(name)
        except ValueError:
            raise Rejected("not a name") from None
        return Identity(name, roles.of(name), self.name)
