"""A machine whose processes, disk and clock are played by a seeded history.

Processes are engines that share a log in memory and a real directory; the disk remembers what was not synced, and loses some
of it when the machine crashes; a process crash is an exception out of any file operation, or the process just being dropped.
Everything runs in one thread in an order that the seed decides, so a failing seed fails again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from chroma_async.engine.compactor import Compactor
from chroma_async.engine.engine import Engine
from chroma_async.engine.lock import MemoryCompactorLock
from chroma_async.seams import InlineWorkers, Seams, SeededEntropy, SystemFiles
from chroma_async.seams.files import Buffer
from chroma_async.settings import Durability, EngineSettings
from chroma_async.wal import MemoryLog, MemoryLogState

SETTINGS = EngineSettings(
    allow_reset=True, graph_rows_min=24, segment_rows_max=40, apply_bytes_max=4_000, index_threads=1, reader_threads=1
)


class ProcessCrashed(BaseException):
    """The process stopped existing in the middle of something."""


class VirtualClock:
    """Time that passes when the history says so. Sleepers wake in order of their deadlines."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def now_ns(self) -> int:
        return int(self.seconds * 1e9)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        event = asyncio.Event()
        self._sleepers.append((self.seconds + seconds, event))
        await event.wait()

    async def advance(self, seconds: float) -> None:
        self.seconds += seconds
        due = sorted((item for item in self._sleepers if item[0] <= self.seconds), key=lambda item: item[0])
        self._sleepers = [item for item in self._sleepers if item[0] > self.seconds]
        for _, event in due:
            event.set()
            await asyncio.sleep(0)


@dataclass
class Unsynced:
    """What a crash of the machine may do to a file: cut it back to some length, or make its name vanish."""

    safe_bytes: int
    name_is_safe: bool


class SimulatedFiles(SystemFiles):
    """The real files, with a memory of what was not synced, and a fuse that burns with each operation."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._unsynced: dict[Path, Unsynced] = {}
        self.fuse: int | None = None

    def _burn(self) -> None:
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                self.fuse = None
                raise ProcessCrashed

    def _touch(self, path: Path, safe_bytes: int) -> None:
        known = self._unsynced.get(path)
        name_is_safe = known.name_is_safe if known else path.exists()
        self._unsynced[path] = Unsynced(min(safe_bytes, known.safe_bytes) if known else safe_bytes, name_is_safe)

    def write(self, path: Path, parts: Iterable[Buffer]) -> None:
        self._burn()
        self._touch(path, 0)
        super().write(path, parts)

    def write_at(self, path: Path, offset: int, data: Buffer) -> None:
        self._burn()
        self._touch(path, offset)
        super().write_at(path, offset, data)

    def sync(self, path: Path) -> None:
        self._burn()
        super().sync(path)
        known = self._unsynced.setdefault(path, Unsynced(0, name_is_safe=False))
        known.safe_bytes = path.stat().st_size

    def sync_directory(self, path: Path) -> None:
        self._burn()
        for child, state in self._unsynced.items():
            if child.parent == path:
                state.name_is_safe = True

    def replace(self, source: Path, destination: Path) -> None:
        self._burn()
        moved = self._unsynced.pop(source, Unsynced(source.stat().st_size, name_is_safe=True))
        super().replace(source, destination)
        self._unsynced[destination] = Unsynced(moved.safe_bytes, name_is_safe=False)

    def make_directory(self, path: Path) -> None:
        self._burn()
        super().make_directory(path)

    def remove(self, path: Path) -> None:
        self._burn()
        super().remove(path)

    def lose_unsynced(self) -> None:
        """Cut the power: each file that was not synced loses a part of what was not."""
        for path, state in sorted(self._unsynced.items()):
            if not path.is_file():
                continue
            if not state.name_is_safe and self._rng.random() < 0.5:
                path.unlink()
                continue
            size = path.stat().st_size
            if size > state.safe_bytes and self._rng.random() < 0.7:
                with path.open("r+b") as file:
                    file.truncate(self._rng.randint(state.safe_bytes, size))
        self._unsynced.clear()


@dataclass
class SimulatedProcess:
    """An engine, and perhaps the compactor."""

    engine: Engine
    compactor: Compactor
    is_compacting: bool = False


@dataclass
class World:
    """The machine. `history` is told when a check fails."""

    directory: Path
    seed: int
    durability: Durability = "commit"
    rng: random.Random = field(init=False)
    clock: VirtualClock = field(default_factory=VirtualClock)
    log: MemoryLogState = field(init=False)
    processes: list[SimulatedProcess] = field(default_factory=list)
    lock_holder: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.files = SimulatedFiles(self.rng)
        self.log = MemoryLogState(f"log-{self.seed}")
        self.entropy = SeededEntropy(self.seed)

    async def start_process(self) -> SimulatedProcess:
        seams = Seams(self.clock, self.entropy, self.files)
        workers = InlineWorkers()
        engine = Engine(self.directory, self.open_log(), workers, SETTINGS, seams)
        await engine.start()
        lock = MemoryCompactorLock(self.lock_holder)
        compactor = Compactor(self.directory, self.open_log(), lock, workers, SETTINGS, seams)
        process = SimulatedProcess(engine, compactor)
        self.processes.append(process)
        return process

    def open_log(self) -> MemoryLog:
        return MemoryLog(self.log, durability=self.durability)

    async def compact(self, process: SimulatedProcess, *, crash_after: int | None = None) -> bool:
        """One step of the compactor, if this process holds the lock or gets it; True when it ran to its end.

        With `crash_after`, the process dies at that many file operations from here.
        """
        lock = process.compactor.lock
        if not lock.try_acquire():
            return False
        self.files.fuse = crash_after
        try:
            if not process.is_compacting:
                await process.compactor.take_over()
                process.is_compacting = True
            await process.compactor.step()
            await process.compactor.index_now()
        except ProcessCrashed:
            await self.crash(process)
            return False
        finally:
            self.files.fuse = None
        return True

    async def crash(self, process: SimulatedProcess) -> None:
        """SIGKILL: nothing of the process goes on, its lock and its transactions are gone."""
        self.processes.remove(process)
        process.compactor.abandon()
        process.compactor.lock.release()
        await process.engine.abandon()

    async def crash_machine(self) -> None:
        """A power cut: all processes are gone, and what was not synced may be."""
        for process in list(self.processes):
            await self.crash(process)
        self.log.lose_unsynced()
        self.files.lose_unsynced()
        self.lock_holder.clear()

    async def close(self) -> None:
        for process in list(self.processes):
            process.compactor.abandon()
            with suppress(asyncio.CancelledError):
                await process.engine.close()
