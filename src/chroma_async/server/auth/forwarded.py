"""An identity that a proxy names, which is believed from trusted addresses only."""

from __future__ import annotations

from chroma_async.server.auth.files import Source
from chroma_async.server.auth.identity import Identity
from chroma_async.server.auth.lines import Roles, check_name
from chroma_async.server.auth.provider import Credential, Rejected, Scheme, Verified
from chroma_async.server.peers import TrustedPeers


class ForwardedProvider:
    """The name in a header of a trusted proxy. What a proxy says is not remembered: another peer may say the same."""

    name = "proxy"
    schemes: frozenset[Scheme] = frozenset({"peer"})
    is_slow = False
    challenge: str | None = None

    def __init__(self, trusted: TrustedPeers, roles: Source[Roles]) -> None:
        self._trusted = trusted
        self._roles = roles

    @property
    def generation(self) -> object:
        self._roles.current()
        return self._roles.generation

    def slot(self, credential: Credential) -> str:
        return ""

    async def prepare(self, credential: Credential) -> None:
        return

    def verify(self, credential: Credential) -> Verified:
        if credential.peer not in self._trusted:
            raise Rejected(f"not from a trusted proxy. peer={credential.peer!r}")
        try:
            name = credential.value.decode("utf-8")
            check_name(name)
        except ValueError:
            raise Rejected("not a name") from None
        return Verified(Identity(name, self._roles.current().of(name), self.name), 0.0)
