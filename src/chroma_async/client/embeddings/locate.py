"""Where the default model's files are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from chroma_async.client.embeddings.failures import EmbeddingError

MODEL_NAME: Final = "all-MiniLM-L6-v2"
DIRECTORY_VARIABLE: Final = "CHROMA_ASYNC_MODEL_DIR"
SUBDIRECTORY: Final = "onnx"
"""Where the files are inside of Chroma's archive and caches."""

MODEL_FILE: Final = "model.onnx"
TOKENIZER_FILE: Final = "tokenizer.json"
FILES: Final = (MODEL_FILE, TOKENIZER_FILE)


def named_directory(argument: Path | None) -> Path | None:
    """Return the directory that the caller, else the environment, names; None when neither does."""
    if argument is not None:
        return argument
    named = os.environ.get(DIRECTORY_VARIABLE)
    return Path(named).expanduser().absolute() if named else None


def checked_directory(directory: Path) -> Path:
    """Return where in the named directory the files are: in itself, or in `onnx` below it.

    Raises:
        EmbeddingError: in neither.
    """
    for candidate in (directory, directory / SUBDIRECTORY):
        if has_model(candidate):
            return candidate
    raise EmbeddingError(
        f"the model directory needs {MODEL_FILE} and {TOKENIZER_FILE} of {MODEL_NAME}; put them there, or name another "
        f"with model_dir=... or {DIRECTORY_VARIABLE}. directory={directory}"
    )


def has_model(directory: Path) -> bool:
    """Whether the files are there, and not empty."""
    return all((directory / name).is_file() and (directory / name).stat().st_size > 0 for name in FILES)


def chroma_directory() -> Path:
    """Where Chroma's client keeps the unpacked model."""
    return Path.home() / ".cache" / "chroma" / "onnx_models" / MODEL_NAME / SUBDIRECTORY


def own_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """Where we keep it, and what goes with downloading it."""
    base = environment.get("XDG_CACHE_HOME") or environment.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "chroma_async" / MODEL_NAME
