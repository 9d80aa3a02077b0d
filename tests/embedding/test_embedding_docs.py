"""The examples of docs/embeddings.md run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "embeddings.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.usefixtures("installed_model")
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(example: str) -> None:
    exec(compile(example, str(PAGE), "exec", dont_inherit=True), {"__name__": "example"})


@pytest.mark.usefixtures("installed_model")
def test_the_first_example_finds_the_film_about_space(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(EXAMPLES[0], str(PAGE), "exec", dont_inherit=True), {"__name__": "example"})
    assert capsys.readouterr().out == "[['space']]\n"
