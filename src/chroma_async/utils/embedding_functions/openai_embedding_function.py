"""The place from which some programs for Chroma import `OpenAIEmbeddingFunction`."""

from chroma_async.client.embeddings import OpenAIEmbeddingFunction

__all__ = ["OpenAIEmbeddingFunction"]
