"""Settings and the names of what always exists, where Chroma has them: `from chroma_async.config import Settings`."""

from chroma_async.client.settings import Settings
from chroma_async.model import DEFAULT_DATABASE, DEFAULT_TENANT

__all__ = ["DEFAULT_DATABASE", "DEFAULT_TENANT", "Settings"]
