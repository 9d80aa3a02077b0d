"""Batches of the size that a server advises, where Chroma makes them."""

from collections.abc import Sequence
from typing import Any

from chroma_async.client._sync.client import ClientAPI

__all__ = ["create_batches"]


def create_batches(
    api: ClientAPI,
    ids: Sequence[Any],
    embeddings: Sequence[Any] | None = None,
    metadatas: Sequence[Any] | None = None,
    documents: Sequence[Any] | None = None,
) -> list[tuple[Any, Any, Any, Any]]:
    """Return the records in batches for `collection.add(*batch)`, in order. The collections take batches of any size too."""
    size = api.get_max_batch_size()

    def part(column: Sequence[Any] | None, start: int) -> Any:
        return None if column is None else column[start : start + size]

    starts = range(0, len(ids), size) if ids else (0,)
    return [(part(ids, at), part(embeddings, at), part(metadatas, at), part(documents, at)) for at in starts]
