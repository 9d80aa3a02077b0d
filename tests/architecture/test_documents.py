"""Pages agree with the repository: links lead somewhere, names exist, nothing points into somebody's machine."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest
from tests.architecture.tree import ROOT, anchors, links, name_of, pages, python_examples, text_files

import chroma_async
from chroma_async.engine.invariants import CHECKERS

INVARIANTS = (ROOT / "docs" / "internals" / "invariants.md").read_text(encoding="utf-8")
PUBLIC_MODULES = {"chroma_async.errors", "chroma_async.client.embeddings"}


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in links(page):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{name_of(page)} links to {target}"
        assert not anchor or anchor in anchors(path), f"{name_of(page)} links to {target}"


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_examples_import_only_public_names(page: Path) -> None:
    for example in python_examples(page):
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("chroma_async"):
                assert {alias.name for alias in node.names} <= public_names(node.module), ast.unparse(node)


def public_names(module: str) -> set[str]:
    if module == "chroma_async":
        return {*chroma_async.__all__, "errors"}
    return set(dir(importlib.import_module(module))) if module in PUBLIC_MODULES else set()


def test_no_file_names_a_directory_of_somebodys_machine() -> None:
    private = re.compile(rb"(?<![\w.-])/(?:home|root|work)/")
    assert [name_of(path) for path in text_files() if private.search(path.read_bytes())] == []


def test_every_invariant_has_its_section_in_order() -> None:
    assert re.findall(r"^## (\d+)\.", INVARIANTS, re.MULTILINE) == [str(number) for number in range(1, 13)]


def test_every_checker_is_on_the_page_of_invariants_and_the_other_way_round() -> None:
    named = re.findall(r"^- Checker: `(\w+)`", INVARIANTS, re.MULTILINE)
    assert sorted(named) == sorted(checker.__name__ for checker in CHECKERS)


@pytest.mark.parametrize("reference", sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", INVARIANTS))))
def test_every_test_on_the_page_of_invariants_exists(reference: str) -> None:
    path, _, name = reference.partition("::")
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")
