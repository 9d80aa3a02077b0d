"""OpenAI's embeddings, and those of the many services that speak its protocol."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, cast

from chroma_async.client.embedding import EmbeddingFunction
from chroma_async.client.embeddings.http import Endpoint, key_variable, missing_key, without_credentials
from chroma_async.model import Json, JsonObject, Space, Vectors

SERVICE: Final = "openai"
OPENAI_BASE: Final = "https://api.openai.com/v1"
SECRET_HEADERS: Final = ("auth", "key", "token", "secret", "cookie")
"""A header with one of these in its name is sent, but not stored."""


class OpenAIEmbeddingFunction(EmbeddingFunction):
    """Embeds by POST `{api_base}/embeddings`, or by Azure's path when `api_type` is "azure"; async.

    Arguments and stored configuration are those of Chroma's class. The key comes from `api_key`, which is never stored, or
    from the environment variable whose name is stored; without one it is looked up in OPENAI_API_KEY, then
    CHROMA_OPENAI_API_KEY. A server at another `api_base` may need none. `dimensions` counts for models named
    text-embedding-3..., as with Chroma.
    """

    def __init__(
        self,
        api_key: str | None = None,
        model_name: str = "text-embedding-ada-002",
        organization_id: str | None = None,
        api_base: str | None = None,
        api_type: str | None = None,
        api_version: str | None = None,
        deployment_id: str | None = None,
        default_headers: Mapping[str, str] | None = None,
        dimensions: int | None = None,
        api_key_env_var: str | None = None,
    ) -> None:
        self._api_key = api_key
        self.model_name = model_name
        self.organization_id = organization_id
        self.api_base = api_base
        self.api_type = api_type
        self.api_version = api_version
        self.deployment_id = deployment_id
        self.default_headers = None if default_headers is None else dict(default_headers)
        self.dimensions = dimensions
        self.api_key_env_var = key_variable(api_key_env_var, "OPENAI_API_KEY", "CHROMA_OPENAI_API_KEY")
        if api_type == "azure" and not (api_base and api_version and deployment_id):
            raise ValueError("azure needs api_base, api_version and deployment_id")

    async def __call__(self, input: list[str]) -> Vectors:  # noqa: A002 - Chroma's name
        """Return the vectors of n texts, (n, ndim) float32.

        Raises:
            EmbeddingError: no key, no answer, or a refusal.
        """
        endpoint = Endpoint(SERVICE, self._url(), self._headers())
        return await endpoint.embed(input, self._body, _vectors)

    def _body(self, texts: list[str]) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model_name, "input": texts, "encoding_format": "float"}
        if self.dimensions is not None and "text-embedding-3" in self.model_name:
            body["dimensions"] = self.dimensions
        return body

    def _url(self) -> str:
        base = (self.api_base or OPENAI_BASE).rstrip("/")
        if self.api_type == "azure":
            return f"{base}/openai/deployments/{self.deployment_id}/embeddings?api-version={self.api_version}"
        return f"{base}/embeddings"

    def _headers(self) -> dict[str, str]:
        headers = dict(self.default_headers or {})
        if self.organization_id is not None:
            headers["OpenAI-Organization"] = self.organization_id
        key = self._api_key or os.environ.get(self.api_key_env_var)
        if key is None and self.api_base is None:
            raise missing_key(SERVICE, self.api_key_env_var)
        if key is not None:
            headers.update({"api-key": key} if self.api_type == "azure" else {"Authorization": f"Bearer {key}"})
        return headers

    @staticmethod
    def name() -> str:
        return "openai"

    def default_space(self) -> Space:
        return "cosine"

    def get_config(self) -> JsonObject:
        return {
            "api_key_env_var": self.api_key_env_var,
            "model_name": self.model_name,
            "organization_id": self.organization_id,
            "api_base": None if self.api_base is None else without_credentials(self.api_base),
            "api_type": self.api_type,
            "api_version": self.api_version,
            "deployment_id": self.deployment_id,
            "default_headers": cast("Json", _storable(self.default_headers)),
            "dimensions": self.dimensions,
        }

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> OpenAIEmbeddingFunction:
        return OpenAIEmbeddingFunction(**config)


def _storable(headers: Mapping[str, str] | None) -> dict[str, str] | None:
    if headers is None:
        return None
    return {name: value for name, value in headers.items() if not any(word in name.lower() for word in SECRET_HEADERS)}


def _vectors(answer: Any) -> list[list[float]]:
    """The answer's items carry their position, and need not come in order."""
    return [item["embedding"] for item in sorted(answer["data"], key=lambda item: item["index"])]
