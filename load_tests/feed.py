"""One listener follows a collection: how fast it gets through what is kept, and how soon a change is there.

The listener is a process of its own that does nothing else. It is given everything that a change carries, and what it got is
compared with what was written: each change once, in the order of its LSNs.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from multiprocessing.connection import Connection as Pipe
from typing import Any, Final

import numpy as np
from rich.console import Console

from chroma_async import AsyncCollection, AsyncHttpClient
from load_tests.data import Dataset
from load_tests.errors import WrongAnswer
from load_tests.generator import Address
from load_tests.pipes import expect
from load_tests.servers import Program, running

RETENTION: Final = "4GB"
"""So that nothing of a run is freed."""

_BATCH = 500
_WRITERS = 16
_PACE_SECONDS = 0.05
_LISTENER_SECONDS_MAX = 300.0
_WHO = "the listener"
_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Read:
    """A history that was read from its beginning, by one listener."""

    name: str
    changes: int
    records: int
    seconds: float
    """From connecting until the last change was there."""

    def __str__(self) -> str:
        changes, records = self.changes / self.seconds, self.records / self.seconds
        return f"{self.name}: {changes:,.0f} changes/s, {records:,.0f} records/s ({self.changes:,} changes)"


@dataclass(slots=True)
class Followed:
    """What came of a run. Latencies in milliseconds, from when a write of one record was sent."""

    histories: list[Read] = field(default_factory=list[Read])
    answered_ms: list[float] = field(default_factory=list[float])
    """Until the writer had its answer."""
    heard_ms: list[float] = field(default_factory=list[float])
    """Until the listener had the change."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def follow(program: Program, base: Dataset, writes: int, seconds: float, say: Callable[[str], None]) -> Followed:
    """Start a server that keeps its log; listen to `base` in batches, to so many small writes, and live for `seconds`.

    Raises:
        LoadTestError: the server refuses something, or the listener lacks changes, or got other ones.
    """
    result = Followed()
    with running(replace(program, options=(*program.options, "--log-retention", RETENTION))) as server:
        histories = (("batches", _batches(base), 4), ("small-writes", _small(base, writes), _WRITERS))
        for name, parts, writers in histories:
            asyncio.run(_write(server.address, name, parts, writers))
            result.histories.append(_history(server.address, name, parts))
            say(str(result.histories[-1]))
        _live(server.address, _small(base, max(1, round(seconds / _PACE_SECONDS))), result)
        for name, latencies in (("writer had its answer", result.answered_ms), ("listener had the change", result.heard_ms)):
            p50, p99 = np.percentile(latencies, [50, 99])
            say(f"until the {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms ({len(latencies)} writes of one record)")
    return result


def print_followed(lines: Sequence[str], facts: dict[str, str], console: Console) -> None:
    """Show machine and figures."""
    for key, value in facts.items():
        console.print(f"{key:10} {value}", highlight=False)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _batches(base: Dataset) -> list[Dataset]:
    return [_part(base, range(first, min(first + _BATCH, len(base)))) for first in range(0, len(base), _BATCH)]


def _small(base: Dataset, count: int) -> list[Dataset]:
    """Parts of one record each; ids are those of their numbers, since there may be more parts than records."""
    return [replace(_part(base, [number % len(base)]), ids=[f"small-{number}"]) for number in range(count)]


def _part(base: Dataset, rows: Sequence[int]) -> Dataset:
    return replace(
        base,
        ids=[base.ids[row] for row in rows],
        documents=[base.documents[row] for row in rows],
        metadatas=[base.metadatas[row] for row in rows],
        vectors=base.vectors[list(rows)],
    )


# ---- who writes


def _client(address: Address) -> AsyncHttpClient:
    return AsyncHttpClient(f"http://{address.host}:{address.port}")


async def _write(address: Address, name: str, parts: Sequence[Dataset], writers: int) -> None:
    async with _client(address) as client:
        collection = await client.create_collection(name, embedding_function=None)
        waiting = iter(parts)

        async def writer() -> None:
            for part in waiting:
                await _add(collection, part)

        async with asyncio.TaskGroup() as group:
            for _ in range(writers):
                group.create_task(writer())
        await collection.flush(wait="applied", wait_seconds=120)


