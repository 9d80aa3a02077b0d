"""What Chroma's programs import from `chromadb.api.types`: names for annotations, the base of embedding functions."""

from chroma_async.client.configuration import CollectionConfiguration
from chroma_async.client.embedding import EmbeddingFunction
from chroma_async.client.embeddings.default import DefaultEmbeddingFunction
from chroma_async.client.results import DeleteResult, GetResult, QueryResult
from chroma_async.client.schema import Schema
from chroma_async.client.types import (
    ID,
    URI,
    CollectionMetadata,
    Document,
    Documents,
    Embedding,
    Embeddings,
    IDs,
    Include,
    Metadata,
    Metadatas,
    ReadLevel,
    UpdateCollectionMetadata,
    UpdateMetadata,
    URIs,
    Where,
    WhereDocument,
)
from chroma_async.protocol.results import IndexingStatus

__all__ = [
    "ID",
    "URI",
    "CollectionConfiguration",
    "CollectionMetadata",
    "DefaultEmbeddingFunction",
    "DeleteResult",
    "Document",
    "Documents",
    "Embedding",
    "EmbeddingFunction",
    "Embeddings",
    "GetResult",
    "IDs",
    "Include",
    "IndexingStatus",
    "Metadata",
    "Metadatas",
    "QueryResult",
    "ReadLevel",
    "Schema",
    "URIs",
    "UpdateCollectionMetadata",
    "UpdateMetadata",
    "Where",
    "WhereDocument",
]
