"""The limit for a server: Hypercorn with a handler that does nothing, started as our workers are.

It reads a body and answers one of a given size, which is what no application behind Hypercorn can be faster than. Processes,
settings, event loop and the way connections are accepted are those of `chroma_async.server`; requests pass Hypercorn's own
state machine, as they do for any application, unless `plain` sends them the way round it that our server takes.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chroma_async.server.child import Duty, Orders, run_child
from chroma_async.server.listen import listen
from chroma_async.server.with_hypercorn import Connection
from chroma_async.server.worker import SWITCH_SECONDS, serve_by
from chroma_async.settings import ServerSettings
from load_tests.bench import Workload, percentile_ms
from load_tests.errors import Unavailable
from load_tests.generator import Address, Lane, run_lane
from load_tests.measures import Column, Measure

_ROOT = Path(__file__).resolve().parents[1]
ANSWER_BYTES = "LOAD_TESTANSWER_BYTES"
_PLAIN = "LOAD_TEST_PLAIN"
_STOP_SECONDS_MAX = 10.0
_CONNECTIONS = (1, 4, 16)


class EmptyHandler:
    """An ASGI application that reads a body and answers `answer_bytes` bytes of JSON."""

    def __init__(self, answer_bytes: int) -> None:
        self._body = b" " * answer_bytes
        self._headers = [(b"content-type", b"application/json"), (b"content-length", str(answer_bytes).encode())]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
            return
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._body})


def measure_limit(workload: Workload, workers: int, *, plain: bool = False) -> Column:
    """Send the plain queries; the answers have the size of those that our server gave.

    Raises:
        Unavailable: the empty handler did not start.
    """
    with _serving(workload.answer_bytes, workers, plain) as address:
        return measure_empty(address, workload)


def measure_empty(address: Address, workload: Workload) -> Column:
    """Send the plain queries to an empty handler that is up, however it is served."""
    measures = {f"query {connections}": _measures(address, workload, connections) for connections in _CONNECTIONS}
    return Column("empty handler", "empty handler", measures)


def _measures(address: Address, workload: Workload, connections: int) -> list[Measure]:
    options = workload.options
    lane = Lane(
        path="/query",
        requests=workload.plain_queries(),
        connections=connections,
        seconds=options.seconds,
        processes=min(options.processes, connections),
    )
    run_lane(address, lane)  # warms up, as checks do elsewhere
    rounds = sorted((run_lane(address, lane) for _ in range(options.rounds)), key=lambda result: result.per_second)
    middle = rounds[len(rounds) // 2]
    return [
        Measure(name="throughput", value=middle.per_second, unit="1/s", better="higher"),
        Measure(name="p50", value=percentile_ms(middle, 50), unit="ms", better="lower"),
        Measure(name="p99", value=percentile_ms(middle, 99), unit="ms", better="lower"),
    ]


@contextmanager
def _serving(answer_bytes: int, workers: int, plain: bool) -> Generator[Address, None, None]:
    with listen("127.0.0.1", 0) as bound:
        settings = ServerSettings(workers=workers)
        orders = Orders("worker", "", bound.fileno(), lifeline=0, status=1, server=settings).to_argument()
        processes = [_start(orders, bound.fileno(), answer_bytes, plain) for _ in range(workers)]
        try:
            for process in processes:
                if process.stdout is None or not process.stdout.readline():
                    raise Unavailable("the empty handler did not start; its message is above")
            yield Address("127.0.0.1", bound.getsockname()[1])
        finally:
            for process in processes:
                _end(process)


def _start(orders: str, socket: int, answer_bytes: int, plain: bool) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "load_tests.limit", orders],
        cwd=_ROOT,
        env=os.environ | {ANSWER_BYTES: str(answer_bytes), _PLAIN: str(int(plain))},
        stdin=subprocess.PIPE,  # ends with us, and the worker with it
        stdout=subprocess.PIPE,
        pass_fds=(socket,),
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=_STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


async def _work(duty: Duty) -> None:
    sys.setswitchinterval(SWITCH_SECONDS)
    logging.getLogger().setLevel(logging.WARNING)
    handler: Any = EmptyHandler(int(os.environ[ANSWER_BYTES]))
    duty.report_ready()
    settings = duty.orders.server
    Connection.takes_plain_requests = os.environ[_PLAIN] == "1"
    await serve_by(settings.http_server)(handler, settings, duty.orders.socket, duty.stop)


if __name__ == "__main__":
    sys.exit(run_child(Orders.from_argument(sys.argv[1]), _work))
