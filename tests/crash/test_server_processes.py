"""A real server, its processes, and signals: what is promised to those who stop it or kill a part of it."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.support.processes import children_of
from tests.support.waiting import wait_until

from chroma_async import HttpClient

NEWER = '{"format": 999999, "product": "chroma_async"}'
COMMAND = [sys.executable, "-c", "from chroma_async.cli import main; main()"]
EXECUTING = """
import functools
from chroma_async.cli import main
from chroma_async.server import begin, run

run.run_server = functools.partial(run.run_server, begin=begin.execute)
main()
"""
"""The same where children are executed instead of forked, as on macOS."""
COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"
CREATE = b'{"name": "docs", "get_or_create": true}'


class Server:
    """A server on a free port, started by the command line."""

    def __init__(self, directory: Path, *options: str, port: int = 0, command: list[str] = COMMAND) -> None:
        self._log = directory / f"server-{port}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "run", "--path", str(directory / "data"), "--port", str(port), *options],
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        welcome = [self.process.stdout.readline().decode() for _ in range(4)]
        assert welcome[0].startswith("chroma-async "), self.log()
        self.url = welcome[1].split()[1]
        self.port = int(self.url.rpartition(":")[2])
        self.seen = set(self.pids("worker") + self.pids("compactor"))

    def log(self) -> str:
        return self._log.read_text()

    def pids(self, kind: str) -> list[int]:
        """All processes of a kind that were ever started, oldest first."""
        return [int(pid) for pid in re.findall(rf"{kind}\.start pid=(\d+)", self.log())]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.pids("worker") + self.pids("compactor"):
            if is_running(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(params=["forked", "executed"])
def start_either(request: pytest.FixtureRequest, start: Callable[..., Server]) -> Callable[..., Server]:
    command = COMMAND if request.param == "forked" else [sys.executable, "-c", EXECUTING]
    return functools.partial(start, command=command)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start_server(*options: str, port: int = 0, command: list[str] = COMMAND) -> Server:
        started.append(Server(tmp_path, *options, port=port, command=command))
        return started[-1]

    yield start_server
    for server in started:
        server.clean_up()


def is_running(pid: int) -> bool:
    """Whether a process of ours is alive; one that nobody has waited for yet is not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def pipes(pid: int) -> set[str]:
    """The pipes that a process has open, but for its standard streams."""
    targets = {entry.name: os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return {target for name, target in targets.items() if int(name) > 2 and target.startswith("pipe:")}


def answers(url: str) -> bool:
    try:
        return httpx.get(url + "/api/v2/heartbeat", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def begin_request(port: int) -> socket.socket:
    """Send half of a request; the other half is the caller's."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    head = (
        f"POST {COLLECTIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(CREATE)}\r\n\r\n"
    )
    connection.sendall(head.encode() + CREATE[:5])
    time.sleep(0.5)  # for the worker to accept it
    return connection


def read_answer(connection: socket.socket) -> bytes:
    received = b""
    while data := connection.recv(65536):
        received += data
    return received


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_request_in_flight_is_answered_before_the_server_stops(start_either: Callable[..., Server], number: int) -> None:
    server = start_either("--workers", "2")
    with begin_request(server.port) as connection:
        server.process.send_signal(number)
        wait_until(lambda: "server.stop" in server.log())
        time.sleep(0.3)
        assert server.process.poll() is None
        connection.sendall(CREATE[5:])
        answer = read_answer(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"name":"docs"' in answer
    assert server.process.wait(30) == 0
    assert not any(is_running(pid) for pid in server.seen)
    assert "ERROR" not in server.log()


def test_uvicorn_in_place_of_hypercorn_stops_in_the_same_way(start: Callable[..., Server]) -> None:
    server = start("--workers", "2", "--server", "uvicorn")
    with begin_request(server.port) as connection:
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "server.stop" in server.log())
        time.sleep(0.3)
        connection.sendall(CREATE[5:])
        answer = read_answer(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert server.process.wait(30) == 0
    assert "ERROR" not in server.log()


def test_request_that_never_ends_delays_the_stop_only_so_long(start: Callable[..., Server]) -> None:
    server = start("--workers", "1", "--graceful-seconds", "0.5")
    with begin_request(server.port):
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10
    assert not any(is_running(pid) for pid in server.seen)


def test_stopped_server_accepts_nobody(start: Callable[..., Server]) -> None:
    server = start("--workers", "1")
    assert server.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # between the two
        return False
    return False


@pytest.mark.parametrize("http_server", ["hypercorn", "uvicorn"])
def test_connections_are_refused_while_a_request_goes_on(start_either: Callable[..., Server], http_server: str) -> None:
    """The parent and the compactor had kept the socket: clients hung in it until the server was gone."""
    server = start_either("--workers", "2", "--server", http_server)
    os.kill(server.pids("compactor")[0], signal.SIGKILL)  # its successor has no more of the socket
    wait_until(lambda: len(server.pids("compactor")) == 2)
    with begin_request(server.port) as connection:
        server.process.send_signal(signal.SIGINT)
        wait_until(lambda: is_refused(server.port), seconds=5)
        assert server.process.poll() is None
        wait_until(lambda: "requests.wait connections=1 seconds_max=25" in server.log())
        connection.sendall(CREATE[5:])
        assert read_answer(connection).startswith(b"HTTP/1.1 200")
    assert server.process.wait(30) == 0
    waiting = [line.split("requests.wait")[0].split()[-1] for line in server.log().splitlines() if "requests.wait" in line]
    assert len(waiting) == len(set(waiting)), "each worker says it once; one may have got a connection of `is_refused`"
    assert "ERROR" not in server.log()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_server_at_once(start: Callable[..., Server], second: signal.Signals) -> None:
    server = start("--workers", "2")
    with begin_request(server.port):
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        server.process.send_signal(signal.SIGINT)  # the same Ctrl-C
        time.sleep(1)
        assert server.process.poll() is None
        assert "server.hurry" not in server.log()
        began = time.monotonic()
        server.process.send_signal(second)
        assert server.process.wait(30) == 1
        assert time.monotonic() - began < 3
    assert f"server.hurry signal={second.name}" in server.log()
    assert not any(is_running(pid) for pid in server.seen)


def test_a_server_waits_for_the_address_until_orphans_have_left_it(start: Callable[..., Server]) -> None:
    server = start("--workers", "1", "--drain-seconds", "2")
    with begin_request(server.port) as connection:
        server.process.kill()
        server.process.wait()
        successor = start("--workers", "1", port=server.port)
        assert "address.wait" in successor.log()
        assert answers(successor.url)
        connection.sendall(CREATE[5:])
        assert read_answer(connection).startswith(b"HTTP/1.1 200")
    assert successor.stop() == 0


def test_killed_worker_is_replaced_while_the_other_answers(start_either: Callable[..., Server]) -> None:
    server = start_either("--workers", "2")
    os.kill(server.pids("worker")[0], signal.SIGKILL)
    assert answers(server.url)
    wait_until(lambda: len(server.pids("worker")) == 3)
    assert "worker.die code=-9" in server.log()
    os.kill(server.pids("worker")[1], signal.SIGKILL)  # only the replacement is left
    wait_until(lambda: answers(server.url))
    assert server.stop() == 0


def test_killed_compactor_is_replaced_while_writes_go_on(start: Callable[..., Server]) -> None:
    server = start("--workers", "1")
    os.kill(server.pids("compactor")[0], signal.SIGKILL)
    assert httpx.post(server.url + COLLECTIONS, content=CREATE).status_code == 200
    wait_until(lambda: len(server.pids("compactor")) == 2)
    assert is_running(server.pids("compactor")[1])
    assert server.stop() == 0


def test_children_end_when_their_parent_is_killed(start_either: Callable[..., Server]) -> None:
    server = start_either("--workers", "2")
    assert len(server.seen) == 3
    os.kill(server.pids("worker")[0], signal.SIGKILL)  # its successor begins when its siblings have begun
    wait_until(lambda: len(server.pids("worker")) == 3)
    wait_until(lambda: answers(server.url))
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not any(is_running(pid) for pid in server.pids("worker") + server.pids("compactor")))
    assert "Traceback" not in server.log()


def test_processes_can_be_told_apart(start_either: Callable[..., Server]) -> None:
    server = start_either("--workers", "1")
    for kind in ("worker", "compactor"):
        (pid,) = server.pids(kind)
        assert Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0") == f"chroma-async: {kind}"
        assert os.getpgid(pid) == pid
    assert server.stop() == 0


def test_the_compactor_gives_way_to_workers_and_graphs_to_all(start_either: Callable[..., Server]) -> None:
    server = start_either("--workers", "1")
    (worker,), (compactor,) = server.pids("worker"), server.pids("compactor")
    wait_until(lambda: relative_niceness(compactor) == {0, 5, 10})  # 0: what only waits for the parent's end
    assert os.getpriority(os.PRIO_PROCESS, compactor) == os.getpriority(os.PRIO_PROCESS, 0) + 5
    assert relative_niceness(worker) == {0}
    assert server.stop() == 0


def relative_niceness(pid: int) -> set[int]:
    """How much lower than ours the priorities of a process's threads are."""
    here = os.getpriority(os.PRIO_PROCESS, 0)
    threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    return {os.getpriority(os.PRIO_PROCESS, thread) - here for thread in threads}


def test_parent_that_forks_has_one_thread(start: Callable[..., Server]) -> None:
    server = start("--workers", "1")
    assert len(os.listdir(f"/proc/{server.process.pid}/task")) == 1
    assert server.stop() == 0


def test_children_hold_nothing_of_each_other(start: Callable[..., Server]) -> None:
    server = start("--workers", "2")
    first, second = (pipes(pid) for pid in server.pids("worker"))
    parent = pipes(server.process.pid)
    assert len(first & second) == 1  # the lifeline
    assert len(first & parent) == len(second & parent) == 2  # and a pipe for its status
    assert server.stop() == 0


def test_damaged_log_is_told_in_one_line_and_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text('{"format": 1, "product": "chroma_async"}')
    (tmp_path / "log.sqlite3").write_bytes(b"not a database, but long enough to look like one" * 100)
    command = [*COMMAND, "run", "--path", str(tmp_path), "--port", "0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    told = [line for line in result.stderr.splitlines() if line.startswith("chroma-async: ")]
    assert told == ["chroma-async: can't use the data directory: this file is not a log: move it away. file=log.sqlite3"]


def test_server_gives_up_on_a_worker_that_cannot_start_either(start_either: Callable[..., Server], tmp_path: Path) -> None:
    server = start_either("--workers", "1")
    (tmp_path / "data" / "VERSION").write_text(NEWER)
    os.kill(server.pids("worker")[0], signal.SIGKILL)
    assert server.process.wait(30) == 1
    assert "server.fail reason=the worker does not stay alive" in server.log()
    assert "Traceback" not in server.log()
    assert not any(is_running(pid) for pid in server.pids("worker") + server.pids("compactor"))


def test_command_line_writes_beside_a_running_server(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--workers", "1")
    collection = httpx.post(server.url + COLLECTIONS, content=CREATE).json()["id"]
    add = ["add", tmp_path / "data", "docs", "--id", "a", "--embedding", "[1, 2]"]
    subprocess.run([*COMMAND, *add], check=True, timeout=60)
    assert httpx.get(f"{server.url}{COLLECTIONS}/{collection}/count").json() == 1
    subprocess.run([*COMMAND, "healthcheck", "--url", server.url], check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert server.stop() == 0


@pytest.mark.parametrize("http_server", ["hypercorn", "uvicorn"])
def test_refusal_of_a_large_body_reaches_the_client_that_sent_it(start: Callable[..., Server], http_server: str) -> None:
    server = start("--workers", "1", "--server", http_server)
    body = b"x" * (41 * 2**20)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        refused = client.post("/api/v2/tenants", content=body)
        assert refused.status_code == 413
        assert refused.json()["error"] == "ChromaError"
        assert client.post("/nothing", content=body).status_code == 404
        assert client.get("/api/v2/heartbeat").status_code == 200
    assert server.stop() == 0


def test_a_write_that_waits_is_answered_when_the_server_is_told_to_stop(start: Callable[..., Server]) -> None:
    server = start("--workers", "1")
    (compactor,) = server.pids("compactor")
    with httpx.Client(base_url=server.url, timeout=30) as client:
        place = COLLECTIONS + "/" + client.post(COLLECTIONS, content=CREATE).json()["id"]
        os.kill(compactor, signal.SIGSTOP)  # so that nothing is applied
        try:
            answers: list[httpx.Response] = []
            body = {"ids": ["a"], "embeddings": [[1, 2]], "wait": "applied", "wait_seconds": 600}
            request = threading.Thread(target=lambda: answers.append(client.post(f"{place}/upsert", json=body, timeout=60)))
            request.start()
            time.sleep(1)
            assert not answers
            server.process.send_signal(signal.SIGTERM)
            request.join(10)
            assert [answer.status_code for answer in answers] == [200]
            assert answers[0].headers["chroma-async-reached"] == "committed"
            assert int(answers[0].headers["chroma-async-lsn"]) > 0
        finally:
            os.kill(compactor, signal.SIGCONT)
    assert server.process.wait(30) == 0


def begin_a_graph(server: Server, ef_construction: int) -> int:
    """Write as many records as a first graph has, and return the id of the process that builds it."""
    vectors = np.random.default_rng(3).standard_normal((66_000, 16)).astype(np.float32)
    with contextlib.closing(HttpClient(port=server.port)) as client:
        things = client.create_collection("things", configuration={"hnsw": {"ef_construction": ef_construction}})
        for first in range(0, len(vectors), 6_000):
            part = vectors[first : first + 6_000]
            things.add(ids=[f"r{first + row}" for row in range(len(part))], embeddings=part)
    wait_until(lambda: bool(children_of(server.pids("compactor")[-1])))
    return children_of(server.pids("compactor")[-1])[0]


def test_a_graph_is_built_by_the_next_compactor_when_one_is_killed(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--workers", "1")
    builder = begin_a_graph(server, 100)
    assert os.getpriority(os.PRIO_PROCESS, builder) == os.getpriority(os.PRIO_PROCESS, 0) + 10
    os.kill(server.pids("compactor")[0], signal.SIGKILL)
    wait_until(lambda: not is_running(builder))
    wait_until(lambda: len(list(tmp_path.rglob("*.usearch"))) == 1, seconds=60)
    wait_until(lambda: not list(tmp_path.rglob("*.building")))
    assert server.stop() == 0
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_builds_a_graph_ends_with_the_server(
    start_either: Callable[..., Server], end: signal.Signals
) -> None:
    server = start_either("--workers", "1")
    builder = begin_a_graph(server, 2_000)
    server.stop(end)
    wait_until(lambda: not is_running(builder))
    assert "Traceback" not in server.log()
