"""The commands of the runbooks work, in the order of their page, on a directory with a collection and a backup."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tests.ops.processes import CHROMA_ASYNC, chroma_async, clean_environment
from tests.ops.proxies import OPS

from chroma_async import PersistentClient

PAGES = sorted((OPS / "runbooks").glob("*.md"))
OURS = re.compile(r"^ {4,}((?:printf .* \| )?chroma-async .*)$", re.MULTILINE)
PLACES = ("/var/lib", "/var/backups", "/var/tmp", "/etc/chroma-async", "/run")

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_the_page_work(page: Path, directory: Path) -> None:
    place = directory / page.stem
    for name in PLACES:
        (place / name.lstrip("/")).mkdir(parents=True)
    data = place / "var/lib/chroma-async"
    with PersistentClient(data) as client:
        client.create_collection("films").add(ids=["alien", "amelie"], embeddings=[[1.0, 0.0], [0.0, 1.0]])
    run(["chroma-async", "backup", str(data), str(place / "var/backups/chroma-async")], place)
    commands = OURS.findall(page.read_text())
    assert commands
    needs_server = any("--unix-socket" in command for command in commands)
    if needs_server:
        (place / "server").mkdir()
        with chroma_async(place / "server", "--unix-socket", place / "run/chroma-async.sock"):
            run_all(commands, place)
    else:
        run_all(commands, place)


def run_all(commands: list[str], place: Path) -> None:
    for command in commands:
        for name in PLACES:
            command = command.replace(f"{name}/", f"{place}{name}/")
        run(["/bin/bash", "-euo", "pipefail", "-c", command], place)


def run(command: list[str], place: Path) -> None:
    environment = clean_environment({"PATH": f"{CHROMA_ASYNC.parent}:/usr/bin:/bin"})
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
