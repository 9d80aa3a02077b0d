"""Helpers where Chroma has them: `chroma_async.utils.embedding_functions` and `chroma_async.utils.batch_utils`."""

from importlib import import_module
from typing import Any, Final

_MODULES: Final = ("batch_utils", "embedding_functions")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
