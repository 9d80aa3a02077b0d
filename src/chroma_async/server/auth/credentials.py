"""Reading the credential of a request: one header that a provider looks at, once."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Final

from chroma_async.errors import AuthorizationError
from chroma_async.server.auth.provider import Credential, Scheme

CREDENTIAL_BYTES_MAX: Final = 8_192 + 64
TOKEN_HEADER: Final = b"x-chroma-token"
AUTHORIZATION: Final = b"authorization"

Header = tuple[bytes, bytes]
"""Name, in lower case, and value."""


class CredentialHeaders:
    """The headers that providers of these schemes read; others may hold what somebody else's door needs.

    `name_header` is the one in which a proxy names the user.
    """

    def __init__(self, schemes: Container[Scheme], name_header: str | None = None) -> None:
        self._name_header = None if name_header is None else name_header.lower().encode("latin-1")
        wanted = {
            AUTHORIZATION: "basic" in schemes or "bearer" in schemes,
            TOKEN_HEADER: "token" in schemes,
        }
        names = {name for name, is_wanted in wanted.items() if is_wanted}
        self._wanted = frozenset(names if self._name_header is None else names | {self._name_header})
        self._listed = ", ".join(sorted(name.decode("latin-1") for name in self._wanted))

    def find(self, headers: Iterable[Header]) -> Header:
        """Return the one header that holds a credential.

        Raises:
            AuthorizationError: there is none, more than one, or one that is too long.
        """
        wanted = self._wanted
        found: Header | None = None
        for header in headers:
            if header[0] in wanted:
                if found is not None:
                    raise AuthorizationError(f"more than one credential: send one header of {self._listed}, once")
                found = header
        if found is None:
            raise AuthorizationError(f"no credentials: send one header of {self._listed}")
        if len(found[1]) > CREDENTIAL_BYTES_MAX:
            raise AuthorizationError("the credential is too long")
        return found

    def read(self, header: Header, peer: str) -> Credential:
        """Return the credential in a header that came from this address.

        Raises:
            AuthorizationError: it has an unknown scheme.
        """
        name, value = header
        if name == self._name_header:
            return Credential("peer", value, peer)
        if name == TOKEN_HEADER:
            return Credential("token", value.strip(), peer)
        scheme, _, rest = value.strip().partition(b" ")
        kind = scheme.lower()
        if kind == b"basic":
            return Credential("basic", rest.strip(), peer)
        if kind == b"bearer":
            return Credential("bearer", rest.strip(), peer)
        raise AuthorizationError("the Authorization header must begin with Basic or Bearer")
