"""Clocks for tests: one by which no time passes but what a test lets pass, and one by which everybody hurries."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from chroma_async.seams import SystemClock

PATIENCE_SECONDS = 20.0
"""Of the machine's clock, for what should come at once."""


class RestlessClock(SystemClock):
    """The machine's clock, by which nobody pauses for long."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(min(seconds, 0.002))


class _Sleeper(Struct, eq=False):
    until: float
    seconds: float
    woken: asyncio.Event


class ManualClock:
    """Time that passes when it is told to. Sleepers wake in order of their deadlines; the time of day may jump."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0
        self.jumped_seconds = 0.0
        self._sleepers: list[_Sleeper] = []
        self._fell_asleep = asyncio.Event()

    def now_ns(self) -> int:
        return int((self.seconds + self.jumped_seconds) * 1e9)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper = _Sleeper(self.seconds + seconds, seconds, asyncio.Event())
        self._sleepers.append(sleeper)
        self._fell_asleep.set()
        try:
            await sleeper.woken.wait()
        finally:
            if sleeper in self._sleepers:  # cancelled
                self._sleepers.remove(sleeper)

    async def advance(self, seconds: float) -> None:
        self.seconds += seconds
        due = sorted((item for item in self._sleepers if item.until <= self.seconds), key=lambda item: item.until)
        self._sleepers = [item for item in self._sleepers if item.until > self.seconds]
        for sleeper in due:
            sleeper.woken.set()
            await asyncio.sleep(0)

    def sleeping(self, seconds: float) -> int:
        """How many sleep for just so long."""
        return sum(sleeper.seconds == seconds for sleeper in self._sleepers)

    async def asleep(self, seconds: float) -> None:
        """Wait until somebody sleeps for just so long. What is done before that sleep has been done by then."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self.sleeping(seconds):
                self._fell_asleep.clear()
                await self._fell_asleep.wait()

    async def round(self, seconds: float) -> None:
        """Let a loop that sleeps for just so long go round once."""
        await self.asleep(seconds)
        await self.advance(seconds)
        await self.asleep(seconds)
