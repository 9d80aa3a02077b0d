"""usearch, imported in an order that leaves the process intact.

usearch's wheel for Linux carries a copy of the C++ runtime and shares parts of it (the ids of `std::locale`'s facets) with
every library that is loaded later. Where that copy is the first to be set up, a library with the system's runtime, such as
onnxruntime, crashes the process when it is imported. re2 uses the system's runtime, and sets that up first.
"""

import re2  # noqa: F401  # pyright: ignore[reportUnusedImport]
from usearch.index import Index

__all__ = ["Index"]
