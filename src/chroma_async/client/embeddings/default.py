"""The default embedding function: all-MiniLM-L6-v2 in this process, with the same numbers as Chroma's default."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from chroma_async.client.embedding import DEFAULT_NAME, EmbeddingFunction
from chroma_async.client.embeddings.failures import checked_inputs
from chroma_async.client.embeddings.locate import named_directory
from chroma_async.client.embeddings.minilm import MAX_TOKENS, MiniLm
from chroma_async.model import JsonObject, Vectors

ModelKey: TypeAlias = tuple[Path | None, tuple[str, ...] | None, int]

_models: Final[dict[ModelKey, MiniLm]] = {}
_models_lock: Final = threading.Lock()


class DefaultEmbeddingFunction(EmbeddingFunction):
    """all-MiniLM-L6-v2: 384 dimensions, normalised; of each text the first 256 tokens count.

    The model is looked for at the first text: in `model_dir`, else where the environment's CHROMA_ASYNC_MODEL_DIR says,
    else in Chroma's cache, else in our own; and else it is downloaded there (80 MB). `providers` are names of ONNX Runtime's
    execution providers; None takes all that it has. Neither is stored with a collection.

    One model is loaded per process and directory, however many functions and threads use it.
    """

    def __init__(self, model_dir: str | Path | None = None, providers: Sequence[str] | None = None) -> None:
        self._directory = None if model_dir is None else Path(model_dir).expanduser().absolute()
        self._providers = None if providers is None else tuple(providers)

    def __call__(self, input: list[str]) -> Vectors:  # noqa: A002 - Chroma's name
        """Return the vectors of n texts, (n, 384) float32.

        Raises:
            ImportError: the extra is not installed: `pip install 'chroma-async[embeddings]'`.
            EmbeddingError: no model; the message says what to put where.
            ValueError: something else than a text.
        """
        return self._model().embed(checked_inputs(input))

    def max_tokens(self) -> int:
        """Number of tokens of a text that count, with the two that the tokenizer adds."""
        return MAX_TOKENS

    @staticmethod
    def name() -> str:
        return DEFAULT_NAME

    def get_config(self) -> JsonObject:
        return {}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> DefaultEmbeddingFunction:
        return DefaultEmbeddingFunction()

    def _model(self) -> MiniLm:
        """The model is shared; not with a parent process, whose threads a fork leaves behind."""
        directory = named_directory(self._directory)
        key = (directory, self._providers, os.getpid())
        with _models_lock:
            return _models.setdefault(key, MiniLm(directory, self._providers))
