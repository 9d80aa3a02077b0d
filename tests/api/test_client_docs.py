"""The examples of docs/client.md run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api.serving import serving

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(example: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, str(PAGE), "exec", dont_inherit=True), names)
    return names


@pytest.mark.parametrize("example", EXAMPLES[1:])
def test_an_example_runs(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(example)


@pytest.mark.anyio
async def test_the_application_answers_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path) as url:
        monkeypatch.setenv("VECTORS_URL", url)
        app = run(EXAMPLES[0])["app"]
        browser = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")
        async with app.router.lifespan_context(app), browser:
            answer = await browser.get("/search", params={"q": "love"})
    assert answer.json()["titles"][0] == "love in Paris"
