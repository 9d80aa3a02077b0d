"""The settings of this process: what `configure` sets, and a client takes that was given none.

Chroma's API has them; everything else in the project takes its settings as arguments.
"""

from __future__ import annotations

from typing import Any

from chroma_async.client.settings import Settings

_settings = Settings()


def configure(**kwargs: Any) -> None:
    """Replace the settings that `Client()` and `AdminClient()` take when they are given none.

    Raises:
        ValueError: a name that neither Chroma nor we know.
    """
    global _settings
    _settings = Settings(**kwargs)


def get_settings() -> Settings:
    """Return what `configure` set last, else the defaults."""
    return _settings
