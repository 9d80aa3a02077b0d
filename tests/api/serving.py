"""A server for the clients' own tests: ours, or the one that CHROMA_ASYNC_TEST_URL names."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

URL_VARIABLE = "CHROMA_ASYNC_TEST_URL"
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 20.0


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[str]:
    """Yield the base URL of a running server."""
    named = os.environ.get(URL_VARIABLE)
    if named:
        yield named.rstrip("/")
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    executable = Path(sys.executable).with_name("chroma-async")
    options = ["--path", str(directory / "data"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen([executable, "run", *options, "--allow-reset"], stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS_MAX) == 0, f"the server did not stop cleanly\n{log.read_text()[-4000:]}"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended at once\n{log.read_text()[-4000:]}"
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url + "/api/v2/heartbeat").status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"no heartbeat within {START_SECONDS_MAX} s\n{log.read_text()[-4000:]}")


def is_reference(url: str) -> bool:
    """Whether the server is the real Chroma, which its OpenAPI document admits."""
    answer = httpx.get(url + "/openapi.json")
    return answer.status_code == 200 and answer.json()["info"]["title"] == "chroma-frontend"
