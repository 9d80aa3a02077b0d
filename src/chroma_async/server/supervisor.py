"""The parent process: starts workers and the compactor, replaces those that die, and ends them in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct

from chroma_async.server.child import EXIT_HOPELESS, READY

_KILL_AFTER_SECONDS: Final = 5.0
_ENDING_SECONDS: Final = 0.005

ONE_STOP_SECONDS: Final = 0.5
"""Signals so soon after the first belong to it: one Ctrl-C reaches a program by its terminal and by what runs it."""

logger = logging.getLogger("chroma_async.supervisor")


class GaveUp(Exception):
    """A child keeps dying; the log lines above say of what."""


class NeverBegan(GaveUp):
    """A child says that it can't begin, and that starting it again won't help; the message is its reason."""


class RestartPolicy(Struct, frozen=True):
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


class Asked:
    """What signals have asked for: to stop, and by a second SIGINT or SIGTERM to stop at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self._clock = clock
        self._first_at = 0.0

    def note(self, number: signal.Signals) -> None:
        """Take a signal."""
        if not self.stop.is_set():
            self._first_at = self._clock()
            self.stop.set()
        elif number != signal.SIGHUP and self._clock() - self._first_at >= ONE_STOP_SECONDS and not self.hurry.is_set():
            logger.warning("server.hurry signal=%s", number.name)
            self.hurry.set()


class Child:
    """A process that is to be there all the time.

    `begin` starts it, given the number of the descriptor to which it writes its status, and returns its id; `ended` is
    called when it is gone.
    """

    def __init__(
        self, name: str, begin: Callable[[int], int], policy: RestartPolicy, ended: Callable[[], None] = lambda: None
    ) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self.killed = False
        self._begin = begin
        self._policy = policy
        self._ended = ended
        self._pid: int | None = None
        self._gone = asyncio.Event()
        self._gone.set()
        self._stopping = asyncio.Event()

    async def keep_running(self) -> None:
        """Run the process again and again until `stop`.

        Raises:
            GaveUp: it dies at once whenever it is started, or says that starting it again is no use.
            NeverBegan: it says so, and never was at work.
        """
        quick_deaths = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            code, reason = await self._run()
            if self._stopping.is_set():
                return
            lived = time.monotonic() - started
            quick_deaths = quick_deaths + 1 if lived < self._policy.quick_seconds else 0
            delay = self._policy.delay(quick_deaths)
            logger.warning("%s.die code=%d lived_seconds=%.1f quick_deaths=%d", self.name, code, lived, quick_deaths)
            if code == EXIT_HOPELESS and not self.ready.is_set():
                raise NeverBegan(reason)
            if code == EXIT_HOPELESS and reason:
                raise GaveUp(f"the {self.name} does not stay alive: {reason}")
            if delay is None:
                raise GaveUp(f"the {self.name} does not stay alive; see the log above. exit_code={code}")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _run(self) -> tuple[int, str]:
        """Run the process once; return its exit code, and what it said of why it could not begin."""
        reading, writing = os.pipe()
        try:
            pid = self._pid = self._begin(writing)
        finally:
            os.close(writing)
        self._gone.clear()
        logger.info("%s.start pid=%d", self.name, pid)
        if self._stopping.is_set():
            self._send(signal.SIGTERM)
        reason = await self._follow_status(reading)
        code = await _exit_code(pid)
        self._pid = None
        self._ended()
        self._gone.set()
        return code, reason

    async def _follow_status(self, descriptor: int) -> str:
        """Wait until the process ends, which ends its side of the pipe; return what it said, unless it was at work."""
        try:
            line = (await _read(descriptor)).strip()
            if line == READY:
                self.ready.set()
            while await _read(descriptor):
                continue
        finally:
            os.close(descriptor)
        return "" if line == READY else line.decode(errors="replace")

    def ask_to_end(self) -> None:
        """Ask the process to end, and begin no other: `keep_running` returns when it is gone."""
        self._stopping.set()
        self._send(signal.SIGTERM)

    async def end(self, seconds: float, hurry: asyncio.Event) -> None:
        """Wait until the process, which was asked to, has ended; kill it after `seconds`, or at `hurry`."""
        began = time.monotonic()
        with suppress(TimeoutError):
            await asyncio.wait_for(_any(self._gone, hurry), seconds)
        if not self._gone.is_set():
            logger.error("%s.kill pid=%d waited_seconds=%.1f", self.name, self._pid, time.monotonic() - began)
            self.killed = True
            self._send(signal.SIGKILL)
            await self._gone.wait()

    def _send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one: until it was waited for, nobody else has its id."""
        if self._pid is not None:
            os.kill(self._pid, number)


class Supervisor:
    """Keeps workers and the compactor running until told to stop; then calls `release`, as no worker begins any more."""

    def __init__(self, workers: Sequence[Child], compactor: Child, stop_seconds: float, release: Callable[[], None]) -> None:
        self._workers = workers
        self._compactor = compactor
        self._stop_seconds = stop_seconds
        self._release = release
        self._stopping = asyncio.Event()

    async def run(self, asked: Asked, on_ready: Callable[[], None]) -> bool:
        """Run until asked to stop; return whether all children ended by themselves. `on_ready` is called once, when all are
        at work.

        Raises:
            NeverBegan, GaveUp: a child can't be kept running; the others were stopped.
        """
        children = [*self._workers, self._compactor]
        keepers = [asyncio.create_task(worker.keep_running()) for worker in self._workers]
        keepers.append(asyncio.create_task(self._keep_compactor()))
        announcing = asyncio.create_task(_announce(children, on_ready))
        stopping = asyncio.create_task(asked.stop.wait())
        try:
            await asyncio.wait({stopping, *keepers}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            announcing.cancel()
            await self._stop(asked.hurry)
        await asyncio.gather(*keepers)
        return not any(child.killed for child in children)

    async def _keep_compactor(self) -> None:
        """Begin when a worker is at work: it has made the log that is to be compacted, and had the processor for itself."""
        await _any(self._stopping, *(worker.ready for worker in self._workers))
        if not self._stopping.is_set():
            await self._compactor.keep_running()

    async def _stop(self, hurry: asyncio.Event) -> None:
        """Workers first: a write that waits for the compactor to catch up can still be answered."""
        logger.info("server.stop seconds_max=%g hint='a second signal ends it at once'", self._stop_seconds)
        self._stopping.set()
        for worker in self._workers:
            worker.ask_to_end()
        self._release()
        patience_seconds = self._stop_seconds + _KILL_AFTER_SECONDS
        await asyncio.gather(*(worker.end(patience_seconds, hurry) for worker in self._workers))
        self._compactor.ask_to_end()
        await self._compactor.end(patience_seconds, hurry)


async def _announce(children: Sequence[Child], on_ready: Callable[[], None]) -> None:
    for child in children:
        await child.ready.wait()
    on_ready()


async def _exit_code(pid: int) -> int:
    """Wait for a process that is about to end, as its pipe did; return its exit code, that of a signal below zero."""
    while True:
        code = _poll(pid)
        if code is not None:
            return code
        await asyncio.sleep(_ENDING_SECONDS)


def _poll(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


async def _any(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


async def _read(descriptor: int) -> bytes:
    """Return what a pipe has next, nothing at its end. A line that was written at once comes at once."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, 4096)
