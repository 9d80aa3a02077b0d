"""Writes that are too large for one HTTP body, cut into several."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeVar, cast

import msgspec

from chroma_async.protocol import Call, WireRequest
from chroma_async.protocol.embeddings import EmbeddingBatch
from chroma_async.protocol.records import WriteRecords

R = TypeVar("R")

BODY_BYTES_MAX: Final = 40 * 2**20
"""Largest body that Chroma's servers, and ours, take."""


def encoded_parts(call: Call[R], body_bytes_max: int = BODY_BYTES_MAX) -> Iterator[tuple[Call[R], WireRequest]]:
    """Yield the call and its request; or, when that is a write with too large a body, its parts in order.

    A single record that is too large is yielded as it is: the server's refusal says more than we could.
    """
    request = call.encode()
    parts = halves(call) if len(request.body) > body_bytes_max else ()
    if not parts:
        yield call, request
    for part in parts:
        yield from encoded_parts(part, body_bytes_max)


def halves(call: Call[R]) -> tuple[Call[R], ...]:
    """Two writes in place of one, in order; none of a write of one record, nor of another call."""
    if not isinstance(call, WriteRecords) or len(call.ids) < 2:
        return ()
    middle = len(call.ids) // 2
    first, last = _rows(call, 0, middle), _rows(call, middle, len(call.ids))
    first = msgspec.structs.replace(first, wait=None)  # what the last part has reached, the ones before it have
    if call.idempotency_key is not None:
        first = msgspec.structs.replace(first, idempotency_key=f"{call.idempotency_key}.0")
        last = msgspec.structs.replace(last, idempotency_key=f"{call.idempotency_key}.1")
    return cast("tuple[Call[R], ...]", (first, last))


def _rows(call: WriteRecords, start: int, stop: int) -> WriteRecords:
    columns: dict[str, Any] = {"ids": call.ids[start:stop]}
    for name in ("documents", "metadatas", "uris"):
        column = getattr(call, name)
        columns[name] = None if column is None else column[start:stop]
    embeddings = call.embeddings
    if embeddings is not None:
        columns["embeddings"] = EmbeddingBatch(embeddings.vectors[start:stop])
    return msgspec.structs.replace(call, **columns)
