"""Commands that open a data directory themselves, beside a running server or without one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from chroma_async.cli.console import fail, one_line_errors
from chroma_async.model import Collection
from chroma_async.protocol import Call, CountRecords, GetCollection, ListCollections, ListDatabases
from chroma_async.settings import EngineSettings

if TYPE_CHECKING:
    from chroma_async.engine.backup import BackupResult
    from chroma_async.engine.backup_list import Report

R = TypeVar("R")


class Dispatcher(Protocol):
    """The part of an engine that commands use."""

    async def dispatch(self, call: Call[R]) -> R: ...

    async def backup(self, destination: Path, report: Report | None = None) -> BackupResult: ...


def with_engine(path: Path, task: Callable[[Dispatcher], Awaitable[R]]) -> R:
    """Do something with the engine of an existing data directory; errors end the command with one line."""
    if not path.is_dir() or not any(path.iterdir()):
        fail(f"no data directory there; give the --path of a server. path={str(path)!r}")
    with one_line_errors():
        return asyncio.run(_with_engine(path, task))


async def _with_engine(path: Path, task: Callable[[Dispatcher], Awaitable[R]]) -> R:
    from chroma_async.engine import open_engine

    async with open_engine(path, EngineSettings(), compact=False) as engine:
        return await task(engine)


async def get_collection(engine: Dispatcher, tenant: str, database: str, name: str) -> Collection:
    return await engine.dispatch(GetCollection(tenant=tenant, database=database, name=name))


def address(collection: Collection) -> dict[str, Any]:
    """The fields by which a call on records names its collection."""
    return {"tenant": collection.tenant, "database": collection.database, "collection_id": collection.id}


@dataclass(frozen=True, slots=True)
class Row:
    """A collection, or a database without any."""

    tenant: str
    database: str
    collection: Collection | None
    records: int


async def collections_of(engine: Dispatcher, tenants: Sequence[str]) -> list[Row]:
    """Return what tenants have, by the names of databases and collections."""
    rows: list[Row] = []
    for tenant in tenants:
        for database in await engine.dispatch(ListDatabases(tenant=tenant)):
            found = await engine.dispatch(ListCollections(tenant=tenant, database=database.name))
            for item in sorted(found, key=lambda item: item.name):
                records = await engine.dispatch(CountRecords(**address(item)))
                rows.append(Row(tenant, database.name, item, records))
            if not found:
                rows.append(Row(tenant, database.name, None, 0))
    return rows
