"""Cohere's embeddings of texts."""

from __future__ import annotations

import os
from typing import Any, Final

from chroma_async.client.embedding import EmbeddingFunction
from chroma_async.client.embeddings.http import Endpoint, key_variable, missing_key
from chroma_async.model import JsonObject, Space, Vectors

SERVICE: Final = "cohere"
COHERE_BASE: Final = "https://api.cohere.com"
BASE_VARIABLE: Final = "CO_API_URL"
TEXTS_MAX: Final = 96
"""Cohere's limit of one request."""


class CohereEmbeddingFunction(EmbeddingFunction):
    """Embeds by POST `{api_base}/v1/embed`; async. Configuration as stored by Chroma's class.

    Questions are embedded as such (`search_query`), documents as `search_document`. The key comes from `api_key`, which is
    never stored, or from the environment variable whose name is stored: by default COHERE_API_KEY, else
    CHROMA_COHERE_API_KEY. `api_base` is not stored either; without it CO_API_URL counts, as in Cohere's own package.
    """

    def __init__(
        self,
        api_key: str | None = None,
        model_name: str = "large",
        api_key_env_var: str | None = None,
        api_base: str | None = None,
    ) -> None:
        self._api_key = api_key
        self.model_name = model_name
        self.api_key_env_var = key_variable(api_key_env_var, "COHERE_API_KEY", "CHROMA_COHERE_API_KEY")
        self.api_base = api_base

    async def __call__(self, input: list[str]) -> Vectors:  # noqa: A002 - Chroma's name
        """Return the vectors of n documents, (n, ndim) float32.

        Raises:
            EmbeddingError: no key, no answer, or a refusal.
        """
        return await self._embed(input, "search_document")

    async def embed_query(self, input: list[str]) -> Vectors:  # noqa: A002
        """Return the vectors of n questions, (n, ndim) float32. Raises as for documents."""
        return await self._embed(input, "search_query")

    async def _embed(self, texts: list[str], kind: str) -> Vectors:
        key = self._api_key or os.environ.get(self.api_key_env_var)
        if key is None:
            raise missing_key(SERVICE, self.api_key_env_var)
        base = (self.api_base or os.environ.get(BASE_VARIABLE) or COHERE_BASE).rstrip("/")
        endpoint = Endpoint(SERVICE, f"{base}/v1/embed", {"Authorization": f"Bearer {key}"}, texts_max=TEXTS_MAX)
        return await endpoint.embed(
            texts,
            lambda part: {"model": self.model_name, "texts": part, "input_type": kind},
            lambda answer: answer["embeddings"],
        )

    @staticmethod
    def name() -> str:
        return "cohere"

    def default_space(self) -> Space:
        """The old multilingual model is made for the inner product."""
        return "ip" if self.model_name == "embed-multilingual-v2.0" else "cosine"

    def get_config(self) -> JsonObject:
        return {"api_key_env_var": self.api_key_env_var, "model_name": self.model_name}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> CohereEmbeddingFunction:
        return CohereEmbeddingFunction(**config)
