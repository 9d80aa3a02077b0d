"""What Chroma's programs import from `chromadb.api.types`: names for annotations, the base of embedding functions."""

from chroma_async.client.configuration import CollectionConfiguration
from chroma_async.client.embedding import EmbeddingFunction
from chroma_async.client.embeddings.default import DefaultEmbeddingFunction
from chroma_async.client.filters import checked_where, checked_where_document
from chroma_async.client.results import DeleteResult, GetResult, QueryResult
from chroma_async.client.schema import Schema
from chroma_async.client.types import (
    ID,
    URI,
    CollectionMetadata,
    Document,
    Documents,
    Embeddable,
    Embedding,
    Embeddings,
    IDs,
    Image,
    Images,
    Include,
    Loadable,
    Metadata,
    Metadatas,
    OneOrMany,
    PyEmbedding,
    PyEmbeddings,
    ReadLevel,
    UpdateCollectionMetadata,
    UpdateMetadata,
    URIs,
    Vector,
    Where,
    WhereDocument,
)
from chroma_async.model import Space
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
    "Embeddable",
    "Embedding",
    "EmbeddingFunction",
    "Embeddings",
    "GetResult",
    "IDs",
    "Image",
    "Images",
    "Include",
    "IndexingStatus",
    "Loadable",
    "Metadata",
    "Metadatas",
    "OneOrMany",
    "PyEmbedding",
    "PyEmbeddings",
    "QueryResult",
    "ReadLevel",
    "Schema",
    "Space",
    "URIs",
    "UpdateCollectionMetadata",
    "UpdateMetadata",
    "Vector",
    "Where",
    "WhereDocument",
    "validate_where",
    "validate_where_document",
]


def validate_where(where: Where) -> None:
    """Check a metadata filter.

    Raises:
        ValueError: it is none; the message names the place.
    """
    if checked_where(where) is None:
        raise ValueError("where is None: there is nothing to check")


def validate_where_document(where_document: WhereDocument) -> None:
    """Check a filter on documents.

    Raises:
        ValueError: it is none; the message names the place.
    """
    if checked_where_document(where_document) is None:
        raise ValueError("where_document is None: there is nothing to check")
