"""`import-chroma`."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click
from msgspec.structs import replace

from chroma_async.cli.console import EXIT_FAILED, in_loop, print_table, progress_bar
from chroma_async.cli.options import header_option
from chroma_async.model import DEFAULT_TENANT

if TYPE_CHECKING:
    from chroma_async.cli.chroma_files import ChromaFiles, Reasons
    from chroma_async.cli.places import Place
    from chroma_async.cli.transfer import Target
    from chroma_async.model import Collection
    from chroma_async.protocol.results import Columns

_PAGE_COLLECTIONS = 100


@dataclass(slots=True)
class _Outcome:
    """What became of a collection: records that it has now, those of them that had to be written, and what was left out."""

    collection: Collection
    records: int = 0
    written: int = 0
    reasons: Reasons = field(default_factory=Counter[str])
    refusal: str | None = None


class _Source(Protocol):
    async def collections(self) -> list[Collection]: ...

    async def count(self, collection: Collection) -> int: ...

    def pages(self, collection: Collection, reasons: Reasons) -> AsyncIterator[Columns]: ...


@click.command("import-chroma")
@click.argument("source", metavar="PATH_OR_URL")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--tenant", multiple=True, default=[DEFAULT_TENANT], help="Tenant of a server to take; repeatable.")
@header_option
def import_chroma(source: str, path: Path, tenant: tuple[str, ...], header: dict[str, str]) -> None:
    """Take all collections of Chroma 1.x into a data directory.

    It is PATH, made if it is not there. PATH_OR_URL is Chroma's data directory, which nobody may have open meanwhile, or
    the URL of a running server. After an interruption, run it again: what is there already is not written again.
    """
    from chroma_async.cli.places import open_place

    place = open_place(path, None, create=True)

    async def work() -> list[_Outcome]:
        async with _opened(source, tenant, header) as opened, place as target:
            return [await _take(opened, target, item) for item in await opened.collections()]

    outcomes = in_loop(work)
    _print(outcomes)
    if any(item.refusal or item.reasons for item in outcomes):
        raise SystemExit(EXIT_FAILED)


def _opened(source: str, tenants: tuple[str, ...], headers: dict[str, str]) -> AbstractAsyncContextManager[_Source]:
    if "://" in source:
        return _open_server(source, tenants, headers)
    return _open_directory(Path(source))


@asynccontextmanager
async def _open_directory(path: Path) -> AsyncGenerator[_Source]:
    from chroma_async.cli.chroma_files import ChromaFiles

    files = ChromaFiles(path)
    try:
        yield _Directory(files)
    finally:
        files.close()


@asynccontextmanager
async def _open_server(url: str, tenants: tuple[str, ...], headers: dict[str, str]) -> AsyncGenerator[_Source]:
    from chroma_async.cli.places import open_place

    async with open_place(None, url, headers) as place:
        yield _Server(place, tenants)


@dataclass(frozen=True, slots=True)
class _Directory:
    files: ChromaFiles

    async def collections(self) -> list[Collection]:
        return self.files.collections()

    async def count(self, collection: Collection) -> int:
        return self.files.count(collection)

    async def pages(self, collection: Collection, reasons: Reasons) -> AsyncGenerator[Columns]:
        for columns in self.files.pages(collection, reasons):
            yield columns


@dataclass(frozen=True, slots=True)
class _Server:
    place: Place
    tenants: tuple[str, ...]

    async def collections(self) -> list[Collection]:
        from chroma_async.protocol import ListDatabases

        found: list[Collection] = []
        for tenant in self.tenants:
            for database in await self.place.send(ListDatabases(tenant=tenant)):
                found += await self._collections(tenant, database.name)
        return found

    async def _collections(self, tenant: str, database: str) -> list[Collection]:
        from chroma_async.protocol import ListCollections

        found: list[Collection] = []
        while True:
            call = ListCollections(tenant=tenant, database=database, limit=_PAGE_COLLECTIONS, offset=len(found))
            page = await self.place.send(call)
            found += page
            if len(page) < _PAGE_COLLECTIONS:
                return sorted(found, key=lambda item: item.name)

    async def count(self, collection: Collection) -> int:
        from chroma_async.model import address_of
        from chroma_async.protocol import CountRecords

        return (await self.place.send(CountRecords(**address_of(collection)))).count

    async def pages(self, collection: Collection, reasons: Reasons) -> AsyncGenerator[Columns]:
        del reasons
        async for columns in self.place.pages(collection):
            yield columns


# ---- taking


async def _take(source: _Source, place: Place, collection: Collection) -> _Outcome:
    from chroma_async.cli.exchange import Definition
    from chroma_async.cli.transfer import target_for
    from chroma_async.errors import ChromaError, ExchangeError

    outcome = _Outcome(collection)
    try:
        await _make_database(place, collection.tenant, collection.database)
        definition = Definition.of(collection)
        target = await target_for(place, definition, collection.tenant, collection.database, collection.name)
    except (ChromaError, ExchangeError) as error:
        if isinstance(error, ChromaError) and error.retryable:
            raise
        outcome.refusal = str(error)
        return outcome
    total = await source.count(collection)
    with progress_bar() as report:
        async for columns in source.pages(collection, outcome.reasons):
            await _write(target, columns, outcome)
            report(collection.name, outcome.records, max(total, outcome.records))
    return outcome


async def _make_database(place: Place, tenant: str, database: str) -> None:
    from chroma_async.errors import NotFoundError
    from chroma_async.protocol import CreateDatabase, CreateTenant, GetDatabase, GetTenant

    try:
        await place.send(GetTenant(tenant=tenant))
    except NotFoundError:
        await place.send(CreateTenant(name=tenant))
    try:
        await place.send(GetDatabase(tenant=tenant, database=database))
    except NotFoundError:
        await place.send(CreateDatabase(tenant=tenant, name=database))


async def _write(target: Target, columns: Columns, outcome: _Outcome) -> None:
    """Write records; of a batch that is refused, all but those that are to blame."""
    from chroma_async.cli.transfer import write
    from chroma_async.errors import ChromaError

    if not columns.ids:
        return
    try:
        outcome.written += await write(target, columns)
        outcome.records += len(columns.ids)
    except ChromaError as error:
        if error.retryable or not 400 <= error.status < 500:
            raise
        if len(columns.ids) == 1:
            outcome.reasons[f"record refused: {error.message}"] += 1
            return
        middle = len(columns.ids) // 2
        for part in (slice(None, middle), slice(middle, None)):
            await _write(target, _rows(columns, part), outcome)


def _rows(columns: Columns, part: slice) -> Columns:
    def of(column: Any) -> Any:
        return None if column is None else column[part]

    return replace(
        columns,
        ids=columns.ids[part],
        embeddings=of(columns.embeddings),
        documents=of(columns.documents),
        metadatas=of(columns.metadatas),
        uris=of(columns.uris),
    )


def _print(outcomes: list[_Outcome]) -> None:
    from rich.table import Table

    table = Table("tenant", "database", "collection", "records", "written", "left out")
    for item in outcomes:
        left_out = [item.refusal] if item.refusal else [f"{count}: {reason}" for reason, count in item.reasons.items()]
        found = item.collection
        table.add_row(
            found.tenant, found.database, found.name, str(item.records), str(item.written), "\n".join(left_out) or "nothing"
        )
    print_table(table)
