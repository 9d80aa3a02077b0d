"""The place from which some programs for Chroma import `SentenceTransformerEmbeddingFunction`."""

from chroma_async.client.embeddings import SentenceTransformerEmbeddingFunction

__all__ = ["SentenceTransformerEmbeddingFunction"]
