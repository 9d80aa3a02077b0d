"""The public names: one list, told three times in `__init__.py`, since importing must stay lazy."""

from __future__ import annotations

import ast
from pathlib import Path

import chroma_async

SOURCE = Path(chroma_async.__file__)


def names_for_type_checkers() -> dict[str, str]:
    """Name and module of what is imported under `if TYPE_CHECKING`."""
    blocks = [node for node in ast.parse(SOURCE.read_text(encoding="utf-8")).body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def test_names_for_type_checkers_are_those_that_are_imported_at_run_time() -> None:
    assert names_for_type_checkers() == chroma_async._HOMES


def test_all_lists_each_public_name_once() -> None:
    assert sorted(chroma_async.__all__) == sorted(chroma_async._HOMES)


def test_a_public_name_is_the_object_of_its_home() -> None:
    for name, home in chroma_async._HOMES.items():
        module = __import__(home, fromlist=[name])
        assert getattr(chroma_async, name) is getattr(module, name)
