"""pyarrow, where it is installed: nothing else needs it."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def pyarrow(purpose: str = "Arrow") -> Any:
    """Return the package.

    Raises:
        ImportError: it is not installed; the message says how, and for what.
    """
    try:
        package = import_module("pyarrow")
        import_module("pyarrow.ipc")
    except ModuleNotFoundError as error:
        raise ImportError(f"{purpose} needs pyarrow: pip install 'chroma-async[arrow]'. missing={error.name}") from error
    return package


def parquet() -> Any:
    """Return `pyarrow.parquet`.

    Raises:
        ImportError: pyarrow is not installed; the message says how.
    """
    pyarrow("Parquet")
    return import_module("pyarrow.parquet")
