"""What Chroma's programs import from `chromadb.types`: names for annotations, and what clients return of the catalog."""

from chroma_async.client.types import Metadata, UpdateMetadata, Vector, Where, WhereDocument
from chroma_async.model import Collection, Database, Tenant

__all__ = ["Collection", "Database", "Metadata", "Tenant", "UpdateMetadata", "Vector", "Where", "WhereDocument"]
