"""The command line: `chroma-async`."""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Run the command line; where its libraries are not installed, say what to install."""
    try:
        _run()
    except KeyboardInterrupt:  # while things are imported; a command that runs says it itself
        sys.exit(130)


def _run() -> None:
    _bound_threads()
    gc.disable()  # importing makes nothing that could be collected, and looking for it takes a tenth of the time
    try:
        from chroma_async.cli.commands import app
    except ModuleNotFoundError as error:
        print(f"chroma-async: {error}; install the server: pip install 'chroma-async[server]'", file=sys.stderr)
        sys.exit(2)
    gc.enable()
    app()


def _bound_threads() -> None:
    """Let numpy's libraries use one core, unless the environment says otherwise; they look once, when they are loaded.

    A server has a worker for each core. When each of them uses every core for its matrix products, their threads wait for
    one another in a loop, and a query takes several times as long. And a process that forks must have one thread.
    """
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")


__all__ = ["main"]
