"""What Chroma's programs import from `chromadb.api`, mostly for annotations."""

from importlib import import_module
from typing import Any, Final

from chroma_async.client._async.client import AsyncAdminAPI, AsyncClientAPI
from chroma_async.client._sync.client import AdminAPI, ClientAPI

ServerAPI = ClientAPI
"""For annotations: Chroma's is of its inside, of which clients are made."""

__all__ = ["AdminAPI", "AsyncAdminAPI", "AsyncClientAPI", "ClientAPI", "ServerAPI"]

_MODULES: Final = ("client", "models", "types")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
