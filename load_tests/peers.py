"""Makes the environment in which the peers live, apart from the project's own."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from load_tests.errors import Unavailable

_ROOT = Path(__file__).resolve().parents[1]


def requirements() -> list[str]:
    """The peers and what helps to load us: the dependency group `peers` of the project."""
    groups = tomllib.loads((_ROOT / "pyproject.toml").read_text())["dependency-groups"]
    found: list[str] = groups["peers"]
    return found


def make_environment(directory: Path) -> Path:
    """Make a virtual environment with all peers, or bring it up to date, and return its python.

    Raises:
        Unavailable: pip can't install them; what it said is above.
    """
    python = directory / "bin" / "python"
    commands = [
        [sys.executable, "-m", "venv", str(directory)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements()],
    ]
    for command in commands:
        if subprocess.run(command, check=False).returncode != 0:
            raise Unavailable(f"the peers' environment can't be made. command={' '.join(command)!r}")
    return python
