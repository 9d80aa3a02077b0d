"""chroma_async: an async-first, Chroma-compatible vector database.

Names are imported when they are first used: `import chroma_async` alone loads no client, and a client no engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from chroma_async.client._async.client import (
        AsyncAdminClient,
        AsyncClientAPI,
        AsyncEphemeralClient,
        AsyncHttpClient,
        AsyncPersistentClient,
    )
    from chroma_async.client._async.collection import AsyncCollection
    from chroma_async.client._sync.client import (
        AdminClient,
        ClientAPI,
        EphemeralClient,
        HttpClient,
        PersistentClient,
    )
    from chroma_async.client._sync.collection import Collection
    from chroma_async.client.embedding import EmbeddingFunction, register_embedding_function, wrap
    from chroma_async.client.results import Database, DeleteResult, GetResult, QueryResult, Tenant
    from chroma_async.client.settings import Settings
    from chroma_async.errors import ChromaError
    from chroma_async.model import DEFAULT_DATABASE, DEFAULT_TENANT
    from chroma_async.settings import EngineSettings

_ASYNC: Final = "chroma_async.client._async."
_SYNC: Final = "chroma_async.client._sync."

_HOMES: Final = {
    "AdminClient": _SYNC + "client",
    "AsyncAdminClient": _ASYNC + "client",
    "AsyncClientAPI": _ASYNC + "client",
    "AsyncCollection": _ASYNC + "collection",
    "AsyncEphemeralClient": _ASYNC + "client",
    "AsyncHttpClient": _ASYNC + "client",
    "AsyncPersistentClient": _ASYNC + "client",
    "ChromaError": "chroma_async.errors",
    "ClientAPI": _SYNC + "client",
    "Collection": _SYNC + "collection",
    "DEFAULT_DATABASE": "chroma_async.model",
    "DEFAULT_TENANT": "chroma_async.model",
    "Database": "chroma_async.client.results",
    "DeleteResult": "chroma_async.client.results",
    "EmbeddingFunction": "chroma_async.client.embedding",
    "EngineSettings": "chroma_async.settings",
    "EphemeralClient": _SYNC + "client",
    "GetResult": "chroma_async.client.results",
    "HttpClient": _SYNC + "client",
    "PersistentClient": _SYNC + "client",
    "QueryResult": "chroma_async.client.results",
    "Settings": "chroma_async.client.settings",
    "Tenant": "chroma_async.client.results",
    "register_embedding_function": "chroma_async.client.embedding",
    "wrap": "chroma_async.client.embedding",
}

_MODULES: Final = ("errors",)

__all__ = [
    "AdminClient",
    "AsyncAdminClient",
    "AsyncClientAPI",
    "AsyncCollection",
    "AsyncEphemeralClient",
    "AsyncHttpClient",
    "AsyncPersistentClient",
    "ChromaError",
    "ClientAPI",
    "Collection",
    "DEFAULT_DATABASE",
    "DEFAULT_TENANT",
    "Database",
    "DeleteResult",
    "EmbeddingFunction",
    "EngineSettings",
    "EphemeralClient",
    "GetResult",
    "HttpClient",
    "PersistentClient",
    "QueryResult",
    "Settings",
    "Tenant",
    "register_embedding_function",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
