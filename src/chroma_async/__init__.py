"""chroma_async: an async-first, Chroma-compatible vector database.

Names are imported when they are first used: `import chroma_async` alone loads no client, and a client no engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from chroma_async.client._async.client import (
        AsyncAdminAPI,
        AsyncAdminClient,
        AsyncClient,
        AsyncClientAPI,
        AsyncEphemeralClient,
        AsyncHttpClient,
        AsyncPersistentClient,
    )
    from chroma_async.client._async.collection import AsyncCollection
    from chroma_async.client._async.ingest import AsyncIngestStream
    from chroma_async.client._async.watch import AsyncWatch
    from chroma_async.client._sync.client import (
        AdminAPI,
        AdminClient,
        Client,
        ClientAPI,
        EphemeralClient,
        HttpClient,
        PersistentClient,
    )
    from chroma_async.client._sync.collection import Collection
    from chroma_async.client._sync.ingest import IngestStream
    from chroma_async.client._sync.watch import Watch
    from chroma_async.client.embedding import EmbeddingFunction, register_embedding_function, wrap
    from chroma_async.client.ingest_report import IngestReport
    from chroma_async.client.process import configure, get_settings
    from chroma_async.client.results import Database, DeleteResult, GetResult, QueryResult, Tenant
    from chroma_async.client.schema import (
        BoolInvertedIndexConfig,
        FloatInvertedIndexConfig,
        FtsIndexConfig,
        HnswIndexConfig,
        IntInvertedIndexConfig,
        Schema,
        SpannIndexConfig,
        SparseVectorIndexConfig,
        StringInvertedIndexConfig,
        VectorIndexConfig,
    )
    from chroma_async.client.settings import Settings
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
        TokenTransportHeader,
        UpdateCollectionMetadata,
        UpdateMetadata,
        URIs,
        Where,
        WhereDocument,
    )
    from chroma_async.client.watching import Mirror
    from chroma_async.errors import ChromaError
    from chroma_async.model import DEFAULT_DATABASE, DEFAULT_TENANT
    from chroma_async.protocol.changes import Change
    from chroma_async.protocol.ingest import Line, LineError
    from chroma_async.settings import EngineSettings

_ASYNC: Final = "chroma_async.client._async."
_SYNC: Final = "chroma_async.client._sync."

_HOMES: Final = {
    "AdminAPI": _SYNC + "client",
    "AdminClient": _SYNC + "client",
    "AsyncAdminAPI": _ASYNC + "client",
    "AsyncAdminClient": _ASYNC + "client",
    "AsyncClient": _ASYNC + "client",
    "AsyncClientAPI": _ASYNC + "client",
    "AsyncCollection": _ASYNC + "collection",
    "AsyncEphemeralClient": _ASYNC + "client",
    "AsyncHttpClient": _ASYNC + "client",
    "AsyncIngestStream": _ASYNC + "ingest",
    "AsyncPersistentClient": _ASYNC + "client",
    "AsyncWatch": _ASYNC + "watch",
    "BoolInvertedIndexConfig": "chroma_async.client.schema",
    "Change": "chroma_async.protocol.changes",
    "ChromaError": "chroma_async.errors",
    "Client": _SYNC + "client",
    "ClientAPI": _SYNC + "client",
    "Collection": _SYNC + "collection",
    "CollectionMetadata": "chroma_async.client.types",
    "DEFAULT_DATABASE": "chroma_async.model",
    "DEFAULT_TENANT": "chroma_async.model",
    "Database": "chroma_async.client.results",
    "DeleteResult": "chroma_async.client.results",
    "Document": "chroma_async.client.types",
    "Documents": "chroma_async.client.types",
    "Embedding": "chroma_async.client.types",
    "EmbeddingFunction": "chroma_async.client.embedding",
    "Embeddings": "chroma_async.client.types",
    "EngineSettings": "chroma_async.settings",
    "EphemeralClient": _SYNC + "client",
    "FloatInvertedIndexConfig": "chroma_async.client.schema",
    "FtsIndexConfig": "chroma_async.client.schema",
    "GetResult": "chroma_async.client.results",
    "HnswIndexConfig": "chroma_async.client.schema",
    "HttpClient": _SYNC + "client",
    "ID": "chroma_async.client.types",
    "IDs": "chroma_async.client.types",
    "Include": "chroma_async.client.types",
    "IngestReport": "chroma_async.client.ingest_report",
    "IngestStream": _SYNC + "ingest",
    "IntInvertedIndexConfig": "chroma_async.client.schema",
    "Line": "chroma_async.protocol.ingest",
    "LineError": "chroma_async.protocol.ingest",
    "Metadata": "chroma_async.client.types",
    "Metadatas": "chroma_async.client.types",
    "Mirror": "chroma_async.client.watching",
    "PersistentClient": _SYNC + "client",
    "QueryResult": "chroma_async.client.results",
    "ReadLevel": "chroma_async.client.types",
    "Schema": "chroma_async.client.schema",
    "Settings": "chroma_async.client.settings",
    "SpannIndexConfig": "chroma_async.client.schema",
    "SparseVectorIndexConfig": "chroma_async.client.schema",
    "StringInvertedIndexConfig": "chroma_async.client.schema",
    "Tenant": "chroma_async.client.results",
    "TokenTransportHeader": "chroma_async.client.types",
    "URI": "chroma_async.client.types",
    "URIs": "chroma_async.client.types",
    "UpdateCollectionMetadata": "chroma_async.client.types",
    "UpdateMetadata": "chroma_async.client.types",
    "VectorIndexConfig": "chroma_async.client.schema",
    "Watch": _SYNC + "watch",
    "Where": "chroma_async.client.types",
    "WhereDocument": "chroma_async.client.types",
    "configure": "chroma_async.client.process",
    "get_settings": "chroma_async.client.process",
    "register_embedding_function": "chroma_async.client.embedding",
    "wrap": "chroma_async.client.embedding",
}

_MODULES: Final = ("api", "config", "errors", "utils")

__all__ = [
    "AdminAPI",
    "AdminClient",
    "AsyncAdminAPI",
    "AsyncAdminClient",
    "AsyncClient",
    "AsyncClientAPI",
    "AsyncCollection",
    "AsyncEphemeralClient",
    "AsyncHttpClient",
    "AsyncIngestStream",
    "AsyncPersistentClient",
    "AsyncWatch",
    "BoolInvertedIndexConfig",
    "Change",
    "ChromaError",
    "Client",
    "ClientAPI",
    "Collection",
    "CollectionMetadata",
    "DEFAULT_DATABASE",
    "DEFAULT_TENANT",
    "Database",
    "DeleteResult",
    "Document",
    "Documents",
    "Embedding",
    "EmbeddingFunction",
    "Embeddings",
    "EngineSettings",
    "EphemeralClient",
    "FloatInvertedIndexConfig",
    "FtsIndexConfig",
    "GetResult",
    "HnswIndexConfig",
    "HttpClient",
    "ID",
    "IDs",
    "Include",
    "IngestReport",
    "IngestStream",
    "IntInvertedIndexConfig",
    "Line",
    "LineError",
    "Metadata",
    "Metadatas",
    "Mirror",
    "PersistentClient",
    "QueryResult",
    "ReadLevel",
    "Schema",
    "Settings",
    "SpannIndexConfig",
    "SparseVectorIndexConfig",
    "StringInvertedIndexConfig",
    "Tenant",
    "TokenTransportHeader",
    "URI",
    "URIs",
    "UpdateCollectionMetadata",
    "UpdateMetadata",
    "VectorIndexConfig",
    "Watch",
    "Where",
    "WhereDocument",
    "configure",
    "get_settings",
    "register_embedding_function",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name == "__version__":
        return import_module("importlib.metadata").version("chroma-async")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
