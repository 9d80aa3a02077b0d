"""A server that is restarted under load, behind a proxy: nobody gets an error, and nothing that was answered is lost."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pytest
from tests.ops.load import Load
from tests.ops.processes import chroma_async, stop
from tests.ops.proxies import Authority, Programs, caddy, nginx

pytestmark = pytest.mark.timeout(180)

RESTARTS = 2
LOAD_SECONDS = 0.7
"""Before the first restart and between them."""


@pytest.mark.parametrize("kind", ["nginx", "nginx-http2", "caddy"])
def test_restart_fails_no_request(programs: Programs, authority: Authority, directory: Path, kind: str) -> None:
    """The listening socket stays, as with the socket unit of systemd, and requests wait in it."""
    (place := directory / kind).mkdir()
    path, options = place / "socket", ("--trusted-proxy", "unix")
    start, upstream = (caddy, f"unix/{path}") if kind == "caddy" else (nginx, f"unix:{path}")
    with (
        socket.socket(socket.AF_UNIX) as held,
        start(programs, authority, place, upstream) as proxy,
        contextlib.ExitStack() as stack,
    ):
        held.bind(str(path))
        held.listen(1024)
        server = stack.enter_context(chroma_async(place, *options, held=held))
        load = Load(proxy.url, authority.context(), http2=kind == "nginx-http2")
        with load.running():
            for _ in range(RESTARTS):
                time.sleep(LOAD_SECONDS)
                assert stop(server) == 0
                server = stack.enter_context(chroma_async(place, *options, held=held))
            time.sleep(LOAD_SECONDS)
        check(load)


def check(load: Load) -> None:
    outcome = load.outcome
    assert outcome.failures == []
    assert sum(outcome.done.values()) > 100
    assert len(outcome.done) == 8
    assert outcome.written <= load.ids()
