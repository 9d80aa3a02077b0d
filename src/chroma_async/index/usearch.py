"""usearch, imported where a graph is to be read or built, and in an order that leaves the process intact.

Importing it takes a tenth of the time in which a server starts, and many a server has no graph.

usearch's wheel for Linux carries a copy of the C++ runtime and shares parts of it (the ids of `std::locale`'s facets) with
every library that is loaded later. Where that copy is the first to be set up, a library with the system's runtime, such as
onnxruntime, crashes the process when it is imported. re2 uses the system's runtime, and sets that up first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usearch.index import Index


def usearch_index() -> type[Index]:
    """The class of usearch's indexes."""
    import re2  # noqa: F401  # pyright: ignore[reportUnusedImport]
    from usearch.index import Index

    return Index


__all__ = ["usearch_index"]
