"""Writes that carry a key: the same one, sent again within the log's window of operations, is not carried out again.

The operation id of their entry says all that is needed to answer once more: collection, author, key, what the write was, and
how many records it deleted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from chroma_async.engine.author import AUTHOR
from chroma_async.errors import MalformedRequestError
from chroma_async.model import Lsn

R = TypeVar("R")

_SEPARATOR = "\x1f"
_FINGERPRINT_BYTES = 8


class KeyedWrite(Struct, Generic[R], frozen=True):
    """A write with a key. `again` makes the answer of the LSN of its entry and its count."""

    prefix: str
    fingerprint: str
    again: Callable[[Lsn, int], R]

    def operation_id(self, count: int = 0) -> str:
        return f"{self.prefix}{self.fingerprint}{_SEPARATOR}{count}"

    @property
    def prefixes(self) -> Sequence[str]:
        return (self.prefix,)

    def answer(self, known: Mapping[str, tuple[str, Lsn]]) -> R | None:
        """Return the answer once more; None for a write that is new.

        Raises:
            MalformedRequestError: another write had the key.
        """
        if self.prefix not in known:
            return None
        operation_id, lsn = known[self.prefix]
        fingerprint, count = operation_id[len(self.prefix) :].split(_SEPARATOR)
        if fingerprint != self.fingerprint:
            raise MalformedRequestError("this Idempotency-Key was used for another write: give each write its own")
        return self.again(lsn, int(count))


def keyed(key: str | None, collection_id: str, content: bytes, again: Callable[[Lsn, int], R]) -> KeyedWrite[R] | None:
    """Return what makes a write with a key repeatable; None without one. `content` is all that the write says."""
    if key is None:
        return None
    prefix = _SEPARATOR.join((collection_id, AUTHOR.get() or "", key, ""))
    return KeyedWrite(prefix, hashlib.blake2b(content, digest_size=_FINGERPRINT_BYTES).hexdigest(), again)
