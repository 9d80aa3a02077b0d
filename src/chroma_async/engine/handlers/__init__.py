"""One handler for each call of the catalogue."""

from __future__ import annotations

from chroma_async.engine.handlers import changes, collections, ingest, records, system, tenants
from chroma_async.engine.handlers.registry import HANDLERS, Handler

__all__ = ["HANDLERS", "Handler", "changes", "collections", "ingest", "records", "system", "tenants"]
