"""A server that is restarted under load, behind a proxy: nobody gets an error, and nothing that was answered is lost."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.ops.load import Load
from tests.ops.processes import chroma_async, free_port, stop
from tests.ops.proxies import Authority, Programs, Proxy, caddy, nginx

pytestmark = pytest.mark.timeout(180)

RESTARTS = 3
LOAD_SECONDS = 0.7
"""Before the first restart and between them."""


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
def test_restart_behind_nginx_fails_no_request(
    programs: Programs, authority: Authority, directory: Path, tmp_path: Path, http2: bool
) -> None:
    """The listening socket stays, as with a socket unit of systemd, and requests wait in it."""
    (place := directory / f"nginx-{http2}").mkdir()
    path = place / "socket"
    with (
        socket.socket(socket.AF_UNIX) as held,
        nginx(programs, authority, place, f"unix:{path}") as proxy,
        contextlib.ExitStack() as stack,
    ):
        held.bind(str(path))
        held.listen(1024)
        server = stack.enter_context(chroma_async(place, "--trusted-proxy", "unix", held=held))
        load = Load(proxy.url, authority.context(), http2=http2)
        with load.running() as outcome:
            for _ in range(RESTARTS):
                time.sleep(LOAD_SECONDS)
                assert stop(server) == 0
                server = stack.enter_context(chroma_async(place, "--trusted-proxy", "unix", held=held))
            time.sleep(LOAD_SECONDS)
        check(load)


def test_restart_behind_caddy_fails_no_request(programs: Programs, authority: Authority, directory: Path) -> None:
    """Nothing listens meanwhile: Caddy tries again until somebody does."""
    (place := directory / "caddy").mkdir()
    port = free_port()
    options = ("--host", "127.0.0.1", "--port", str(port), "--trusted-proxy", "127.0.0.1", "--drain-seconds", "1")
    with caddy(programs, authority, place, f"127.0.0.1:{port}") as proxy, contextlib.ExitStack() as stack:
        server = stack.enter_context(chroma_async(place, *options))
        load = Load(proxy.url, authority.context())
        with load.running() as outcome:
            for _ in range(RESTARTS):
                time.sleep(LOAD_SECONDS)
                assert stop(server) == 0
                server = stack.enter_context(chroma_async(place, *options))
            time.sleep(LOAD_SECONDS)
        check(load)


def check(load: Load) -> None:
    outcome = load.outcome
    assert outcome.failures == []
    assert sum(outcome.done.values()) > 200
    assert len(outcome.done) == 8
    assert outcome.written <= load.ids()
