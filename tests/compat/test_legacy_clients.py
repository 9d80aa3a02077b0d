"""Old Chroma clients against this server: the real ones, each in an environment of its own.

    pytest tests/compat -m legacy

The environments are made on demand and kept, `.venv-legacy-VERSION` in the directory that CHROMA_ASYNC_TEST_ENVS names (the
repository's root by default). Making one takes minutes, so these tests run only when asked for by their marker.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

JOURNEY = Path(__file__).with_name("legacy_journey.py")
ENVIRONMENTS = Path(os.environ.get("CHROMA_ASYNC_TEST_ENVS", Path(__file__).parents[2]))

pytestmark = [pytest.mark.legacy, pytest.mark.reference_differs, pytest.mark.timeout(1800)]


def environment(version: str) -> Path:
    """The Python of an environment that has this version of the client; made if it is not there."""
    directory = ENVIRONMENTS / f".venv-legacy-{version}"
    python = directory / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    ready = directory / "ready"
    if not ready.exists():
        venv.create(directory, with_pip=True, clear=True)
        requirements = [f"chromadb=={version}", "numpy<2"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        ready.touch()
    return python


@pytest.mark.parametrize("version", ["0.4.24", "0.5.5", "0.5.15"])
def test_old_client_does_its_work(version: str, address: tuple[str, int]) -> None:
    host, port = address
    command = [environment(version), JOURNEY, host, str(port)]
    variables = {**os.environ, "PYTHONPATH": "", "ANONYMIZED_TELEMETRY": "False"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=variables, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.splitlines()[-1] == f"done {version}"
