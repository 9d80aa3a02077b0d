"""Models of the sentence-transformers package, in this process."""

from __future__ import annotations

import threading
from typing import Any, Final, cast

import numpy as np

from chroma_async.client.embedding import EmbeddingFunction
from chroma_async.client.embeddings.failures import checked_inputs, required
from chroma_async.model import Json, JsonObject, Space, Vectors

_models: Final[dict[str, Any]] = {}
_models_lock: Final = threading.Lock()


class SentenceTransformerEmbeddingFunction(EmbeddingFunction):
    """Embeds with `SentenceTransformer(model_name, device=device, **kwargs)`, loaded at the first text, once per process.

    Configuration as stored by Chroma's class. A stored one that asks for `trust_remote_code` is refused: whoever may write
    to the server could run code here; pass the function itself instead.
    """

    def __init__(
        self,
        model_name: str = "all-MiniLM-L6-v2",
        device: str = "cpu",
        normalize_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        self.model_name = model_name
        self.device = device
        self.normalize_embeddings = normalize_embeddings
        self.kwargs = kwargs
        for name, value in kwargs.items():
            if not isinstance(value, str | int | float | bool | list | dict | tuple):
                raise ValueError(
                    f"arguments of the model must be plain values, they are stored. {name}={type(value).__name__}"
                )

    def __call__(self, input: list[str]) -> Vectors:  # noqa: A002 - Chroma's name
        """Return the vectors of n texts, (n, ndim) float32.

        Raises:
            ImportError: `pip install sentence-transformers`.
        """
        texts = checked_inputs(input)
        encoded = self._model().encode(
            texts, convert_to_numpy=True, normalize_embeddings=self.normalize_embeddings, show_progress_bar=False
        )
        return np.asarray(encoded, dtype=np.float32)

    def _model(self) -> Any:
        key = repr((self.model_name, self.device, sorted(self.kwargs.items())))
        with _models_lock:
            if key not in _models:
                package = required("sentence_transformers", "pip install sentence-transformers")
                _models[key] = package.SentenceTransformer(self.model_name, device=self.device, **self.kwargs)
            return _models[key]

    @staticmethod
    def name() -> str:
        return "sentence_transformer"

    def default_space(self) -> Space:
        return "cosine"

    def get_config(self) -> JsonObject:
        return {
            "model_name": self.model_name,
            "device": self.device,
            "normalize_embeddings": self.normalize_embeddings,
            "kwargs": cast("Json", self.kwargs),
        }

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> SentenceTransformerEmbeddingFunction:
        if _asks_for_remote_code(config):
            raise ValueError("a stored configuration may not ask for trust_remote_code, in whatever place")
        named = dict(config)
        kwargs: dict[str, Any] = named.pop("kwargs", None) or {}
        return SentenceTransformerEmbeddingFunction(**named, **kwargs)


def _asks_for_remote_code(value: object) -> bool:
    """Whether a stored value would let code of a model run: the library looks for that in several of its arguments."""
    if isinstance(value, dict):
        entries = cast("dict[str, object]", value)
        return any(
            (name == "trust_remote_code" and bool(item)) or _asks_for_remote_code(item) for name, item in entries.items()
        )
    return isinstance(value, list) and any(_asks_for_remote_code(item) for item in cast("list[object]", value))
