"""`verify`, `rebuild`, `reindex` and `purge`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import click

from chroma_async.cli.console import (
    EXIT_FAILED,
    Number,
    fail,
    format_bytes,
    in_loop,
    one_line_errors,
    print_table,
    progress_bar,
)
from chroma_async.cli.options import place_options
from chroma_async.model import Precision, Space


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--repair", is_flag=True, help="Make anew what follows from other files; no process may work on PATH.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, every file of it.")
def verify(path: Path, repair: bool, as_json: bool) -> None:
    """Compare every file of a data directory with its checksums.

    PATH may be in use. The exit code is 0 when nothing is damaged (any more), else 1.
    """
    import msgspec
    from rich.table import Table

    from chroma_async.cli.directory import require_directory
    from chroma_async.engine.verify import HELP
    from chroma_async.engine.verify import verify as verify_directory

    require_directory(path)
    with one_line_errors(), progress_bar() as report:
        verdict = verify_directory(path, repair=repair, report=report)
    if as_json:
        click.echo(msgspec.json.encode(verdict).decode())
        sys.exit(0 if verdict.is_whole else EXIT_FAILED)
    told = [finding for finding in verdict.findings if finding.state != "whole"]
    if told:
        table = Table("state", "collection", "file", "reason")
        for finding in told:
            table.add_row(finding.state, finding.collection or "-", finding.path, finding.reason)
        print_table(table)
        for state in HELP:
            if not verdict.count(state) or state == "whole":
                continue
            click.echo(f"{state}: {HELP[state]}")
    size = format_bytes(sum(finding.size_bytes for finding in verdict.findings))
    counts = " ".join(f"{state}={verdict.count(state)}" for state in HELP if verdict.count(state))
    click.echo(f"{path}: {'whole' if verdict.is_whole else 'damaged'} files={len(verdict.findings)} size={size} {counts}")
    sys.exit(0 if verdict.is_whole else EXIT_FAILED)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("collections", nargs=-1)
def rebuild(path: Path, collections: tuple[str, ...]) -> None:
    """Make indexes and derived files anew.

    They follow from the records and vectors of COLLECTIONS (names or ids; none: all). No process may work on the data
    directory PATH meanwhile.
    """
    from chroma_async.cli.directory import require_directory
    from chroma_async.engine.verify import rebuild as rebuild_collections

    require_directory(path)
    with one_line_errors(), progress_bar() as report:
        done = rebuild_collections(path, collections, report=report)
    for item in done:
        if item.failure is None:
            click.echo(f"{item.collection.name}: rebuilt graphs={item.graphs}")
    failed = [item for item in done if item.failure is not None]
    if failed:
        reasons = "; ".join(f"{item.collection.name}: {item.failure}" for item in failed)
        fail(f"not rebuilt, restore from a backup: {reasons}", EXIT_FAILED)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("collections", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as JSON.")
def purge(path: Path, collections: tuple[str, ...], as_json: bool) -> None:
    """Remove deleted and replaced records from the disk.

    Of COLLECTIONS (names or ids; none: all) every trace of them. Files that hold any are written anew, the log's too.
    Backups are files of their own. The data directory PATH may be in use: then the process that compacts it does this.
    """
    import msgspec

    from chroma_async.cli.directory import require_directory
    from chroma_async.engine.purge import Receipt
    from chroma_async.engine.purge import purge as purge_directory

    require_directory(path)

    async def work() -> Receipt:
        with progress_bar() as report:
            return await purge_directory(path, collections, report=report)

    receipt = in_loop(work)
    if as_json:
        click.echo(msgspec.json.encode(receipt).decode())
        return
    for item in receipt.collections:
        click.echo(f"{item.name}: records={item.records} dropped_vectors={item.dropped_vectors} lsn={item.applied}")
    sizes = f"{format_bytes(receipt.bytes_before)} before, {format_bytes(receipt.bytes_after)} after"
    click.echo(f"{path}: purged lsn={receipt.lsn} files={receipt.files}: {sizes}")


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("collection")
@click.option("--space", type=click.Choice(get_args(Space)), help="Distance from now on.", show_default=False)
@click.option("--max-neighbors", type=click.IntRange(1), help="Neighbours of a vector in the graph (M).", show_default=False)
@click.option("--ef-construction", type=click.IntRange(1), help="How widely they are looked for.", show_default=False)
@click.option("--precision", type=click.Choice(get_args(Precision)), help="Of the graph's vectors.", show_default=False)
@click.option("--wait-seconds", type=Number(0, 3600), default=3600.0, help="How long to wait for it at most.")
@place_options
def reindex(
    path: Path,
    collection: str,
    space: Space | None,
    max_neighbors: int | None,
    ef_construction: int | None,
    precision: Precision | None,
    wait_seconds: float,
    tenant: str,
    database: str,
) -> None:
    """Build an index anew with other parameters, and wait for it.

    It is that of COLLECTION in the data directory PATH. The directory may be in use: queries go on by the old index until
    the new one takes its place at once.
    """
    from chroma_async.cli.directory import Dispatcher, get_collection, with_engine
    from chroma_async.model import address_of
    from chroma_async.protocol import FlushCollection, ReindexCollection

    async def is_built(engine: Dispatcher) -> bool:
        place = address_of(await get_collection(engine, tenant, database, collection))
        call = ReindexCollection(
            **place, space=space, max_neighbors=max_neighbors, ef_construction=ef_construction, precision=precision
        )
        await engine.dispatch(call)
        flush = FlushCollection(**place, wait="indexed", wait_seconds=wait_seconds)
        return not (await engine.dispatch(flush)).waiting

    if not with_engine(path, is_built, compact=True):
        fail(
            "not built yet. It is decided: whoever compacts the directory goes on with it; verify tells whether damage is "
            f"in the way. collection={collection!r} wait_seconds={wait_seconds:g}",
            EXIT_FAILED,
        )
    click.echo(f"{collection}: reindexed")
