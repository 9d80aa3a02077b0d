"""`verify` and `rebuild`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from chroma_async.cli.console import EXIT_FAILED, fail, format_bytes, one_line_errors, print_table, progress_bar


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--repair", is_flag=True, help="Make anew what follows from other files; no process may work on PATH.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, every file of it.")
def verify(path: Path, repair: bool, as_json: bool) -> None:
    """Read every file of the data directory PATH, which may be in use, and compare it with its checksums.

    The exit code is 0 when nothing is damaged (any more), else 1.
    """
    import msgspec
    from rich.table import Table

    from chroma_async.engine.verify import HELP
    from chroma_async.engine.verify import verify as verify_directory

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
        for state in dict.fromkeys(finding.state for finding in told):
            click.echo(f"{state}: {HELP[state]}")
    size = format_bytes(sum(finding.size_bytes for finding in verdict.findings))
    counts = " ".join(f"{state}={verdict.count(state)}" for state in HELP if verdict.count(state))
    click.echo(f"{path}: {'whole' if verdict.is_whole else 'damaged'} files={len(verdict.findings)} size={size} {counts}")
    sys.exit(0 if verdict.is_whole else EXIT_FAILED)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("collections", nargs=-1)
def rebuild(path: Path, collections: tuple[str, ...]) -> None:
    """Make all indexes and derived files of COLLECTIONS (names or ids; none: all) anew, from their records and vectors.

    No process may work on the data directory PATH meanwhile.
    """
    from chroma_async.engine.verify import rebuild as rebuild_collections

    with one_line_errors(), progress_bar() as report:
        done = rebuild_collections(path, collections, report=report)
    for item in done:
        if item.failure is None:
            click.echo(f"{item.collection.name}: rebuilt graphs={item.graphs}")
    failed = [item for item in done if item.failure is not None]
    if failed:
        reasons = "; ".join(f"{item.collection.name}: {item.failure}" for item in failed)
        fail(f"not rebuilt, restore from a backup: {reasons}", EXIT_FAILED)
