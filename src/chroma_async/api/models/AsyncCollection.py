"""`from chroma_async.api.models.AsyncCollection import AsyncCollection`, as programs for Chroma say it."""  # noqa: N999

from chroma_async.client._async.collection import AsyncCollection

__all__ = ["AsyncCollection"]
