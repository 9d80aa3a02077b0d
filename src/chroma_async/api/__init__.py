"""What Chroma's programs import from `chromadb.api`, mostly for annotations."""

from chroma_async.client._async.client import AsyncAdminAPI, AsyncClientAPI
from chroma_async.client._sync.client import AdminAPI, ClientAPI

__all__ = ["AdminAPI", "AsyncAdminAPI", "AsyncClientAPI", "ClientAPI"]
