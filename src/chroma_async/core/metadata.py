"""What a write makes of a record's metadata."""

from __future__ import annotations

from typing import cast

from chroma_async.model import Metadata, MetadataPatch, MetadataValue


def merge_metadata(old: Metadata | None, patch: MetadataPatch | None) -> Metadata | None:
    """Return metadata after a write: merged field by field, None deletes a field; nothing left is None."""
    if patch is None:
        return old
    if None not in patch.values():
        return cast("Metadata", {**old, **patch} if old else patch) or None
    merged: dict[str, MetadataValue] = dict(old or {})
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return merged or None
