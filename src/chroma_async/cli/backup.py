"""`backup` and `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chroma_async.cli.console import format_bytes, one_line_errors, progress_bar

if TYPE_CHECKING:
    from chroma_async.cli.directory import Dispatcher
    from chroma_async.engine.backup import BackupResult


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
def backup(path: Path, destination: Path) -> None:
    """Back up a data directory into a new folder of DESTINATION.

    PATH is the directory, which may be in use. Files that the newest backup in DESTINATION has already are linked to it.
    """
    from chroma_async.cli.directory import with_engine

    async def work(engine: Dispatcher) -> BackupResult:
        with progress_bar() as report:
            return await engine.backup(destination, report)

    made = with_engine(path, work)
    found = made.backup
    click.echo(
        f"{made.path}: lsn={found.lsn} collections={len(found.collections)} files={len(found.files)} "
        f"size={format_bytes(found.size_bytes)} copied={format_bytes(made.copied_bytes)}"
    )


@click.command()
@click.argument("source", metavar="BACKUP", type=click.Path(path_type=Path))
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Only compare the files of the backup with their checksums.")
def restore(source: Path, path: Path | None, check: bool) -> None:
    """Make a data directory from a backup.

    PATH must be new or empty. BACKUP is the folder of one, or a place with several: the newest is taken.
    """
    from chroma_async.engine.backup_list import read_backup
    from chroma_async.engine.restore import check_backup, find_backup
    from chroma_async.engine.restore import restore as restore_backup

    if check == (path is not None):
        raise click.UsageError("name the directory to restore to, or give --check.")
    with one_line_errors(), progress_bar() as report:
        if path is None:
            folder = find_backup(source)
            found = read_backup(folder)
            check_backup(folder, found, report)
        else:
            done = restore_backup(source, path, report)
            folder, found = done.source, done.backup
    click.echo(f"{folder}: {'whole' if check else 'restored'} lsn={found.lsn} files={len(found.files)}")
