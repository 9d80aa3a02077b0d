"""What Chroma's programs import from `chromadb.api.client`."""

from chroma_async import AdminClient, Client, Settings
from chroma_async.client._sync.client import AdminAPI, ClientAPI
from chroma_async.model import DEFAULT_DATABASE, DEFAULT_TENANT

__all__ = [
    "DEFAULT_DATABASE",
    "DEFAULT_TENANT",
    "AdminAPI",
    "AdminClient",
    "Client",
    "ClientAPI",
    "Settings",
    "SharedSystemClient",
]


class SharedSystemClient:
    """Chroma's cache of systems that clients share. Ours share nothing."""

    @staticmethod
    def clear_system_cache() -> None:
        """Nothing is cached."""
