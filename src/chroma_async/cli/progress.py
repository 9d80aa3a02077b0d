"""`inspect` and `flush`: how far everything has come, and to make it come further."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from chroma_async.cli.console import EXIT_FAILED, Number, format_bytes, print_table
from chroma_async.cli.options import place_options
from chroma_async.model import STAGES, Stage

if TYPE_CHECKING:
    from chroma_async.cli.directory import Dispatcher
    from chroma_async.engine.status import CollectionStatus
    from chroma_async.protocol.results import FlushResult


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--tenant", multiple=True, help="Tenant to look into; repeatable.  [default: all]", show_default=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with LSNs and sizes of each collection in full.")
def inspect(path: Path, tenant: tuple[str, ...], as_json: bool) -> None:
    """List collections, and how far each has come.

    PATH is the data directory, which may be in use.

    Committed entries are in the log; applied ones in the tables too; vectors in graphs are searched by them, the others are
    scanned.
    """
    import msgspec
    from rich.table import Table

    from chroma_async.cli.directory import with_engine

    status = with_engine(path, lambda engine: engine.status())
    rows = [row for row in status.collections if not tenant or row.tenant in tenant]
    if as_json:
        click.echo(msgspec.json.encode(replace(status, collections=rows)).decode())
        return
    table = Table(
        "tenant", "database", "collection", "records", "dimension", "space", "applied", "waiting", "in graphs", "size", "id"
    )
    for row in rows:
        table.add_row(row.tenant, row.database, row.name, *_cells(row), row.id)
    for owner, database in status.empty_databases:
        if not tenant or owner in tenant:
            table.add_row(owner, database, "-", *[""] * 8)
    print_table(table)
    for row in rows:
        if row.problem is not None:
            click.echo(f"{row.name}: damaged: {row.problem}")
    click.echo(
        f"log: oldest_lsn={status.oldest} applied_lsn={status.applied} committed_lsn={status.committed} "
        f"size={format_bytes(status.log_bytes)} kept={format_bytes(status.kept_bytes)}"
    )


def _cells(row: CollectionStatus) -> tuple[str, ...]:
    dimension = "-" if row.dimension is None else str(row.dimension)
    if row.problem is not None:
        return "?", dimension, row.space, "?", "?", "?", format_bytes(row.size_bytes)
    return (
        str(row.records),
        dimension,
        row.space,
        f"{row.applied}/{row.committed}",
        f"{row.waiting_entries} ({format_bytes(row.waiting_bytes)})" if row.waiting_entries else "-",
        f"{row.in_graphs}/{row.vectors}",
        format_bytes(row.size_bytes),
    )


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("collection", required=False)
@click.option("--wait", type=click.Choice(STAGES), default="applied", help="How far.")
@click.option("--wait-seconds", type=Number(0, 3600), default=600.0, help="How long at most.")
@place_options
def flush(path: Path, collection: str | None, wait: Stage, wait_seconds: float, tenant: str, database: str) -> None:
    """Fsync the log, and wait until what it holds is applied.

    It waits for COLLECTION of the data directory PATH, or for all of a database. The directory may be in use; where nobody
    compacts it, this command does. The exit code is 0 when all has come so far.
    """
    from chroma_async.cli.directory import get_collection, with_engine
    from chroma_async.model import address_of
    from chroma_async.protocol import FlushCollection, FlushDatabase

    async def ask(engine: Dispatcher) -> FlushResult:
        if collection is None:
            whole = FlushDatabase(tenant=tenant, database=database, wait=wait, wait_seconds=wait_seconds)
            return await engine.dispatch(whole)
        found = await get_collection(engine, tenant, database, collection)
        return await engine.dispatch(FlushCollection(**address_of(found), wait=wait, wait_seconds=wait_seconds))

    result = with_engine(path, ask, compact=True)
    click.echo(f"{path}: {result.reached} lsn={result.lsn}")
    if result.waiting:
        click.echo(f"not yet {wait}: {', '.join(result.waiting)}")
        sys.exit(EXIT_FAILED)
