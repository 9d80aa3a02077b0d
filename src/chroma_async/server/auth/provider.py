"""What a provider of identities promises; `tests/contract` holds each of them to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from chroma_async.server.auth.identity import Identity
from chroma_async.server.start_error import StartError

Scheme = Literal["basic", "bearer", "token", "peer"]
"""How a credential arrived: `Authorization: Basic`, `Authorization: Bearer`, `X-Chroma-Token`, or a proxy's header."""


class AuthConfigError(StartError):
    """Settings or a file of credentials that can't be used; the message is one line that says what to change."""


class Rejected(Exception):
    """The credential is none that the provider knows. The message says why, for the log: never to the caller, and never with
    the credential in it. `user` is whom it is for, if there is such a user."""

    def __init__(self, reason: str, user: str = "") -> None:
        super().__init__(reason)
        self.user = user


class CannotDecide(Exception):
    """Whether the credential is right can't be told now: the request is refused, and may be sent again."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a request presents. `value` is what stands behind the scheme, as it was sent; `repr` does not show it."""

    scheme: Scheme
    value: bytes = field(repr=False)
    peer: str = ""
    """The address of the direct peer: not what a proxy says of its own."""


@dataclass(frozen=True, slots=True)
class Verified:
    """An identity, and for how many seconds it may be remembered: 0 for one that must be asked for each time.

    `slides`: the seconds count from its last use, not from its verification.
    """

    identity: Identity
    seconds: float
    slides: bool = False


class Provider(Protocol):
    """Tells whose a credential is.

    1. `schemes` are those whose credentials it looks at. It is not asked about others.
    2. `verify`, after `prepare`, returns the identity of a right credential, raises `Rejected` for a wrong one, and
       `CannotDecide` when it can't tell. Any other exception counts as `CannotDecide`. Nothing but a right credential ever
       leads to an identity.
    3. Every wrong credential takes as long as any other wrong one of its length, as far as the library underneath allows.
    4. `verify` of a provider that `is_slow` runs in a thread, of any other on the event loop, within a fraction of a
       millisecond.
    5. `generation` changes whenever an identity that was returned before might not be returned any more, or be another one:
       what was remembered of an earlier generation is forgotten. Reading it is cheap; it raises `CannotDecide` when the
       provider can't vouch for what it said before.
    6. No credential is kept, logged, or part of a message.
    """

    name: str
    schemes: frozenset[Scheme]
    is_slow: bool
    challenge: str | None
    """What `WWW-Authenticate` says of it; None where a caller can do nothing about it."""

    @property
    def generation(self) -> object: ...

    async def prepare(self, credential: Credential) -> None:
        """Wait for what `verify` needs, such as keys of another server; a provider that `is_slow` has nothing to wait for.

        Raises:
            Rejected, CannotDecide: as `verify`.
        """
        return

    def verify(self, credential: Credential) -> Verified:
        """Return whose the credential is.

        Raises:
            Rejected: it is wrong, or expired.
            CannotDecide: it can't be told now.
        """
        ...

    def slot(self, credential: Credential) -> str:
        """Return the name that wrong credentials of one source are counted by, whether or not there is such a user.

        Only a provider that `is_slow` is asked.
        """
        return ""
