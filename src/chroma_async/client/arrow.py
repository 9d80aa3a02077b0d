"""pyarrow and rich where they are installed: neither is needed but for what it is named in."""

from __future__ import annotations

from typing import Any


def pyarrow(purpose: str = "Arrow") -> Any:
    """Return the package.

    Raises:
        ImportError: it is not installed; the message says how, and for what.
    """
    try:
        import pyarrow as package
        import pyarrow.ipc
    except ModuleNotFoundError as error:
        raise ImportError(f"{purpose} needs pyarrow: pip install 'chroma-async[arrow]'. missing={error.name}") from error
    del pyarrow
    return package


def parquet() -> Any:
    """Return `pyarrow.parquet`.

    Raises:
        ImportError: pyarrow is not installed; the message says how.
    """
    pyarrow("Parquet")
    import pyarrow.parquet as package

    return package
