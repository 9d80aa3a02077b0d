"""Commands that open a data directory themselves, beside a running server or without one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from chroma_async.cli.console import fail, in_loop, one_line_errors
from chroma_async.model import Collection
from chroma_async.protocol import Call, GetCollection
from chroma_async.settings import EngineSettings

if TYPE_CHECKING:
    from chroma_async.engine.backup import BackupResult
    from chroma_async.engine.backup_list import Report
    from chroma_async.engine.status import DirectoryStatus

R = TypeVar("R")


class Dispatcher(Protocol):
    """The part of an engine that commands use."""

    async def dispatch(self, call: Call[R]) -> R: ...

    async def backup(self, destination: Path, report: Report | None = None) -> BackupResult: ...

    async def status(self) -> DirectoryStatus: ...


def require_directory(path: Path, hint: str = "") -> None:
    """End the command where there is no data directory; `hint` says what would make one."""
    with one_line_errors():
        if not path.is_dir() or not any(path.iterdir()):
            fail(f"no data directory there{hint}. path={str(path)!r}")


def with_engine(path: Path, task: Callable[[Dispatcher], Awaitable[R]], *, compact: bool = False, create: bool = False) -> R:
    """Do something with the engine of a data directory; errors end the command with one line.

    With `compact`, it compacts meanwhile if nobody else does. The directory must be there, unless `create`.
    """
    if not create:
        require_directory(path)
    return in_loop(lambda: _with_engine(path, task, compact))


async def _with_engine(path: Path, task: Callable[[Dispatcher], Awaitable[R]], compact: bool) -> R:
    from chroma_async.engine import open_engine

    async with open_engine(path, EngineSettings(), compact=compact) as engine:
        return await task(engine)


async def get_collection(engine: Dispatcher, tenant: str, database: str, name: str) -> Collection:
    return await engine.dispatch(GetCollection(tenant=tenant, database=database, name=name))
