"""Servers to compare: ours, and the real Chroma of the `chromadb` package, each on loopback with a directory of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 20.0

CONFIGURATION = """\
listen_address: 127.0.0.1
port: {port}
persist_path: {path}
allow_reset: true
"""


@contextlib.contextmanager
def our_server(
    directory: Path, *options: str, workers: int = 2, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run `chroma-async run` and yield its URL; it must stop cleanly when told to."""
    port = _free_port()
    place = ["--path", str(directory / "data"), "--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
    log = directory / "server.log"
    with _running(
        [_executable("chroma-async"), "run", *place, "--allow-reset", *options], port, log, environment
    ) as process:
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS_MAX) == 0, f"the server did not stop cleanly\n{_end_of(log)}"


@contextlib.contextmanager
def chroma_server(directory: Path) -> Iterator[str]:
    """Run Chroma's own server, the one that the `chromadb` of this environment brings, and yield its URL."""
    port = _free_port()
    configuration = directory / "chroma.yaml"
    configuration.write_text(CONFIGURATION.format(port=port, path=directory / "data"))
    with _running([_executable("chroma"), "run", str(configuration)], port, directory / "server.log"):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _running(
    command: list[str], port: int, log: Path, additions: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CHROMA_")}
    environment.update(additions or {})
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=log.parent
        )
    try:
        _wait_for_heartbeat(f"http://127.0.0.1:{port}", process, log)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _executable(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for_heartbeat(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    with httpx.Client(verify=False) as http:  # certificates take longer to load than the answer to come
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if http.get(url + "/api/v2/heartbeat").status_code == 200:
                    return
            time.sleep(0.05)
    pytest.fail(f"the server did not start. exit_code={process.poll()}\n{_end_of(log)}", pytrace=False)


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-8000:]
