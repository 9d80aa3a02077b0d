"""Clients of Chroma's first API against this server: the real ones, each in an environment of its own."""

from __future__ import annotations

import os
import subprocess
from urllib.parse import urlsplit

import pytest
from tests.integrations.environments import SUITES, python_environment

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize("version", ["0.4.15", "0.4.24", "0.5.3", "0.5.5", "0.5.15"])
def test_old_client_does_its_work(version: str, server_url: str) -> None:
    address = urlsplit(server_url)
    python = python_environment(SUITES / f"legacy_{version}.txt") / "python"
    command = [python, SUITES / "legacy.py", str(address.hostname), str(address.port)]
    variables = {**os.environ, "PYTHONPATH": "", "ANONYMIZED_TELEMETRY": "False"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=variables, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.splitlines()[-1] == f"done {version}"
