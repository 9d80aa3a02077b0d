"""Embedding functions that come with the client: the default model, and adapters for services and other libraries.

Importing this loads no model and no vendor's package; both happen at the first text.
"""

from chroma_async.client.embeddings.cohere import CohereEmbeddingFunction
from chroma_async.client.embeddings.default import DefaultEmbeddingFunction
from chroma_async.client.embeddings.failures import EmbeddingError
from chroma_async.client.embeddings.ollama import OllamaEmbeddingFunction
from chroma_async.client.embeddings.openai import OpenAIEmbeddingFunction
from chroma_async.client.embeddings.sentence_transformer import SentenceTransformerEmbeddingFunction

__all__ = [
    "CohereEmbeddingFunction",
    "DefaultEmbeddingFunction",
    "EmbeddingError",
    "OllamaEmbeddingFunction",
    "OpenAIEmbeddingFunction",
    "SentenceTransformerEmbeddingFunction",
]
