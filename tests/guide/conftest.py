"""The four ways in which every example is run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.api.serving import serving
from tests.guide.colours import Colour

import chroma_async


@pytest.fixture(scope="session")
def guide_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a server that allows reset."""
    with serving(tmp_path_factory.mktemp("guide")) as url:
        yield urlsplit(url).port or 80


@pytest.fixture(params=["sync", "async", "http sync", "http async"])
def colour(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Colour:
    """A colour with nothing stored: an empty working directory, a server after a reset."""
    monkeypatch.chdir(tmp_path)
    is_async = request.param.endswith("async")
    if not request.param.startswith("http"):
        return Colour(is_async, None)
    port: int = request.getfixturevalue("guide_port")
    with chroma_async.HttpClient(port=port) as client:
        client.reset()
    return Colour(is_async, port)
