"""`from chroma_async.api.models.Collection import Collection`, as programs for Chroma say it."""  # noqa: N999

from chroma_async.client._sync.collection import Collection

__all__ = ["Collection"]
