"""A real server as it stands in a network: on a unix socket, behind a path, and on its way out."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.api.raw_server import RawServer, answer

import chroma_async

COMMAND = [sys.executable, "-c", "from chroma_async.cli import main; main()"]


class Server:
    """A server that was started by the command line; `url` is what it prints."""

    def __init__(self, directory: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self._log = directory / "server.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "run", "--path", str(directory / "data"), *options],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        assert self.process.stdout is not None
        welcome = [self.process.stdout.readline().decode() for _ in range(4)]
        if not welcome[0].startswith("chroma-async "):
            with self.process:
                self.process.kill()
            raise AssertionError(self.log())
        self.url = welcome[1].split()[1]

    def log(self) -> str:
        return self._log.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start_server(*options: str, environment: dict[str, str] | None = None) -> Server:
        started.append(Server(tmp_path, *options, environment=environment))
        return started[-1]

    yield start_server
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        assert server.process.stdout is not None
        server.process.stdout.close()


def health(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "healthcheck", *options], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("http_server", ["hypercorn", "uvicorn"])
def test_unix_socket_is_shared_by_workers_and_gone_at_the_end(
    start: Callable[..., Server], tmp_path: Path, http_server: str
) -> None:
    path = tmp_path / "s"
    server = start("--unix-socket", str(path), "--workers", "2", "--server", http_server)
    assert server.url == f"unix://{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with chroma_async.HttpClient(host=server.url) as client:
        docs = client.create_collection("docs", embedding_function=None)
        docs.add(ids=["a"], embeddings=[[1.0, 2.0]])
        assert docs.get()["ids"] == ["a"]
    assert health("--unix-socket", str(path)).stdout == "healthy\n"
    assert server.stop() == 0
    assert not path.exists()


def test_socket_of_a_killed_server_is_taken_over(start: Callable[..., Server], tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = start("--unix-socket", str(path), "--workers", "1")
    first.process.kill()
    first.process.wait()
    assert path.exists()
    end = time.monotonic() + 20  # its orphans still listen, and end by themselves
    while True:
        with contextlib.suppress(AssertionError):
            second = start("--unix-socket", str(path), "--workers", "1")
            break
        assert time.monotonic() < end
        time.sleep(0.2)
    assert health("--unix-socket", str(path)).returncode == 0
    assert second.stop() == 0


def test_base_url_with_a_path_reaches_a_server_with_a_root_path(start: Callable[..., Server]) -> None:
    server = start("--port", "0", "--workers", "1", "--root-path", "/chroma/")
    with chroma_async.HttpClient(host=server.url + "/chroma") as client:
        client.create_collection("docs", embedding_function=None)
    with chroma_async.HttpClient(host=server.url) as client:
        assert [item.name for item in client.list_collections()] == ["docs"]
    assert health("--url", server.url + "/chroma").returncode == 0
    document = httpx.get(server.url + "/chroma/openapi.json").json()
    assert document["servers"] == [{"url": "/chroma"}]
    page = httpx.get(server.url + "/chroma/docs", follow_redirects=True)
    assert (page.status_code, page.url.path) == (200, "/chroma/docs/")
    assert httpx.get(server.url + "/chroma/chroma/api/v2/heartbeat").status_code == 404


def await_ready(client: httpx.Client) -> None:
    end = time.monotonic() + 20
    while client.get("/readyz").json() != {"status": "ok"}:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("http_server", ["hypercorn", "uvicorn"])
def test_server_says_that_it_leaves_before_it_does(start: Callable[..., Server], http_server: str) -> None:
    server = start("--port", "0", "--workers", "2", "--drain-seconds", "2", "--server", http_server)
    with httpx.Client(base_url=server.url) as client:
        await_ready(client)
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        time.sleep(0.5)
        for _ in range(5):
            ready, heartbeat = client.get("/readyz"), client.get("/api/v2/heartbeat")
            assert (ready.status_code, ready.json()["reason"]) == (503, "draining")
            assert (heartbeat.status_code, heartbeat.headers["connection"]) == (200, "close")
        assert server.process.wait(30) == 0
        assert time.monotonic() - began >= 2
        with pytest.raises(httpx.ConnectError):
            client.get("/livez")


def test_options_come_from_the_environment(start: Callable[..., Server]) -> None:
    environment = {
        "CHROMA_ASYNC_PORT": "0",
        "CHROMA_ASYNC_WORKERS": "1",
        "CHROMA_ASYNC_ROOT_PATH": "/x",
        "CHROMA_ASYNC_SERVER": "uvicorn",
        "CHROMA_ASYNC_TRUSTED_PROXY": "127.0.0.1 unix",
        "CHROMA_ASYNC_ACCESS_LOG": "text",
    }
    server = start(environment=environment)
    httpx.get(server.url + "/x/api/v2/heartbeat", headers={"X-Forwarded-For": "203.0.113.9"})
    assert "path=/x/api/v2/heartbeat" in server.log()
    assert server.stop() == 0


def scrape(url: str) -> dict[str, float]:
    """The samples of a scrape, by name and labels."""
    lines = httpx.get(url + "/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


def test_a_scrape_shows_the_sums_of_all_workers_also_of_dead_ones(start: Callable[..., Server]) -> None:
    server = start("--port", "0", "--workers", "2", "--metrics")
    requests = 'chroma_async_http_requests_total{call="Heartbeat",status="200"}'
    for _ in range(40):
        assert httpx.get(server.url + "/api/v2/heartbeat").status_code == 200
    assert [scrape(server.url)[requests] for _ in range(6)] == [40] * 6
    with chroma_async.HttpClient(host=server.url) as client:
        docs = client.create_collection("docs", embedding_function=None)
        docs.add(ids=["a"], embeddings=[[1.0, 2.0]])
    counted = scrape(server.url)
    assert counted['chroma_async_calls_total{call="AddRecords",outcome="ok"}'] == 1
    assert counted["chroma_async_append_seconds_count"] >= 2
    assert counted["chroma_async_committed_lsn"] >= 2
    assert counted["chroma_async_http_requests_in_flight"] == 1
    first = int(re.findall(r"worker\.start pid=(\d+)", server.log())[0])
    os.kill(first, signal.SIGKILL)
    end = time.monotonic() + 20
    while len(re.findall(r"worker\.start", server.log())) < 3:
        assert time.monotonic() < end
        time.sleep(0.05)
    for _ in range(20):
        assert httpx.get(server.url + "/api/v2/heartbeat").status_code == 200
    counted = scrape(server.url)
    assert counted[requests] == 60
    assert counted["chroma_async_http_requests_in_flight"] == 1
    assert server.stop() == 0


def test_json_access_log_is_json_line_by_line(start: Callable[..., Server]) -> None:
    server = start("--port", "0", "--workers", "1", "--access-log", "json", "--log-level", "error")
    assert httpx.get(server.url + "/api/v2/heartbeat").headers["x-request-id"]
    assert server.stop() == 0
    (line,) = server.log().splitlines()
    assert json.loads(line)["path"] == "/api/v2/heartbeat"


def test_spans_reach_the_collector_at_the_latest_when_the_server_stops(start: Callable[..., Server]) -> None:
    with RawServer(answer(200)) as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}"}
        server = start("--port", "0", "--workers", "1", environment=environment)
        assert httpx.get(server.url + "/api/v2/heartbeat").headers["x-request-id"]
        assert server.stop() == 0
        sent = [request for request in collector.requests if request.target == "/v1/traces"]
    assert any(b"Heartbeat" in (gzip.decompress(r.body) if r.body[:2] == b"\x1f\x8b" else r.body) for r in sent)


def test_chromas_client_takes_a_base_url_with_a_path(start: Callable[..., Server]) -> None:
    server = start("--port", "0", "--workers", "1", "--root-path", "/chroma")
    host, port = server.url + "/chroma", server.url.rpartition(":")[2]
    program = f"import chromadb; client = chromadb.HttpClient(host={host!r}, port={port})\n"
    program += "docs = client.create_collection('docs', embedding_function=None)\n"
    program += "docs.add(ids=['a'], embeddings=[[1.0, 2.0]]); print(docs.count(), client.get_version())"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout.startswith("1 "), result.stderr
