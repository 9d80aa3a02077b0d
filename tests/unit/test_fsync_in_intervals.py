"""Durability `interval`: an fsync follows what was acknowledged, in time, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.simulation.logs import AppendFaults, FailingMemoryLog
from tests.support.clock import ManualClock
from tests.support.engines import TINY, Records, create_collection

from chroma_async.cli.commands import app
from chroma_async.engine.engine import Engine
from chroma_async.errors import ResourceLimitError, UnavailableError
from chroma_async.seams import InlineWorkers, Seams
from chroma_async.settings import Durability
from chroma_async.wal import MemoryLog, MemoryLogState

pytestmark = pytest.mark.anyio


class Machine:
    """One engine on a log that a power cut takes back to its last fsync, and the clock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = ManualClock()
        self.state = MemoryLogState()
        self.faults = AppendFaults()

    async def start(self, log: MemoryLog | None = None, durability: Durability = "interval") -> Engine:
        log = log or FailingMemoryLog(self.state, self.faults, durability=durability)
        settings = replace(TINY, durability=durability, sync_interval_seconds=2.0)
        engine = Engine(self.directory, log, InlineWorkers(), settings, Seams(clock=self.clock))
        await engine.start()
        return engine

    @asynccontextmanager
    async def engine(self, log: MemoryLog | None = None, durability: Durability = "interval") -> AsyncIterator[Engine]:
        engine = await self.start(log, durability)
        yield engine
        await engine.close()

    async def wait(self, seconds: float) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        await self.clock.advance(seconds)

    def left_after_a_power_cut(self) -> int:
        """Newest LSN that would be left."""
        synced = self.state._synced
        return (synced or self.state.image).newest


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def fsyncs(engine: Engine) -> int:
    return int(engine.metrics.registry.get_sample_value("chroma_async_sync_seconds_count") or 0)


async def written(engine: Engine, name: str = "things") -> Records:
    return Records(engine, (await create_collection(engine, name)).id)


async def test_writes_of_one_interval_share_an_fsync(machine: Machine) -> None:
    async with machine.engine() as engine:
        await machine.wait(2)
        records, before = await written(engine), fsyncs(engine)
        for number in range(5):
            await records.add([str(number)], [[1, 2]])
            await machine.wait(0.3)
        assert (fsyncs(engine), machine.left_after_a_power_cut() < machine.state.image.newest) == (before, True)
        await machine.wait(0.6)  # two seconds after the collection was made
        assert (fsyncs(engine), machine.left_after_a_power_cut()) == (before + 1, machine.state.image.newest)


async def test_who_appends_nothing_fsyncs_nothing(machine: Machine) -> None:
    async with machine.engine() as engine:
        await machine.wait(2)
        before = fsyncs(engine)
        for _ in range(10):
            await machine.wait(5)
        assert fsyncs(engine) == before


async def test_a_write_during_an_fsync_waits_for_the_next_one_and_no_longer_than_the_interval(machine: Machine) -> None:
    class SlowLog(FailingMemoryLog):
        """Its fsync covers what there was when it began."""

        slow = False

        async def sync(self) -> None:
            if not self.slow:
                await super().sync()
                return
            begun.set()
            await go_on.wait()

    begun, go_on = asyncio.Event(), asyncio.Event()
    log = SlowLog(machine.state, machine.faults, durability="interval")
    async with machine.engine(log) as engine:
        await machine.wait(2)
        records = await written(engine)
        log.slow = True
        await machine.wait(2)
        await begun.wait()
        await records.add(["late"], [[1, 2]])
        log.slow = False
        go_on.set()
        await machine.wait(1.9)
        assert machine.left_after_a_power_cut() < machine.state.image.newest
        await machine.wait(0.2)
        assert machine.left_after_a_power_cut() == machine.state.image.newest


async def test_closing_makes_everything_durable(machine: Machine) -> None:
    async with machine.engine() as engine:
        await machine.wait(2)
        await (await written(engine)).add(["a"], [[1, 2]])
        assert machine.left_after_a_power_cut() < machine.state.image.newest
    assert machine.left_after_a_power_cut() == machine.state.image.newest == 4


async def test_a_process_that_starts_makes_durable_what_a_killed_one_left(machine: Machine) -> None:
    killed = await machine.start()
    await machine.wait(2)
    await written(killed)
    await killed.abandon()
    await machine.wait(10)
    assert machine.left_after_a_power_cut() < machine.state.image.newest
    async with machine.engine():
        await machine.wait(2)
        assert machine.left_after_a_power_cut() == machine.state.image.newest


async def test_a_failed_fsync_stops_writes_and_says_so_while_reads_go_on(machine: Machine) -> None:
    async with machine.engine() as engine:
        await machine.wait(2)
        records = await written(engine)
        await records.add(["a"], [[1, 2]])
        machine.faults.sync = True
        await machine.wait(2)
        with pytest.raises(UnavailableError, match=r"could not be fsynced.*power cut; restart to go on"):
            await records.add(["b"], [[1, 2]])
        assert await records.count() == 1
        await machine.wait(10)
        assert not machine.faults.sync


async def test_an_fsync_that_found_no_file_handle_is_tried_again(machine: Machine) -> None:
    class Crowded(FailingMemoryLog):
        refusals = 0

        async def sync(self) -> None:
            if self.refusals:
                self.refusals -= 1
                raise ResourceLimitError("no file handles left")
            await super().sync()

    log = Crowded(machine.state, machine.faults, durability="interval")
    async with machine.engine(log) as engine:
        await machine.wait(2)
        records = await written(engine)
        log.refusals = 1
        await machine.wait(2)
        assert (log.refusals, machine.left_after_a_power_cut() < machine.state.image.newest) == (0, True)
        await records.add(["b"], [[1, 2]])
        await machine.wait(2)
        assert machine.left_after_a_power_cut() == machine.state.image.newest


@pytest.mark.parametrize("durability", ["commit", "off"])
async def test_other_durabilities_fsync_nothing_beside_writes(machine: Machine, durability: Durability) -> None:
    async with machine.engine(durability=durability) as engine:
        await (await written(engine)).add(["a"], [[1, 2]])
        await machine.wait(60)
        assert fsyncs(engine) == 0


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_an_interval_that_is_none_is_refused(tmp_path: Path, seconds: float) -> None:
    settings = replace(TINY, durability="interval", sync_interval_seconds=seconds)
    with pytest.raises(ValueError, match="sync_interval_seconds must be more than 0"):
        Engine(tmp_path, MemoryLog(), InlineWorkers(), settings)


@pytest.mark.parametrize("seconds", ["0", "inf", "nan", "soon"])
def test_a_server_refuses_an_interval_that_is_none(seconds: str) -> None:
    result = CliRunner().invoke(app, ["run", "--durability", "interval", "--sync-interval", seconds])
    assert (result.exit_code, "--sync-interval" in result.stderr) == (2, True)


def test_the_option_is_for_this_durability_alone() -> None:
    result = CliRunner().invoke(app, ["run", "--sync-interval", "2"])
    assert (result.exit_code, result.stderr) == (
        2,
        "chroma-async: --sync-interval is for --durability interval. durability='commit'\n",
    )