async def _add(collection: AsyncCollection, part: Dataset) -> None:
    await collection.add(part.ids, part.vectors, part.metadatas, part.documents)


async def _write_at_a_pace(address: Address, name: str, parts: Sequence[Dataset]) -> list[tuple[float, float]]:
    """Return when each write was sent, and when it was answered."""
    times: list[tuple[float, float]] = []
    async with _client(address) as client:
        collection = await client.get_collection(name, embedding_function=None)
        for part in parts:
            sent = time.monotonic()
            await _add(collection, part)
            times.append((sent, time.monotonic()))
            await asyncio.sleep(max(0.0, sent + _PACE_SECONDS - time.monotonic()))
    return times


# ---- who listens


@dataclass(frozen=True, slots=True)
class Heard:
    """What a listener got: of each change its LSN, its ids, and when it was there. `began` is when it connected."""

    began: float
    lsns: list[int] = field(default_factory=list[int])
    ids: list[list[str]] = field(default_factory=list[list[str]])
    times: list[float] = field(default_factory=list[float])

    def check(self, written: Sequence[list[str]], *, in_order: bool) -> None:
        """Compare with the ids of what was written. `in_order`: by one writer, so in this order.

        Raises:
            WrongAnswer: something is missing, or came twice, or in another order.
        """
        if any(one >= other for one, other in pairwise(self.lsns)):
            raise WrongAnswer("the listener got changes twice, or in another order than that of their LSNs")
        if sorted(self.ids) != sorted(written):
            raise WrongAnswer("the listener got other changes than were written")
        if in_order and self.ids != list(written):
            raise WrongAnswer("the listener got changes in another order than they were written")


def _history(address: Address, name: str, parts: Sequence[Dataset]) -> Read:
    heard = asyncio.run(_listened(address, name, 0, len(parts)))
    heard.check([part.ids for part in parts], in_order=False)
    return Read(name, len(parts), sum(map(len, heard.ids)), heard.times[-1] - heard.began)


def _live(address: Address, parts: Sequence[Dataset], result: Followed) -> None:
    async def both() -> tuple[Heard, list[tuple[float, float]]]:
        async with _client(address) as client:
            await client.create_collection("live", embedding_function=None)
        times: list[tuple[float, float]] = []

        async def write() -> None:
            times.extend(await _write_at_a_pace(address, "live", parts))

        return await _listened(address, "live", None, len(parts), write), times

    heard, times = asyncio.run(both())
    heard.check([part.ids for part in parts], in_order=True)
    result.answered_ms = [1000 * (answered - sent) for sent, answered in times]
    result.heard_ms = [1000 * (at - sent) for at, (sent, _) in zip(heard.times, times, strict=True)]


async def _listened(
    address: Address,
    name: str,
    after: int | None,
    count: int,
    meanwhile: Callable[[], Coroutine[None, None, None]] | None = None,
) -> Heard:
    """Let a process listen for so many changes; do something as soon as it is connected."""
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_listen, args=(address, name, after, count, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        await asyncio.to_thread(expect, ours, "connected", _WHO)
        if meanwhile is not None:
            await meanwhile()
        heard: Heard = await asyncio.to_thread(expect, ours, "heard", _WHO)
    finally:
        process.kill()
        process.join()
    return heard


def _listen(address: Address, name: str, after: int | None, count: int, pipe: Pipe) -> None:
    """The listener's process."""
    try:
        heard = asyncio.run(asyncio.wait_for(_take(address, name, after, count, pipe), _LISTENER_SECONDS_MAX))
    except Exception as error:
        pipe.send(("failed", repr(error)))
        raise
    pipe.send(("heard", heard))


async def _take(address: Address, name: str, after: int | None, count: int, pipe: Pipe) -> Heard:
    async with _client(address) as client:
        collection = await client.get_collection(name, embedding_function=None)
        heard = Heard(time.monotonic())
        async with collection.watch(after=after, include=["documents", "embeddings", "metadatas"]) as watch:
            pipe.send(("connected", None))
            async for change in watch:
                heard.times.append(time.monotonic())
                heard.lsns.append(change.lsn)
                heard.ids.append(list(change.ids))
                assert change.embeddings is not None
                if len(heard.ids) == count:
                    break
    return heard
