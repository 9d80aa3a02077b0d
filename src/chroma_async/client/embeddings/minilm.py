"""all-MiniLM-L6-v2 on ONNX Runtime: tokens, hidden states, their mean, at length 1."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_async.client.embeddings.download import CHROMA_ARCHIVE, fetch
from chroma_async.client.embeddings.failures import EmbeddingError, required
from chroma_async.client.embeddings.locate import (
    MODEL_FILE,
    MODEL_NAME,
    SUBDIRECTORY,
    TOKENIZER_FILE,
    checked_directory,
    chroma_directory,
    has_model,
    own_cache,
)
from chroma_async.model import Vectors

log = logging.getLogger("chroma_async.embeddings")

DIMENSION: Final = 384
MAX_TOKENS: Final = 256
BATCH_TEXTS: Final = 32
WINDOW_TEXTS: Final = 1024
"""So many texts are tokenized at once, and sorted by length, so that the texts of a batch need little padding."""

SHORTEST_NORM: Final = 1e-12
INSTALL: Final = "pip install 'chroma-async[embeddings]'"
SLOW_PROVIDERS: Final = frozenset({"CoreMLExecutionProvider"})
"""Slower than the CPU for this model; left out unless asked for, as by Chroma."""

TokenIds: TypeAlias = list[int]
Tokens: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A session of ONNX Runtime and a tokenizer, both usable from many threads at once."""

    session: Any
    tokenizer: Any

    def token_ids(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return each text's tokens, at most 256. By the batch call, because the single one holds the interpreter's lock."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]

    def vectors(self, batch: Sequence[TokenIds]) -> Vectors:
        """Return the vectors of n texts, (n, 384) float32."""
        ids, mask = padded(batch)
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return pooled(self.session.run(None, inputs)[0], mask)


class MiniLm:
    """The model, loaded at the first text; `directory` None means that of a cache, filled by a download if need be."""

    def __init__(self, directory: Path | None, providers: Sequence[str] | None = None) -> None:
        self._directory = directory
        self._providers = providers
        self._lock = threading.Lock()
        self._loaded: Loaded | None = None

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of n texts, (n, 384) float32, of length 1."""
        vectors = np.empty((len(texts), DIMENSION), dtype=np.float32)
        if not texts:
            return vectors
        loaded = self._ready()
        for start in range(0, len(texts), WINDOW_TEXTS):
            ids = loaded.token_ids(texts[start : start + WINDOW_TEXTS])
            for rows in _batches_by_length(ids):
                vectors[start + np.array(rows)] = loaded.vectors([ids[row] for row in rows])
        return vectors

    def _ready(self) -> Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> Loaded:
        """The packages come first: nobody should download a model to be told that he can't use it."""
        runtime, tokenizers = required("onnxruntime", INSTALL), required("tokenizers", INSTALL)
        if self._directory is not None:
            return _loaded(runtime, tokenizers, checked_directory(self._directory), self._providers)
        if has_model(chroma_directory()):
            try:
                return _loaded(runtime, tokenizers, chroma_directory(), self._providers)
            except EmbeddingError as error:  # Chroma unpacks in place, so a half-written file may be met
                log.warning("model.skipped directory=%s cause=%s", chroma_directory(), error)
        cached = own_cache() / SUBDIRECTORY
        directory = cached if has_model(cached) else fetch(CHROMA_ARCHIVE, own_cache())
        return _loaded(runtime, tokenizers, directory, self._providers)


def _batches_by_length(ids: Sequence[TokenIds]) -> Iterator[list[int]]:
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    for start in range(0, len(order), BATCH_TEXTS):
        yield order[start : start + BATCH_TEXTS]


def padded(batch: Sequence[TokenIds]) -> tuple[Tokens, Tokens]:
    """Return token ids and attention mask, both (n, longest) int64; the padding token has id 0.

    Chroma pads to 256 always. The mask makes padding weightless, so the vectors are the same, and ours are ready sooner.
    """
    ids = np.zeros((len(batch), max(map(len, batch))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return ids, mask


def pooled(hidden: npt.NDArray[np.float32], mask: Tokens) -> Vectors:
    """Return the mean of each text's hidden states (n, longest, 384), scaled to length 1, as (n, 384) float32."""
    weights = mask.astype(np.float64)
    means = np.einsum("ntd,nt->nd", hidden, weights) / np.maximum(weights.sum(axis=1), 1.0)[:, np.newaxis]
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    return np.asarray(means / np.maximum(norms, SHORTEST_NORM), dtype=np.float32)


def _loaded(runtime: Any, tokenizers: Any, directory: Path, providers: Sequence[str] | None) -> Loaded:
    try:
        session = _session(runtime, directory, providers)
        tokenizer = tokenizers.Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    except Exception as error:  # neither library has a base class for what it raises
        cause = " ".join(str(error).split())
        raise EmbeddingError(
            f"can't load {MODEL_NAME}; replace the files, or choose other providers. directory={directory} cause={cause!r}"
        ) from error
    found = session.get_outputs()[0].shape
    if len(found) != 3 or found[2] != DIMENSION:
        raise EmbeddingError(
            f"this is not {MODEL_NAME}, whose output is (n, tokens, 384). directory={directory} output={found}"
        )
    tokenizer.enable_truncation(max_length=MAX_TOKENS)
    tokenizer.no_padding()
    log.info("model.loaded name=%s directory=%s", MODEL_NAME, directory)
    return Loaded(session, tokenizer)


def _session(runtime: Any, directory: Path, providers: Sequence[str] | None) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # threads that wait leave the processor to others
    chosen = [name for name in runtime.get_available_providers() if name not in SLOW_PROVIDERS]
    return runtime.InferenceSession(
        str(directory / MODEL_FILE), sess_options=options, providers=chosen if providers is None else list(providers)
    )
