"""The place from which some programs for Chroma import `OllamaEmbeddingFunction`."""

from chroma_async.client.embeddings import OllamaEmbeddingFunction

__all__ = ["OllamaEmbeddingFunction"]
