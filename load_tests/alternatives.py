"""Our application behind other ASGI servers, to see what Hypercorn costs: `python -m load_tests.alternatives NAME ...`.

The process starts a compactor and the server's own command, with as many workers as ours has, and ends both. Each worker
opens an engine as ours do. With `LOAD_TEST_ANSWER_BYTES` the application is the empty handler instead.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from chroma_async.engine import open_engine
from chroma_async.server.app import create_app
from chroma_async.server.memory import keep_blocks
from chroma_async.server.worker import SWITCH_SECONDS
from chroma_async.settings import EngineSettings, ServerSettings
from load_tests.limit import ANSWER_BYTES, EmptyHandler
from load_tests.servers import Program, distribution_version

_ROOT = Path(__file__).resolve().parents[1]
_DATA = "LOAD_TEST_DATA"
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_COMPACT = """
import asyncio, sys
from pathlib import Path
from chroma_async.engine import run_compactor
asyncio.run(run_compactor(Path(sys.argv[1])))
"""
_APPLICATION = "load_tests.alternatives:make_application"
_STOP_SECONDS_MAX = 10.0

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "uvicorn": (
        "uvicorn",
        "--factory",
        "--loop",
        "uvloop",
        "--http",
        "httptools",
        "--no-access-log",
        "--log-level",
        "warning",
    ),
    "granian": (
        "granian",
        "--factory",
        "--interface",
        "asgi",
        "--loop",
        "uvloop",
        "--http",
        "1",
        "--no-ws",
        "--log-level",
        "warning",
    ),
}
"""Modules with their arguments, but for host, port, workers and application, which both call the same."""


class Application:
    """Opens an engine when the server starts, and answers by it as our own workers do."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = AsyncExitStack()
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await receive()
        sys.setswitchinterval(SWITCH_SECONDS)
        engine = await self._stack.enter_async_context(open_engine(self._path, EngineSettings(), compact=False))
        self._app = create_app(engine.dispatch, ServerSettings())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stack.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def make_application() -> Any:
    """What the servers load."""
    if ANSWER_BYTES in os.environ:
        return EmptyHandler(int(os.environ[ANSWER_BYTES]))
    return Application(Path(os.environ[_DATA]))


def alternative(name: str, workers: int, *, answer_bytes: int | None = None) -> Program:
    """How to start our application, or an empty handler, behind another server.

    Raises:
        Unavailable: the server is not installed beside this python.
    """
    environment = {"PYTHONPATH": str(_ROOT)} | ({ANSWER_BYTES: str(answer_bytes)} if answer_bytes is not None else {})
    return Program(
        f"{name} {distribution_version(name)}",
        Path(sys.executable),
        ("--workers", str(workers)),
        ("-m", "load_tests.alternatives", name),
        environment,
    )


def serve(
    name: str,
    path: Annotated[Path, typer.Option()],
    host: Annotated[str, typer.Option()],
    port: Annotated[int, typer.Option()],
    workers: Annotated[int, typer.Option()],
) -> None:
    """Serve until SIGTERM."""
    asyncio.run(_create(path))
    keep_blocks()
    environment = {**_ONE_THREAD, **os.environ, _DATA: str(path)}
    compactor = subprocess.Popen([sys.executable, "-c", _COMPACT, str(path)], env=environment)
    place = ("--host", host, "--port", str(port), "--workers", str(workers))
    server = subprocess.Popen([sys.executable, "-m", *COMMANDS[name], *place, _APPLICATION], env=environment)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    server.wait()
    compactor.terminate()
    compactor.wait(_STOP_SECONDS_MAX)


async def _create(path: Path) -> None:
    async with open_engine(path, EngineSettings(), compact=False):
        return


if __name__ == "__main__":
    typer.run(serve)
