"""Environments for packages of others: made once, kept in `.envs`, and made anew when what they are made of changes.

CHROMA_ASYNC_TEST_ENVS names another directory, for instance one that a continuous integration keeps between its runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

DIRECTORY_VARIABLE = "CHROMA_ASYNC_TEST_ENVS"
SUITES = Path(__file__).with_name("suites")
ROOT = Path(__file__).resolve().parents[2]
INSTALL_SECONDS_MAX = 900.0


def python_environment(requirements: Path) -> Path:
    """Return the `bin` directory of an environment that holds what the file requires."""

    def fill(place: Path) -> None:
        _run([sys.executable, "-m", "venv", "--without-pip", place])
        pip = [sys.executable, "-m", "pip", "--python", place / "bin" / "python", "--disable-pip-version-check"]
        # Compiling everything beforehand takes longer than the installation itself, and most of it is never imported.
        _run([*pip, "install", "--no-input", "--no-compile", "--requirement", requirements])

    return _prepared(requirements.stem, [requirements], fill) / "bin"


def node_environment(package: Path, node: Path) -> Path:
    """Return a directory in which a program finds what the `package-lock.json` in the directory `package` names.

    `node` is the `bin` directory with `node` and `npm`.
    """

    def fill(place: Path) -> None:
        place.mkdir(parents=True)
        for file in files:
            shutil.copy(file, place)
        # The optional dependencies of the client are the binaries of its command line.
        options = ["--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"]
        _run([node / "npm", "ci", *options], cwd=place, path=node)

    files = [package / "package.json", package / "package-lock.json"]
    return _prepared(package.name, files, fill)


def _prepared(name: str, made_of: Sequence[Path], fill: Callable[[Path], None]) -> Path:
    """Return the directory of that name after `fill` has made it, now or in an earlier run."""
    place = Path(os.environ.get(DIRECTORY_VARIABLE, ROOT / ".envs")).resolve() / name
    recipe = hashlib.sha256(sys.version.encode() + b"".join(file.read_bytes() for file in made_of)).hexdigest()
    stamp = place / ".made"
    with _locked(place.with_name(f".{name}.lock")):
        if not stamp.is_file() or stamp.read_text() != recipe:
            shutil.rmtree(place, ignore_errors=True)
            fill(place)
            stamp.write_text(recipe)
    return place


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time make an environment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str | Path], *, cwd: Path | None = None, path: Path | None = None) -> None:
    environment = dict(os.environ) if path is None else {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
