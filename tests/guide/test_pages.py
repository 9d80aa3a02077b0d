"""Every example of docs/guide runs, in every colour."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tests.guide.colours import Colour

import chroma_async

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
PAGES = sorted(path for path in GUIDE.glob("*.md") if path.name != "README.md")
BEGINNINGS = ("import chroma_async as chromadb\n", "from chroma_async import ")


def examples(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page: Path, colour: Colour, tmp_path: Path) -> None:
    found = examples(page)
    assert found
    for number, example in enumerate(found):
        assert example.startswith(BEGINNINGS), example
        directory = tmp_path / str(number)
        directory.mkdir()
        os.chdir(directory)
        if colour.port is not None:
            with chroma_async.HttpClient(port=colour.port) as client:
                client.reset()
        colour.run(example, f"{page.name} example {number + 1}")


def test_the_contents_run_and_name_every_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    contents = GUIDE / "README.md"
    for example in examples(contents):
        exec(compile(example, contents.name, "exec", dont_inherit=True), {"__name__": "example"})
    listed = re.findall(r"^\d+\. \[.+\]\((.+)\)$", contents.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == [page.name for page in PAGES]
