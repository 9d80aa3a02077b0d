"""What goes wrong before there is a vector, and packages that are needed only then."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any


class EmbeddingError(RuntimeError):
    """Texts could not be embedded: no model, or a service that refused. The database was not asked anything."""


def required(module: str, command: str) -> Any:
    """Return an optional package.

    Raises:
        ImportError: it is not installed; the message holds the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"this embedding function needs {module}: {command}. cause={error}") from error


def checked_inputs(texts: Sequence[Any]) -> list[str]:
    """Return the texts as a list.

    Raises:
        ValueError: something else than a text among them.
    """
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"this embedding function takes texts only. item {number} is {type(text).__name__}")
    return list(texts)
