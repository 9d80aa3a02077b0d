"""Models that Ollama serves, mostly on this machine."""

from __future__ import annotations

from typing import Any, Final

from chroma_async.client.embedding import EmbeddingFunction
from chroma_async.client.embeddings.http import Endpoint, without_credentials
from chroma_async.model import JsonObject, Space, Vectors

OLD_PATH: Final = "/api/embeddings"
"""Chroma's class once took the URL with this path, and stored it so."""


class OllamaEmbeddingFunction(EmbeddingFunction):
    """Embeds by POST `{url}/api/embed`; async. `timeout` is in seconds. Configuration as stored by Chroma's class."""

    def __init__(
        self, url: str = "http://localhost:11434", model_name: str = "chroma/all-minilm-l6-v2-f32", timeout: int = 60
    ) -> None:
        self.url = url
        self.model_name = model_name
        self.timeout = timeout

    async def __call__(self, input: list[str]) -> Vectors:  # noqa: A002 - Chroma's name
        """Return the vectors of n texts, (n, ndim) float32.

        Raises:
            EmbeddingError: no answer, or a refusal, such as a model that was not pulled.
        """
        base = self.url.rstrip("/").removesuffix(OLD_PATH)
        endpoint = Endpoint("ollama", f"{base}/api/embed", timeout_seconds=self.timeout)
        return await endpoint.embed(
            input, lambda texts: {"model": self.model_name, "input": texts}, lambda answer: answer["embeddings"]
        )

    @staticmethod
    def name() -> str:
        return "ollama"

    def default_space(self) -> Space:
        return "cosine"

    def get_config(self) -> JsonObject:
        return {"url": without_credentials(self.url), "model_name": self.model_name, "timeout": self.timeout}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> OllamaEmbeddingFunction:
        return OllamaEmbeddingFunction(**config)
