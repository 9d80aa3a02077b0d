"""Credentials that were right: so that most requests cost no verification."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from typing import Final

from msgspec import Struct

from chroma_async.server.auth.credentials import Header
from chroma_async.server.auth.identity import Identity
from chroma_async.server.auth.provider import Provider

REMEMBERED_MAX: Final = 10_000


class Known(Struct):
    """Who presented a credential. `generation` is that of the provider, which forgets by changing it."""

    identity: Identity
    provider: Provider
    generation: object
    until: float
    slides_seconds: float


class Remembered:
    """What is known of credentials, by their keyed hash: its key is random and never leaves the process.

    For how long one counts without being verified again, its provider says. Afterwards it stays until it turns out to be
    wrong, or room is needed: that it was right once is worth something, too.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, key: bytes) -> bool:
        """Whether a credential was right once."""
        return key in self._known

    def key_of(self, header: Header) -> bytes:
        """Return what the credential in a header is remembered by."""
        return hashlib.blake2b(header[0] + b"\0" + header[1], key=self._key, digest_size=16).digest()

    def recall(self, key: bytes, now: float) -> Identity | None:
        """Return whose a credential is; None where it has to be verified.

        Raises:
            CannotDecide: its provider can't vouch for what it said before.
        """
        known = self._known.get(key)
        if known is None or now >= known.until or known.generation != known.provider.generation:
            return None
        if known.slides_seconds:
            known.until = now + known.slides_seconds
        return known.identity

    def keep(self, key: bytes, known: Known, now: float) -> None:
        """Remember a right one, unless it has to be verified each time."""
        if known.until > now:
            self._known[key] = known
            self._known.move_to_end(key)
            while len(self._known) > REMEMBERED_MAX:
                self._known.popitem(last=False)

    def forget(self, key: bytes) -> None:
        """Forget one that is wrong by now."""
        self._known.pop(key, None)
