"""What of other packages is not public, and relied on here: an upgrade that moves it fails in this file first.

Each row says what breaks where the part is gone or behaves otherwise.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextvars import Context
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import httpx
import hypercorn.asyncio.run as hypercorn_run
import pytest
import uvicorn
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from prometheus_client import Counter
from prometheus_client.multiprocess import MultiProcessCollector
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from chroma_async.client.pool import CONNECTING
from chroma_async.server import with_hypercorn, with_uvicorn
from chroma_async.wal.sqlite.connections import _thread_of, connection_to

pytestmark = pytest.mark.anyio


class Override(NamedTuple):
    """A method of ours in the place of theirs, which they call. `otherwise`: what happens when they call it no more."""

    ours: type[Any]
    theirs: type[Any]
    method: str
    otherwise: str


OVERRIDES = [
    Override(with_hypercorn.Connection, TCPServer, "run", "failures of connections are logged with what was received"),
    Override(
        with_hypercorn.Connection, TCPServer, "_read_data", "every client that has left costs a descriptor for minutes"
    ),
    Override(
        with_hypercorn.Connection, TCPServer, "protocol_send", "a busy connection is closed as idle, an idle one is not"
    ),
    Override(with_hypercorn.Http2, H2Protocol, "initiate", "a client of HTTP/2 that asks nothing stays for ever"),
    Override(with_hypercorn.Http2, H2Protocol, "_handle_events", "one unreadable request ends all others of its connection"),
    Override(with_hypercorn.Stream, HTTPStream, "app_send", "who leaves a body unread keeps connections for ever"),
    Override(with_hypercorn.Stream, HTTPStream, "handle", "who leaves a body unread keeps connections for ever"),
    Override(with_uvicorn.Connection, HttpToolsProtocol, "connection_made", "a connection that asks nothing stays for ever"),
    Override(with_uvicorn.Connection, HttpToolsProtocol, "connection_lost", "workers think that connections are still open"),
    Override(with_uvicorn.Connection, HttpToolsProtocol, "data_received", "a head has no limit, in bytes or in seconds"),
    Override(
        with_uvicorn.Connection, HttpToolsProtocol, "on_headers_complete", "requests that read in two ways are answered"
    ),
    Override(with_uvicorn.Connection, HttpToolsProtocol, "on_message_complete", "a second request's head has no limit"),
    Override(with_uvicorn.Connection, HttpToolsProtocol, "shutdown", "a stop refuses a client that has just connected"),
    Override(with_uvicorn.Server, uvicorn.Server, "capture_signals", "two parts of a worker fight for its signals"),
    Override(with_uvicorn.Server, uvicorn.Server, "startup", "all connections of a client end up with one worker"),
    Override(with_uvicorn.Server, uvicorn.Server, "shutdown", "a stop does not say what it waits for"),
]


@pytest.mark.parametrize("row", OVERRIDES, ids=lambda row: f"{row.theirs.__name__}.{row.method}")
def test_what_is_overridden_is_called_as_before(row: Override) -> None:
    ours, theirs = getattr(row.ours, row.method), getattr(row.theirs, row.method, None)
    assert row.method in vars(row.ours), f"{row.ours.__name__} has no {row.method} any more: drop its row"
    assert theirs is not None, f"{row.theirs.__name__}.{row.method} is gone: {row.otherwise}"
    assert ours is not theirs
    assert parameters(ours) == parameters(theirs), f"{row.method} is called otherwise: {row.otherwise}"
    assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs), row.otherwise


class Use(NamedTuple):
    """Names that ours rely on, and where theirs give them their meaning. `otherwise`: what happens without."""

    where: Callable[..., Any]
    names: set[str]
    otherwise: str


USES = [
    Use(
        TCPServer.__init__,
        {"config", "context", "idle_task", "loop", "reader", "state", "writer"},
        "with_hypercorn.Connection reads none of its requests",
    ),
    Use(TCPServer.run, {"_task_group", "protocol", "_read_data", "idle_task"}, "Connection finds no protocol to read for"),
    Use(TCPServer.protocol_send, {"idle_task", "restart", "_task_group", "_idle_timeout", "stop"}, "nobody is called idle"),
    Use(TCPServer._initiate_server_close, {"protocol", "writer"}, "IdleTimer closes nothing"),
    Use(ProtocolWrapper.__init__, {"H11Protocol", "H2Protocol", "protocol"}, "Http1 and Http2 are never made"),
    Use(ProtocolWrapper.handle, {"H2Protocol", "protocol"}, "a connection that turns to HTTP/2 gets Hypercorn's own"),
    Use(
        H11Protocol.__init__,
        {"client", "config", "connection", "h11_max_incomplete_size", "server", "ssl", "stream"},
        "plain requests are not told from others, or ambiguous ones are answered",
    ),
    Use(H11Protocol._create_stream, {"HTTPStream"}, "with_hypercorn.Stream is never made"),
    Use(H2Protocol._create_stream, {"HTTPStream"}, "with_hypercorn.Stream is never made"),
    Use(HTTPStream.handle, {"app_put", "closed", "StreamClosed"}, "Stream empties no queue"),
    Use(TaskGroup.spawn_app, {"Queue", "put"}, "Stream empties no queue"),
    Use(H11Protocol._handle_events, {"connection", "next_event"}, "Requests refuses nothing"),
    Use(H2Protocol.__init__, {"client", "connection", "send", "streams"}, "Http2 refuses nothing"),
    Use(H2Protocol.handle, {"_handle_events"}, "Http2 refuses nothing"),
    Use(H2Protocol._flush, {"connection", "send"}, "what Http2 refuses is not told"),
    Use(hypercorn_run.worker_serve, {"TCPServer", "asyncio", "start_server"}, "Connection and FairServer are never made"),
    Use(
        HttpToolsProtocol.__init__,
        {"config", "cycle", "headers", "loop", "parser", "timeout_keep_alive", "timeout_keep_alive_task", "transport"},
        "with_uvicorn.Connection reads what is not there",
    ),
    Use(HttpToolsProtocol._unset_keepalive_if_required, {"timeout_keep_alive_task", "cancel"}, "timers outlive connections"),
    Use(HttpToolsProtocol.data_received, {"_unset_keepalive_if_required"}, "the time for a head is forgotten, or is twice"),
    Use(HttpToolsProtocol.timeout_keep_alive_handler, {"transport", "close"}, "whoever is too slow is not closed"),
    Use(RequestResponseCycle.__init__, {"default_headers", "response_complete"}, "a stop does not end kept connections"),
    Use(uvicorn.Server.__init__, {"server_state", "should_exit", "started"}, "a worker does not stop"),
    Use(uvicorn.Server.shutdown, {"servers", "close", "server_state", "connections"}, "a stop goes on accepting"),
    Use(Counter._metric_init, {"values", "ValueClass"}, "each process answers GET /metrics with its own counts alone"),
]


@pytest.mark.parametrize("row", USES, ids=lambda row: row.where.__qualname__)
def test_what_is_used_is_there(row: Use) -> None:
    missing = row.names - set(names_of(row.where.__code__))
    assert not missing, f"{row.where.__qualname__} knows no {sorted(missing)}: {row.otherwise}"


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (hypercorn_run.worker_serve, "TCPServer"),
        (ProtocolWrapper.__init__, "H11Protocol"),
        (ProtocolWrapper.__init__, "H2Protocol"),
        (ProtocolWrapper.handle, "H2Protocol"),
    ],
)
def test_hypercorn_makes_its_parts_by_position(where: Callable[..., Any], name: str) -> None:
    """With a keyword what stands in their place (`_chosen`) would be called wrongly, and no connection served."""
    calls = list(calls_of(where, name))
    assert calls
    assert all(call.args and not call.keywords for call in calls)


def test_hypercorn_names_the_socket_and_the_certificate_when_it_starts_a_server() -> None:
    """`accept.start_server` takes them by these names: otherwise nothing is listened to, or nothing is encrypted."""
    named = [{keyword.arg for keyword in call.keywords} for call in calls_of(hypercorn_run.worker_serve, "start_server")]
    assert all("sock" in names for names in named)
    assert any("ssl" in names for names in named)


async def test_other_servers_of_the_process_stay_hypercorns_own() -> None:
    """A program may serve something else by Hypercorn beside an embedded server: nothing of ours gets into that."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listening = socket.create_server(("127.0.0.1", 0))
    starting = with_hypercorn.AsyncioOfHypercorn.start_server(connected, backlog=5, sock=listening)
    async with await asyncio.create_task(starting, context=Context()) as server:
        assert isinstance(server, asyncio.Server)
    assert with_hypercorn._chosen(with_hypercorn.Http1, dict)() == {}


