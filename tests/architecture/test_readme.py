"""README's examples run, and what it says about the install is what the package says."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import httpx
import pytest
from tests.api.serving import serving
from tests.architecture.tree import ROOT, python_examples

from chroma_async import AsyncHttpClient
from chroma_async.settings import Durability

README = ROOT / "README.md"
EMBEDDED, APPLICATION, SOURCE, WATCH, CHROMAS_CLIENT = python_examples(README)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Host and port of a running server."""
    with serving(tmp_path_factory.mktemp("server")) as url:
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        yield parts.hostname, parts.port


def run_script(example: str, directory: Path) -> None:
    done = subprocess.run([sys.executable, "-c", example], cwd=directory, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.anyio
async def test_the_application_finds_what_is_nearest_among_what_the_filter_allows(server: tuple[str, int]) -> None:
    assert '"localhost", 8000' in APPLICATION
    names: dict[str, Any] = {}
    exec(compile(APPLICATION.replace('"localhost", 8000', repr(server)[1:-1]), str(README), "exec"), names)
    async with AsyncHttpClient(*server) as client:
        films = await client.get_or_create_collection("films")
        await films.add(
            ["old", "near", "far"],
            [[1, 0], [0.9, 0.1], [0, 1]],
            documents=["Metropolis", "Alien", "Amelie"],
            metadatas=[{"year": 1927}, {"year": 1979}, {"year": 2001}],
        )
    app = names["app"]
    browser = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")
    async with app.router.lifespan_context(app), browser:
        answer = await browser.post("/search", json=[1.0, 0.0])
    assert answer.json() == {"ids": ["near", "far"], "titles": ["Alien", "Amelie"]}


def test_the_embedded_example_runs(tmp_path: Path) -> None:
    run_script(EMBEDDED, tmp_path)
    assert (tmp_path / "data" / "VERSION").exists()


def test_the_example_of_a_source_runs(tmp_path: Path) -> None:
    run_script(SOURCE, tmp_path)


def test_the_example_of_the_change_feed_runs(tmp_path: Path) -> None:
    run_script(WATCH, tmp_path)


def test_the_example_with_chromas_own_client_runs(server: tuple[str, int], tmp_path: Path) -> None:
    place = 'host="localhost", port=8000'
    assert place in CHROMAS_CLIENT
    run_script(CHROMAS_CLIENT.replace(place, f'host="{server[0]}", port={server[1]}'), tmp_path)


def test_every_dependency_of_the_client_is_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [dependency.partition(">=")[0] for dependency in project["dependencies"]]
    said = next(line for line in README.read_text(encoding="utf-8").splitlines() if "**A small client.**" in line)
    assert all(name in said for name in names)


@pytest.mark.parametrize("page", ["README.md", "docs/durability.md"])
def test_every_durability_has_its_row(page: str) -> None:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    assert all(any(line.startswith(f"| `{value}`") for line in lines) for value in get_args(Durability))
