"""The Dockerfile's steps, done one by one in a root of their own, give a server that works as the image is to be run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.architecture.tree import ROOT
from tests.ops.image import Stage, build, instructions
from tests.ops.processes import end_of, free_port, running
from tests.ops.proxies import OPS

DOCKERFILE = OPS / "Dockerfile"


def test_image_is_slim_not_roots_and_healthy_by_our_own_command() -> None:
    steps = list(instructions(DOCKERFILE.read_text()))
    assert all(rest.startswith("python:3.12-slim") for word, rest in steps if word == "FROM")
    assert [rest for word, rest in steps if word == "USER"] == ["10001"]
    health = [rest for word, rest in steps if word == "HEALTHCHECK"]
    assert len(health) == 1
    assert '"chroma-async", "healthcheck"' in health[0]


@pytest.mark.timeout(400)
def test_steps_of_the_dockerfile_give_a_server_on_a_read_only_root(directory: Path) -> None:
    if os.geteuid() != 0:
        image = steps_as_a_plain_user(directory)
    else:
        image = build(DOCKERFILE, ROOT, directory / "image")
    port = str(free_port())
    command = [*image.entrypoint, *(port if word == "8000" else word for word in image.command)]
    health = [word.replace(":8000", f":{port}") for word in image.health]
    read_only = os.geteuid() == 0
    log = directory / "image.log"
    with running(image.enter(command, read_only=read_only), log) as process, stopped_within(process):
        deadline = time.monotonic() + 60
        while (asked := image.run(health, read_only=read_only)).returncode != 0:
            assert process.poll() is None, end_of(log)
            assert time.monotonic() < deadline, f"{asked.stdout}\n{end_of(log)}"
            time.sleep(0.3)
        assert asked.stdout.strip() == "healthy"
        data = image.root / "data" if read_only else directory / "data"
        assert (data / "log.sqlite3").stat().st_uid == (10001 if read_only else os.geteuid())
        if read_only:
            for place in ("/opt/chroma-async/x", "/etc/x", "/x"):
                assert image.run(["/usr/bin/touch", place], read_only=True).returncode != 0
            assert image.run(["/usr/bin/id", "-un"]).stdout.strip() == "chroma"


@contextmanager
def stopped_within(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """At the end, stop what `unshare` has begun: changing its user, that has got out of the reach of --kill-child."""
    try:
        yield
    finally:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        inside = [int(child) for child in children] if process.args[0] == "unshare" else []  # type: ignore[index]
        for child in inside:
            os.kill(child, signal.SIGTERM)
        if inside:
            assert process.wait(60) == 0
        assert not any(Path(f"/proc/{child}").exists() for child in inside)


class PlainStage(Stage):
    """The same without privileges: in the machine's own root, under other paths, as who runs this."""

    def enter(self, command: Sequence[str], *, read_only: bool = False) -> list[str]:
        moved = [self.moved(word) for word in command]
        return ["/usr/bin/env", f"PATH={self.moved('/opt/chroma-async')}/bin:{os.environ['PATH']}", *moved]

    def moved(self, text: str) -> str:
        return re.sub(r"(?<!\S)/(opt/chroma-async|data)\b", rf"{self.root}/\1", text)


def steps_as_a_plain_user(directory: Path) -> Stage:
    """What of the steps needs no privileges: the virtual environment, and the command that is run."""
    image = PlainStage(directory)
    (directory / "opt").mkdir()
    steps = list(instructions(DOCKERFILE.read_text()))
    install = next(rest for word, rest in steps if word == "RUN").replace("python -m", "/usr/bin/python3 -m")
    subprocess.run(["/bin/sh", "-c", image.moved(install)], cwd=ROOT, check=True)
    found = dict(steps)
    image.entrypoint, image.command = json.loads(found["ENTRYPOINT"]), json.loads(found["CMD"])
    image.health = json.loads(found["HEALTHCHECK"].partition("CMD ")[2])
    return image
