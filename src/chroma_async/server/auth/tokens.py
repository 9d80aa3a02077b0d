"""Static tokens, of which only hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from chroma_async.server.auth.files import Source
from chroma_async.server.auth.identity import Identity
from chroma_async.server.auth.lines import TOKEN_LENGTH_MAX, Roles, TokenEntry, confined, digest_of
from chroma_async.server.auth.provider import Credential, Provider, Rejected, Scheme, Verified

REMEMBER_SECONDS: Final = 60.0

_KEY: Final = secrets.token_bytes(32)
_NOTHING: Final = bytes(32)


class TokenProvider(Provider):
    """Tokens of a file.

    A token is found by a keyed hash of its hash, which nobody outside can foresee, so how long that takes says nothing. What
    decides is a comparison in constant time.
    """

    name = "token"
    is_slow = False

    def __init__(
        self,
        tokens: Source[Sequence[TokenEntry]],
        roles: Source[Roles],
        schemes: frozenset[Scheme] = frozenset({"bearer", "token"}),
    ) -> None:
        self._tokens = tokens
        self._roles = roles
        self.schemes = schemes
        self.challenge: str | None = 'Bearer realm="chroma_async"' if "bearer" in schemes else None
        self._index: Mapping[bytes, TokenEntry] = {}
        self._indexed: object = None

    @property
    def generation(self) -> object:
        self._tokens.current()
        self._roles.current()
        return self._tokens.generation, self._roles.generation

    def verify(self, credential: Credential) -> Verified:
        index = self._current_index()
        if len(credential.value) > TOKEN_LENGTH_MAX:
            raise Rejected("the token is too long")
        digest = digest_of(credential.value)
        entry = index.get(_place(digest))
        if not hmac.compare_digest(digest, _NOTHING if entry is None else entry.digest) or entry is None:
            raise Rejected("unknown token")
        return Verified(self._identity(entry), self._seconds(entry))

    def _identity(self, entry: TokenEntry) -> Identity:
        grants = entry.grants
        if grants is None:
            grants = self._roles.current().of(entry.name)
            place = entry.within
            grants = grants if place is None else tuple(confined(grant, place) for grant in grants)
        return Identity(entry.name, grants, self.name)

    def _seconds(self, entry: TokenEntry) -> float:
        if entry.expires is None:
            return REMEMBER_SECONDS
        left = (entry.expires - datetime.now(UTC)).total_seconds()
        if left <= 0:
            raise Rejected(f"expired. name={entry.name!r}")
        return min(left, REMEMBER_SECONDS)

    def _current_index(self) -> Mapping[bytes, TokenEntry]:
        tokens = self._tokens.current()
        if self._indexed is not tokens:
            self._index = {_place(entry.digest): entry for entry in tokens}
            self._indexed = tokens
        return self._index


def _place(digest: bytes) -> bytes:
    return hashlib.blake2b(digest, key=_KEY, digest_size=16).digest()
