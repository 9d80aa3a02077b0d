"""The demo: a proxy, a server and Prometheus, and every query of the dashboard has an answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.ops.processes import clean_environment
from tests.ops.proxies import OPS, Programs

DEMO_SECONDS_MAX = 120.0


@pytest.mark.timeout(200)
def test_demo_answers_every_query_of_the_dashboard_and_leaves_nothing(programs: Programs, directory: Path) -> None:
    environment = clean_environment({"VENV": str(Path(sys.executable).parents[1]), "TMPDIR": str(directory)})
    if test_environments := os.environ.get("CHROMA_ASYNC_TEST_ENVS"):
        environment["CHROMA_ASYNC_TEST_ENVS"] = test_environments
    done = subprocess.run(
        [OPS / "demo.sh"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEMO_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert done.stdout.splitlines()[-1] == "dashboard: 0 queries without an answer"
    assert "NO SERIES" not in done.stdout
    assert list(directory.iterdir()) == []
