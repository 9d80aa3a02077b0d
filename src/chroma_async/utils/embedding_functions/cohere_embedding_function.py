"""The place from which some programs for Chroma import `CohereEmbeddingFunction`."""

from chroma_async.client.embeddings import CohereEmbeddingFunction

__all__ = ["CohereEmbeddingFunction"]
