"""Unmodified packages of the ecosystem do their work on our server: each suite runs in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.api.serving import URL_VARIABLE
from tests.integrations.environments import ROOT, SUITES, node_environment, python_environment

SUITE_SECONDS_MAX = 400.0

pytestmark = pytest.mark.timeout(1200)


@pytest.mark.parametrize("suite", ["with_langchain", "with_llama_index", "with_haystack"])
def test_python_package_passes_its_suite(suite: str, server_url: str, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    python = python_environment(SUITES / f"{suite}.txt") / "python"
    options = ["-c", SUITES / "pytest.ini", f"--junit-xml={report}"]
    _run([python, "-m", "pytest", *options, SUITES / f"{suite}.py"], server_url, tmp_path)
    _assert_nothing_was_skipped(report)


@pytest.mark.parametrize("client", ["npm", "npm_1"])
def test_npm_client_makes_its_journey(client: str, node: Path, server_url: str, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    packages = node_environment(SUITES / client, node)
    # A module finds packages beside itself.
    journey = shutil.copy(SUITES / client / "journey.mjs", packages)
    reporters = ["--test-reporter=spec", "--test-reporter-destination=stdout"]
    reporters += ["--test-reporter=junit", f"--test-reporter-destination={report}"]
    _run([node / "node", "--test", *reporters, journey], server_url, tmp_path)
    _assert_nothing_was_skipped(report)


def _run(command: Sequence[str | Path], server_url: str, directory: Path) -> None:
    # Some of the packages are also given clients of ours.
    environment = {**os.environ, URL_VARIABLE: server_url, "ANONYMIZED_TELEMETRY": "False", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SUITE_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-16000:]


def _assert_nothing_was_skipped(report: Path) -> None:
    cases = list(ElementTree.parse(report).iter("testcase"))
    skipped = [(case, mark) for case in cases for mark in case.iter("skipped") if mark.get("type") != "pytest.xfail"]
    assert cases
    assert not [f"{case.get('name')}: {mark.get('message')}" for case, mark in skipped]
