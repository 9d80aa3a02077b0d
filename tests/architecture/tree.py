"""The repository as text: its files, the links and the Python in its pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = (".ci", "docs", "load_tests", "ops", "scripts", "src", "tests")
GENERATED = {ROOT / "load_tests" / "results"}

_PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def text_files() -> Iterator[Path]:
    """Files that people wrote, or that are generated into the repository; no data, caches or environments."""
    yield from (path for path in sorted(ROOT.iterdir()) if path.is_file() and not _is_made(path))
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and not GENERATED & set(path.parents):
                yield path


def _is_made(path: Path) -> bool:
    """Whether a tool left it: measured coverage, or git, which has a file where a worktree's directory would be."""
    return path.name == ".git" or path.name.startswith(".coverage")


def pages() -> list[Path]:
    return [path for path in text_files() if path.suffix == ".md"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_examples(page: Path) -> list[str]:
    return _PYTHON.findall(page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Targets within the repository, as they are written."""
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    return [target for target in _LINK.findall(text) if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """What `#...` may name in a page: its headings as GitHub writes them."""
    headings = _HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