def test_uvicorn_has_a_status_line_for_heads_that_are_too_large() -> None:
    """Otherwise such a request ends its connection without a word."""
    assert httptools_impl.STATUS_LINE[with_uvicorn._STATUS_HEAD_TOO_LARGE].startswith(b"HTTP/1.1 431 ")


async def test_httpcore_tells_when_it_connects_and_when_it_sends(tmp_path: Path) -> None:
    """By these words a request that nobody waits for ends before it connects, or while it is sent (`client/pool.py`).

    With other words cancelled calls would lose connections for good, and say nothing.
    """
    tcp = await asyncio.start_server(answer, "127.0.0.1", 0)
    unix = await asyncio.start_unix_server(answer, tmp_path / "socket")
    async with tcp, unix:
        port = tcp.sockets[0].getsockname()[1]
        told = await trace_of(f"http://127.0.0.1:{port}/", httpx.AsyncHTTPTransport())
        told_of_unix = await trace_of("http://unix/", httpx.AsyncHTTPTransport(uds=str(tmp_path / "socket")))
    assert {told[0], told_of_unix[0]} == CONNECTING
    assert "http11.send_request_headers.started" in told[1:]
    assert "http11.send_request_headers.started" in told_of_unix[1:]


async def trace_of(url: str, transport: httpx.AsyncHTTPTransport) -> list[str]:
    """What is told of one request, in order."""
    told: list[str] = []

    async def follow(event: str, details: dict[str, Any]) -> None:
        told.append(event)
        if event.endswith("send_request_headers.started"):
            assert details["request"].method == b"GET"

    async with httpx.AsyncClient(transport=transport) as client:
        assert (await client.get(url, extensions={"trace": follow})).status_code == 200
    return told


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    writer.close()
    await writer.wait_closed()


