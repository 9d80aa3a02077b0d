"""The embedding functions, where Chroma has its own: `from chroma_async.utils import embedding_functions`."""

from typing import Any, Final

from chroma_async.client.embedding import EmbeddingFunction, register_embedding_function
from chroma_async.client.embeddings import (
    CohereEmbeddingFunction,
    DefaultEmbeddingFunction,
    OllamaEmbeddingFunction,
    OpenAIEmbeddingFunction,
    SentenceTransformerEmbeddingFunction,
)

__all__ = [
    "CohereEmbeddingFunction",
    "DefaultEmbeddingFunction",
    "EmbeddingFunction",
    "OllamaEmbeddingFunction",
    "OpenAIEmbeddingFunction",
    "SentenceTransformerEmbeddingFunction",
    "register_embedding_function",
]

ABSENT: Final = frozenset(
    {
        "AmazonBedrockEmbeddingFunction",
        "BasetenEmbeddingFunction",
        "Bm25EmbeddingFunction",
        "ChromaBm25EmbeddingFunction",
        "ChromaCloudQwenEmbeddingFunction",
        "ChromaCloudSpladeEmbeddingFunction",
        "ChromaLangchainEmbeddingFunction",
        "CloudflareWorkersAIEmbeddingFunction",
        "FastembedSparseEmbeddingFunction",
        "GoogleGeminiEmbeddingFunction",
        "GoogleGenaiEmbeddingFunction",
        "GoogleGenerativeAiEmbeddingFunction",
        "GooglePalmEmbeddingFunction",
        "GoogleVertexEmbeddingFunction",
        "HuggingFaceEmbeddingFunction",
        "HuggingFaceEmbeddingServer",
        "HuggingFaceSparseEmbeddingFunction",
        "InstructorEmbeddingFunction",
        "JinaEmbeddingFunction",
        "JinaQueryConfig",
        "MistralEmbeddingFunction",
        "MorphEmbeddingFunction",
        "NomicEmbeddingFunction",
        "NomicQueryConfig",
        "ONNXMiniLM_L6_V2",
        "OpenCLIPEmbeddingFunction",
        "PerplexityEmbeddingFunction",
        "RoboflowEmbeddingFunction",
        "Text2VecEmbeddingFunction",
        "TogetherAIEmbeddingFunction",
        "VoyageAIEmbeddingFunction",
        "config_to_embedding_function",
        "known_embedding_functions",
    }
)
"""Names of Chroma that are not here."""


def __getattr__(name: str) -> Any:
    if name in ABSENT:
        raise ImportError(
            f"{name} is not part of chroma_async. Pass that of the package chromadb, or anything else that is called with a "
            "list of texts, sync or async; chroma_async.wrap gives it a name"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
