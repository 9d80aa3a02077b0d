"""The parent process: starts workers and the compactor, replaces those that die, and ends them in order."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from chroma_async.server.child import EXIT_HOPELESS, READY_LINE

_KILL_AFTER_SECONDS: Final = 5.0

_ENVIRONMENT: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
}
"""Of children, unless it says otherwise already.

There is a worker for each core; when each of them uses every core for its matrix products, their threads wait for one
another in a loop, and a query takes several times as long. What a worker holds while data waits to be applied is given
back to the system only if the C library does not keep such blocks for itself: glibc would, twice to three times as much
memory as is in use.
"""

logger = logging.getLogger("chroma_async.supervisor")


class GaveUp(Exception):
    """A child keeps dying; the log lines above say of what."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When to start a dead child again. A death soon after the start is a quick one; quick ones in a row wait longer."""

    quick_seconds: float = 5.0
    delay_seconds: float = 0.1
    delay_seconds_max: float = 3.0
    quick_deaths_max: int = 5

    def delay(self, quick_deaths: int) -> float | None:
        """Return the seconds to wait after that many quick deaths in a row; None: give up."""
        if quick_deaths >= self.quick_deaths_max:
            return None
        return min(self.delay_seconds * 2.0**quick_deaths, self.delay_seconds_max) if quick_deaths else 0.0


class Child:
    """A process that is to be there all the time: `python -m module argument`, with one inherited socket."""

    def __init__(self, name: str, module: str, argument: str, socket: int, policy: RestartPolicy) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self.killed = False
        self._command = (sys.executable, "-P", "-m", module, argument)
        self._socket = socket
        self._policy = policy
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._was_ready = False

    async def keep_running(self) -> None:
        """Run the process again and again until `stop`.

        Raises:
            GaveUp: it dies at once whenever it is started, or says that starting it again is no use.
        """
        quick_deaths = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._run()
            if self._stopping.is_set():
                return
            lived = time.monotonic() - started
            quick_deaths = quick_deaths + 1 if lived < self._policy.quick_seconds else 0
            delay = self._policy.delay(quick_deaths)
            logger.warning("%s.die code=%d lived_seconds=%.1f quick_deaths=%d", self.name, code, lived, quick_deaths)
            if delay is None or (code == EXIT_HOPELESS and not self._was_ready):
                raise GaveUp(f"the {self.name} does not stay alive; see the log above. exit_code={code}")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _run(self) -> int:
        process = self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(self._socket,),
            env=_ENVIRONMENT | os.environ,
            process_group=0,  # Ctrl-C reaches the parent alone, which then ends its children in order
        )
        logger.info("%s.start pid=%d", self.name, process.pid)
        if self._stopping.is_set():
            self._terminate()
        assert process.stdout is not None
        self._was_ready = await process.stdout.readline() == READY_LINE
        if self._was_ready:
            self.ready.set()
        return await process.wait()

    async def stop(self, seconds: float) -> None:
        """Ask the process to end, and kill it if it has not after `seconds`; `keep_running` then returns."""
        self._stopping.set()
        self._terminate()
        process = self._process
        if process is None:
            return
        try:
            await asyncio.wait_for(process.wait(), seconds)
        except TimeoutError:
            logger.error("%s.kill pid=%d waited_seconds=%g", self.name, process.pid, seconds)
            self.killed = True
            process.kill()
            await process.wait()

    def _terminate(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()


class Supervisor:
    """Keeps workers and the compactor running until told to stop."""

    def __init__(self, workers: Sequence[Child], compactor: Child, graceful_seconds: float) -> None:
        self._workers = workers
        self._compactor = compactor
        self._patience_seconds = graceful_seconds + _KILL_AFTER_SECONDS

    async def run(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> bool:
        """Run until `stop`; return whether every child ended by itself. `on_ready` is called once, when all are at work.

        Raises:
            GaveUp: a child can't be kept running; the others were stopped.
        """
        children = [*self._workers, self._compactor]
        keepers = [asyncio.create_task(child.keep_running()) for child in children]
        announcing = asyncio.create_task(_announce(children, on_ready))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({stopping, *keepers}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            announcing.cancel()
            await self._stop()
        await asyncio.gather(*keepers)
        return not any(child.killed for child in children)

    async def _stop(self) -> None:
        """Workers first: a write that waits for the compactor to catch up can still be answered."""
        logger.info("server.stop")
        await asyncio.gather(*(worker.stop(self._patience_seconds) for worker in self._workers))
        await self._compactor.stop(self._patience_seconds)


async def _announce(children: Sequence[Child], on_ready: Callable[[], None]) -> None:
    for child in children:
        await child.ready.wait()
    on_ready()
