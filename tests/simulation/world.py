"""A machine whose processes, disk, log and clock are played by a seeded history.

Processes are engines that share a log and a real directory; the disk remembers what was not synced, and loses some of it
when the machine crashes; a process crash is an exception out of any file operation, or the process is just dropped. All of
it runs in one thread in an order that the seed decides, so a failing seed fails again.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tests.simulation.disk import Fault, ProcessCrashed, SimulatedFiles
from tests.simulation.logs import Medium, MemoryMedium, SqliteMedium
from tests.support.clock import ManualClock

from chroma_async.engine.collection import CollectionReader
from chroma_async.engine.compactor import Compactor
from chroma_async.engine.engine import Engine
from chroma_async.engine.lock import MemoryCompactorLock
from chroma_async.engine.read_view import View
from chroma_async.seams import InlineWorkers, Seams, SeededEntropy
from chroma_async.settings import Durability, EngineSettings
from chroma_async.wal import TruncatableLog

LogKind = Literal["memory", "sqlite"]
Regime = Durability | Literal["mixed"]
"""The durability of all processes; or each process chooses one."""

SETTINGS = EngineSettings(
    allow_reset=True, graph_rows_min=24, segment_rows_max=40, apply_bytes_max=4_000, index_threads=1, reader_threads=1
)
ALWAYS_BRIEF_SECONDS = 1e9
"""Reads of half of the processes run on the event loop whenever they need not wait."""


@dataclass(eq=False)
class HeldView:
    """A read view that stays open while the history goes on, and what it must say as long as it does."""

    collection_id: str
    reader: CollectionReader
    view: View
    records: dict[str, list[Any]]
    has_columns: bool
    open_for: ExitStack


@dataclass(eq=False)
class SimulatedProcess:
    """An engine, and perhaps the compactor; the handles of the log that it has open, and the views."""

    engine: Engine
    compactor: Compactor
    logs: list[TruncatableLog]
    durability: Durability
    is_compacting: bool = False
    held: list[HeldView] = field(default_factory=list[HeldView])


@dataclass
class World:
    """The machine. `log` is a handle of the history's own; nothing of the machine depends on it."""

    directory: Path
    seed: int
    durability: Regime = "commit"
    log_kind: LogKind = "memory"
    rng: random.Random = field(init=False)
    settings: EngineSettings = field(init=False)
    """Of all processes, but for what each chooses: how much of the log is kept is one of these."""
    clock: ManualClock = field(default_factory=ManualClock)
    medium: Medium = field(init=False)
    log: TruncatableLog = field(init=False)
    processes: list[SimulatedProcess] = field(default_factory=list[SimulatedProcess])
    lock_holder: list[object] = field(default_factory=list[object])

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        kept = random.Random(self.seed * 31 + 5).choice([0, 0, 2_000, 20_000, 2**20])
        self.settings = replace(SETTINGS, log_retention_bytes=kept)
        self.files = SimulatedFiles(self.rng)
        self.entropy = SeededEntropy(self.seed)
        if self.log_kind == "memory":
            self.medium = MemoryMedium(self.seed)
        else:
            assert self.durability != "mixed", "what a power cut takes is played for one durability there"
            self.medium = SqliteMedium(self.directory, self.rng, self.durability)

    async def start(self) -> None:
        """Switch the machine on."""
        self.log = await self._open_log()

    async def _open_log(self) -> TruncatableLog:
        """The history's own handle, which appends nothing."""
        return await self.medium.open("off" if self.durability == "mixed" else self.durability)

    async def start_process(self) -> SimulatedProcess:
        brief = self.rng.choice([0.0, ALWAYS_BRIEF_SECONDS])
        choices: list[Durability] = ["commit", "interval", "off"]
        durability = self.rng.choice(choices) if self.durability == "mixed" else self.durability
        settings = replace(self.settings, brief_seconds=brief, durability=durability)
        logs = [await self.medium.open(durability) for _ in range(2)]
        engine = Engine(self.directory, logs[0], InlineWorkers(), settings, self._seams())
        await engine.start()
        process = SimulatedProcess(engine, self._new_compactor(logs[1]), logs, durability)
        self.processes.append(process)
        return process

    def _seams(self) -> Seams:
        return Seams(self.clock, self.entropy, self.files)

    def _new_compactor(self, log: TruncatableLog) -> Compactor:
        lock = MemoryCompactorLock(self.lock_holder)
        return Compactor(self.directory, log, lock, InlineWorkers(), self.settings, self._seams())

    async def compact(self, process: SimulatedProcess, fault: Fault | None = None, after: int = 0) -> bool:
        """One step of the compactor, if this process holds the lock or gets it; True when it ran to its end.

        With a `fault`, it comes to pass at that many operations from here. An error ends the compactor, and another one
        starts over from what is on disk, in the same process or, when that died, in another one.
        """
        if not process.compactor.lock.try_acquire():
            return False
        if fault is not None:
            self.files.break_after(fault, after)
        try:
            if not process.is_compacting:
                await process.compactor.take_over()
                process.is_compacting = True
            await process.compactor.step()
            await process.compactor.index_now()
        except ProcessCrashed:
            await self.crash(process)
            return False
        except OSError:
            self._restart_compactor(process)
            return False
        finally:
            self.files.mend()
        return True

    def _restart_compactor(self, process: SimulatedProcess) -> None:
        process.compactor.abandon()
        process.compactor.lock.release()
        process.compactor = self._new_compactor(process.logs[1])
        process.is_compacting = False

    async def crash(self, process: SimulatedProcess) -> None:
        """SIGKILL: nothing of the process goes on, its lock and its transactions are gone."""
        await self._drop(process)
        if self.log_kind == "sqlite":
            for log in process.logs:
                await log.close()

    async def _drop(self, process: SimulatedProcess) -> None:
        self.processes.remove(process)
        for held in process.held:
            held.open_for.close()
        process.held.clear()
        process.compactor.abandon()
        process.compactor.lock.release()
        await process.engine.abandon()

    async def crash_machine(self) -> int:
        """A power cut: all processes are gone, and what was not synced may be. Return the newest LSN that is left."""
        handles = [self.log, *(log for process in self.processes for log in process.logs)]
        for process in list(self.processes):
            await self._drop(process)
        newest = await self.medium.cut_power(handles)
        self.files.lose_unsynced()
        self.lock_holder.clear()
        self.log = await self._open_log()
        return newest

    async def close(self) -> None:
        for process in list(self.processes):
            with suppress(asyncio.CancelledError):
                await self.crash(process)
        await self.log.close()
