"""What a collection has published."""

from __future__ import annotations

from pathlib import Path

from chroma_async.projections.manifest import Manifest
from chroma_async.projections.records import RecordTables


def manifest_of(directory: Path, collection_id: str) -> Manifest:
    """Return the manifest of a collection in a data directory."""
    tables = RecordTables(directory / "collections" / collection_id / "records.sqlite3", writable=False)
    try:
        return tables.manifest()
    finally:
        tables.close()
