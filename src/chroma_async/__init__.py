"""chroma_async: an async-first, Chroma-compatible vector database."""
