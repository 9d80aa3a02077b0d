"""One damaged directory: what is done to it, and what may be seen of it afterwards."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import shutil
import signal
import sqlite3
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tests.support.engines import PATH, TINY, Records, compactor_at, contents, create_collection, engine_at, settle

from chroma_async.engine.engine import Engine
from chroma_async.engine.verify import verify
from chroma_async.errors import ChromaError, FormatError, LogError, StorageCorrupt
from chroma_async.protocol import GetCollection
from chroma_async.settings import EngineSettings

SETTINGS: EngineSettings = replace(TINY, segment_rows_max=64, graph_rows_min=24, apply_bytes_max=100_000)
NAMES = ("first", "second")
NDIM = 8
WORDS = ("red", "green", "blue", "grey")
REFUSALS = (ChromaError, FormatError, LogError, StorageCorrupt, sqlite3.DatabaseError)
"""What a reader may be told: each has a sentence for a person."""

SECONDS = 90

Answers = dict[str, Any]


async def make_template(directory: Path, *, crashed: Path | None = None) -> None:
    """Two collections, most of them applied, with graphs, and some entries that wait. `crashed`: a copy with journals."""
    async with engine_at(directory, SETTINGS) as engine:
        for name in NAMES:
            records = Records(engine, (await create_collection(engine, name, "l2" if name == "first" else "cosine")).id)
            await _fill(records, name, 0, 150)
            async with compactor_at(directory, SETTINGS) as compactor:
                await settle(compactor)
            await _fill(records, name, 150, 30)
            await records.delete([f"{name}-{number}" for number in range(5, 30, 5)])
            async with compactor_at(directory, SETTINGS) as compactor:
                await settle(compactor)
                if crashed is not None and name == NAMES[-1]:
                    await _fill_tails(engine)
                    shutil.copytree(directory, crashed)
        if crashed is None:
            await _fill_tails(engine)


async def _fill_tails(engine: Engine) -> None:
    for name in NAMES:
        found = await engine.dispatch(GetCollection(**PATH, name=name))
        await _fill(Records(engine, found.id), name, 200, 10)


async def _fill(records: Records, name: str, first: int, count: int) -> None:
    numbers = range(first, first + count)
    vectors = np.random.default_rng(first + len(name)).standard_normal((count, NDIM)).astype(np.float32)
    await records.upsert(
        [f"{name}-{number}" for number in numbers],
        vectors,
        documents=[f"{WORDS[number % 4]} words of {name} number {number}" for number in numbers],
        metadatas=[{"number": number, "word": WORDS[number % 3], "share": number / 8} for number in numbers],
    )


async def answers_of(engine: Engine, name: str) -> Answers:
    """What a collection answers to one call of each kind."""
    found = await engine.dispatch(GetCollection(**PATH, name=name))
    records = Records(engine, found.id)
    everything = contents(await records.get())
    near = np.random.default_rng(7).standard_normal((3, NDIM)).astype(np.float32)
    result = {
        "count": await records.count(),
        "records": everything,
        "by_id": contents(await records.get([f"{name}-{number}" for number in (0, 5, 60, 149, 170, 205)])),
        "filtered": sorted(contents(await records.get(where={"number": {"$gte": 100}}))),
        "words": sorted(contents(await records.get(where={"word": "green"}))),
        "containing": sorted(contents(await records.get(where_document={"$contains": "blue words"}))),
    }
    for position, query in enumerate(near):
        result[f"near_{position}"] = (await records.query([query], n_results=5)).columns[0].ids
        filtered = await records.query([query], n_results=5, where={"number": {"$lt": 90}})
        result[f"near_filtered_{position}"] = filtered.columns[0].ids
    return json.loads(json.dumps(result))


async def _ask_all(engine: Engine) -> dict[str, Answers | str]:
    seen: dict[str, Answers | str] = {}
    for name in NAMES:
        try:
            seen[name] = await answers_of(engine, name)
        except REFUSALS as error:
            seen[name] = f"{type(error).__name__}: {error}"
    return seen


async def _read(directory: Path, *, compact: bool) -> dict[str, Answers | str] | str:
    """Answers by collection; in place of them, or of all, what was said instead."""
    try:
        if compact:
            async with compactor_at(directory, SETTINGS) as compactor:
                await settle(compactor)
        async with engine_at(directory, SETTINGS) as engine:
            return await _ask_all(engine)
    except REFUSALS as error:
        return f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Damage:
    """What was done to which file."""

    seed: int
    kind: str
    file: str
    action: str


KINDS = {
    "log": ("log.sqlite3",),
    "log journal": ("log.sqlite3-wal",),
    "log.committed": ("log.committed",),
    "VERSION": ("VERSION",),
    "records": ("collections/*/records.sqlite3",),
    "records journal": ("collections/*/records.sqlite3-wal",),
    "columns": ("collections/*/columns/*.columns",),
    "vectors": ("collections/*/segments/*/vectors.f32",),
    "slots": ("collections/*/segments/*/slots.i64",),
    "graph": ("collections/*/segments/*/*.usearch",),
}


def inflict(directory: Path, kind: str, seed: int) -> Damage | None:
    """Damage a file of this kind at random; None: there is none that has a byte."""
    chance = random.Random(seed)
    paths = [path for pattern in KINDS[kind] for path in sorted(directory.glob(pattern)) if path.stat().st_size]
    if not paths:
        return None
    path = chance.choice(paths)
    data = bytearray(path.read_bytes())
    offset = _offset(chance, data, is_journal=kind.endswith("journal"))
    action = chance.choices(("bit", "bytes", "zeros", "cut", "gone"), (10, 3, 3, 4, 1))[0]
    if action == "bit":
        data[offset] ^= 1 << chance.randrange(8)
    elif action == "bytes":
        data[offset : offset + 16] = chance.randbytes(len(data[offset : offset + 16]))
    elif action == "zeros":
        offset -= offset % 512
        data[offset : offset + 512] = bytes(len(data[offset : offset + 512]))
    elif action == "cut":
        del data[offset:]
    if action == "gone":
        path.unlink()
    else:
        path.write_bytes(data)
    return Damage(seed, kind, str(path.relative_to(directory)), f"{action} at {offset}")


def _offset(chance: random.Random, data: bytearray, *, is_journal: bool) -> int:
    """Mostly where something is: not in the empty part of a page, nor in what a journal has left from earlier."""
    offset = chance.randrange(len(data))
    if chance.random() < 0.7:
        offset = chance.randrange(min(len(data), 32_768 if is_journal else len(data)))
        for _ in range(50):
            if data[offset]:
                break
            offset = chance.randrange(min(len(data), 32_768 if is_journal else len(data)))
    return offset


@dataclass(frozen=True)
class Seen:
    """What a damaged directory answered without a compactor, and after one healed it; what was logged and verified."""

    at_once: dict[str, Answers | str] | str
    healed: dict[str, Answers | str] | str
    logged: str
    damaged: tuple[str, ...]


def look(directory: Path, outcome: Path) -> None:
    """Read a directory in a child process, which may crash, and leave what was seen in a file."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if status:
            raise AssertionError(
                f"the process ended with status {status}. {outcome.read_text() if outcome.exists() else ''}"
            )
        return
    code = 1
    try:
        signal.alarm(SECONDS)
        outcome.write_text(json.dumps(asdict(asyncio.run(_look(directory)))))
        code = 0
    except BaseException:
        outcome.write_text(traceback.format_exc())
    finally:
        os._exit(code)


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


async def _look(directory: Path) -> Seen:
    lines = _Lines()
    logger = logging.getLogger("chroma_async")
    logger.addHandler(lines)
    logger.propagate = False
    at_once = await _read(directory, compact=False)
    try:
        verdict = verify(directory)
        damaged = tuple(item.path for item in verdict.findings if item.state not in ("whole", "unsummed"))
    except FormatError as error:
        damaged = (str(error),)
    healed = await _read(directory, compact=True)
    return Seen(at_once, healed, "\n".join(lines.lines), damaged)
