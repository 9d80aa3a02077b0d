"""A running server holds to its OpenAPI page: schemathesis makes requests from it, right ones and wrong ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.crash.test_server_network import Server, start

__all__ = ["start"]

EXAMPLES = int(os.environ.get("CHROMA_ASYNC_EXAMPLES", "3"))
"""Generated requests for each call, beside those that schemathesis derives from each field's type and bounds."""

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.timeout(60 + 30 * EXAMPLES)
@pytest.mark.parametrize("http_server", ["hypercorn", "uvicorn"])
def test_no_request_that_the_page_allows_or_forbids_is_answered_by_what_it_does_not_say(
    start: Callable[..., Server],
    tmp_path: Path,
    http_server: str,
) -> None:
    server = start("--port", "0", "--workers", "1", "--allow-reset", "--server", http_server)
    command = [sys.executable, "-m", "schemathesis.cli", "--no-color", "run", server.url + "/openapi.json"]
    options = ["--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--checks", CHECKS]
    # Their answers have no end.
    options += [f"--exclude-operation-id={call}" for call in ("WatchCollection", "WatchDatabase")]
    hooks = {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(Path(__file__).parent)}
    seed = ["--seed", "1"] if EXAMPLES == 3 else []
    result = subprocess.run(
        [*command, *options, *seed, "--no-shrink", "--generation-database", "none"],
        cwd=tmp_path,
        env={**os.environ, **hooks},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-8000:]
    cases = re.search(r"(\d+) generated, (\d+) passed", result.stdout)
    assert cases is not None, result.stdout[-2000:]
    print(cases.group())
    assert int(cases.group(1)) > 1_000
    assert "request.failed" not in server.log()
    assert server.stop() == 0
