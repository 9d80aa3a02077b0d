"""The example that takes notes, as its README says to run it: embedded, and as a client of a server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from tests.api.serving import serving
from tests.architecture.tree import ROOT

EXAMPLE = ROOT / "examples" / "live_notes"
NOTES = [{"id": f"n{row}", "text": f"note {row}: {'rain and wind' if row % 7 == 0 else 'sun'}"} for row in range(210)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def application(environment: dict[str, str]) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "hypercorn", "app:app", "--bind", f"127.0.0.1:{port}", "--graceful-timeout", "1"]
    with subprocess.Popen(command, cwd=EXAMPLE, env={**os.environ, **environment}, stderr=subprocess.PIPE) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until_up(url, process)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


def wait_until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            assert httpx.get(url).status_code == 200
        except httpx.TransportError:
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.1)
        else:
            return


@pytest.fixture(params=["a directory", "a server"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with ExitStack() as stack:
        environment = {"NOTES_PATH": str(tmp_path / "notes")}
        if request.param == "a server":
            environment = {"NOTES_URL": stack.enter_context(serving(tmp_path))}
        yield stack.enter_context(application(environment))


def lines(notes: list[dict[str, str]], *, pause_seconds: float = 0.0) -> Iterator[bytes]:
    for number, note in enumerate(notes):
        if pause_seconds and number % 50 == 49:
            time.sleep(pause_seconds)
        yield json.dumps(note).encode() + b"\n"


def events(answer: httpx.Response) -> Iterator[tuple[str, dict[str, list[str]]]]:
    name = ""
    for line in answer.iter_lines():
        field, _, value = line.partition(": ")
        if field == "id":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def gathered(url: str, wanted: int, last: str | None = None) -> tuple[list[str], str]:
    """Ids of so many changed notes, in their order, and the id of the last event."""
    ids: list[str] = []
    headers = {} if last is None else {"last-event-id": last}
    with httpx.stream("GET", url + "/changes", headers=headers, timeout=30) as answer:
        for position, change in events(answer):
            ids += change["ids"]
            if len(ids) >= wanted:
                return ids, position
    raise AssertionError(f"the feed has ended. got={len(ids)} wanted={wanted}")


def test_notes_flow_in_are_found_and_flow_out(url: str) -> None:
    bad = [b"{}\n", b"no json\n", b'{"id": "a", "text": "b", "author": {}}\n']
    with httpx.Client(timeout=60) as client:
        first = client.post(url + "/notes", content=lines(NOTES[:1])).json()
        assert first["taken"] == 1
        with httpx.stream("GET", url + "/changes", timeout=30) as feed:  # is open before what follows is written
            taken = client.post(url + "/notes?stream=import", content=[*bad, *lines(NOTES[1:], pause_seconds=0.2)]).json()
            assert (taken["taken"], taken["known"], taken["refused"]) == (len(NOTES) - 1, 0, 3)
            assert taken["first_refused_lines"] == [1, 2, 3]
            seen: list[str] = []
            position = ""
            for name, change in events(feed):
                position = name
                seen += change["ids"]
                if len(seen) >= len(NOTES) - 1:
                    break
        assert seen == [note["id"] for note in NOTES[1:]]
        again = client.post(url + "/notes?stream=import", content=[*bad, *lines(NOTES[1:])]).json()
        assert (again["taken"], again["known"]) == (len(NOTES) - 1, len(NOTES) - 1)
        found = client.get(url + "/search", params={"q": "rain and wind"}).json()
        assert len(found) == 10
        assert all("rain" in note["text"] for note in found)
        late = [{"id": "late", "text": "fog", "author": "ann"}]
        client.post(url + "/notes", content=lines(late))
        assert gathered(url, 1, last=position) == (["late"], gathered(url, 1, last=position)[1])
        assert [note["id"] for note in client.get(url + "/search", params={"q": "fog", "author": "ann"}).json()] == ["late"]
        assert client.get(url + "/search").status_code == 400
        assert client.post(url + "/notes?stream=a%20b", content=lines(late)).status_code == 400
        assert client.get(url + "/changes", headers={"last-event-id": "x"}).status_code == 400