def test_prometheus_keeps_counts_of_a_named_process_in_files(tmp_path: Path) -> None:
    """By the names of these files a replacement goes on with its predecessor's counts, and drops its gauges."""
    subprocess.run([sys.executable, "-c", COUNTS, str(tmp_path)], check=True, timeout=60)
    assert {file.name for file in tmp_path.iterdir()} == {"gauge_max_worker-0.db", "counter_worker-0.db"}
    merged = MultiProcessCollector.merge([str(file) for file in tmp_path.glob("*.db")])
    assert {sample.name: sample.value for metric in merged for sample in metric.samples} == {"open": 2.0, "asked_total": 3.0}


COUNTS = """
import sys
from chroma_async.server.shared_metrics import share_metrics
share_metrics(sys.argv[1], "worker-0")
from prometheus_client import Counter, Gauge
Gauge("open", "help", multiprocess_mode="max").set(2.0)
Counter("asked", "help").inc(3.0)
"""


async def test_aiosqlite_runs_each_connection_in_a_thread_that_can_be_named(tmp_path: Path) -> None:
    """Otherwise a script that forgets to close the log never ends, and a cancelled opening leaves its thread behind."""
    connection = connection_to(tmp_path / "log.sqlite3")
    thread = _thread_of(connection)
    assert isinstance(thread, threading.Thread)
    assert thread.daemon
    await connection
    assert thread.is_alive()
    await connection.close()
    thread.join(5.0)
    assert not thread.is_alive()


def test_python_has_a_hook_before_threads_are_joined() -> None:
    """Otherwise a program that leaves a client open never ends: `concurrent.futures` waits for the client's loop."""
    assert parameters(threading._register_atexit)[0] == "func"


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def names_of(code: CodeType) -> Iterator[str]:
    """Every global and attribute that a function names, also in functions inside of it."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from names_of(inner)


def calls_of(function: Callable[..., Any], name: str) -> Iterator[ast.Call]:
    """Every call in a function of what has this name, or is an attribute of this name."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Call) and name in (getattr(node.func, "id", None), getattr(node.func, "attr", None)):
            yield node
