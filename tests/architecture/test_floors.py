"""Imports keep to their floors, and to what is installed with them."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.architecture.tree import ROOT

SOURCE = ROOT / "src"
BROUGHT_BY_THE_USER = {"sentence_transformers"}
"""Imported when the adapter for it is used; named in no extra, since it brings gigabytes."""


def run(*command: str | Path) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_imports_point_downward() -> None:
    assert "0 broken" in run(Path(sys.executable).with_name("lint-imports"), "--no-cache")


def test_sync_twins_are_up_to_date() -> None:
    assert "agree" in run(sys.executable, "scripts/unasync.py", "--check")


def test_reference_is_up_to_date() -> None:
    assert "agree" in run(sys.executable, "scripts/reference.py", "--check")


def imported_roots() -> set[str]:
    """First names of all modules that the package imports, inside of functions too."""
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


def declared_distributions() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    return {normal(re.split(r"[<>=!~;\[ ]", requirement)[0]) for requirement in requirements}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_package_imports_nothing_that_its_install_does_not_bring() -> None:
    foreign = imported_roots() - set(sys.stdlib_module_names) - BROUGHT_BY_THE_USER - {"chroma_async"}
    owners = importlib.metadata.packages_distributions()
    unexpected = {root for root in foreign if not {normal(name) for name in owners[root]} & declared_distributions()}
    assert unexpected == set()
