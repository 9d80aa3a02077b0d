"""A data directory made from a backup: checked before anything is written, and another log than the one backed up."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from msgspec import Struct

from chroma_async.engine.backup import Meter
from chroma_async.engine.backup_list import (
    Backup,
    Report,
    damaged_files,
    finished_backups,
    read_backup,
    read_through,
    sync_directory,
    sync_file,
    sync_tree,
)
from chroma_async.engine.compactor import COLLECTIONS
from chroma_async.engine.directory import BACKUP_FILE, HARMLESS, RESTORING_FILE, VERSION_FILE
from chroma_async.errors import BackupError
from chroma_async.wal import LOG_FILE, renew_identity


class RestoreResult(Struct, frozen=True):
    """What was restored from which folder, and the identity that the new log has."""

    source: Path
    backup: Backup
    identity: str


def restore(source: Path, directory: Path, report: Report | None = None) -> RestoreResult:
    """Make a data directory from a backup, or from the newest one in a destination of backups. It blocks.

    Raises:
        BackupError: there is no whole backup; files of it are damaged, which the message names; or the directory holds
            something already. Nothing was written.
        OSError: something can't be read or written; run it again when that was mended.
    """
    folder = find_backup(source)
    backup = read_backup(folder)
    _check_vacant(directory)
    check_backup(folder, backup, report)
    meter = Meter(report)
    _begin(directory)
    meter.begin("restoring", backup.size_bytes)
    for file in backup.files:
        path = directory / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with (folder / file.path).open("rb") as original, path.open("wb") as copy:
            digest = read_through(original, file.size_bytes, meter.add, copy.write)
        if digest != file.sha256:
            raise BackupError(f"a file of the backup changed while it was restored; run it again. path={folder / file.path}")
        sync_file(path)
    for item in backup.collections:
        for name in ("columns", "segments"):
            (directory / COLLECTIONS / item.id / name).mkdir(exist_ok=True)
    identity = renew_identity(directory)
    sync_file(directory / LOG_FILE)
    sync_tree(directory)
    (directory / RESTORING_FILE).unlink()
    sync_directory(directory)
    return RestoreResult(folder, backup, identity)


def find_backup(path: Path) -> Path:
    """The folder of the backup that a path means: itself, or the newest one in it."""
    if not (path / BACKUP_FILE).exists():
        finished = finished_backups(path)
        if finished:
            return finished[-1]
    return path


def check_backup(folder: Path, backup: Backup, report: Report | None = None) -> None:
    """Compare every file of a backup with its checksum.

    Raises:
        BackupError: it names those that are damaged.
    """
    meter = Meter(report)
    meter.begin("verifying", backup.size_bytes)
    damaged = damaged_files(folder, backup, meter.add)
    if damaged:
        raise BackupError(f"the backup is damaged; use another one. path={folder} files=[{', '.join(damaged)}]")


def _check_vacant(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise BackupError(f"the path to restore to is a file; name a directory. path={directory}")
    names = {entry.name for entry in directory.iterdir()} - HARMLESS if directory.exists() else set[str]()
    if names and RESTORING_FILE not in names:
        what = "holds a data set" if VERSION_FILE in names else f"is not empty, found={min(names)!r}"
        raise BackupError(f"the directory to restore to {what}; name an empty or new one. path={directory}")


def _begin(directory: Path) -> None:
    """Mark the directory as unfinished, and remove what an interrupted restore has left in it."""
    directory.mkdir(parents=True, exist_ok=True)
    marker = directory / RESTORING_FILE
    marker.touch()
    sync_file(marker)
    sync_directory(directory)
    sync_directory(directory.parent)
    for entry in os.scandir(directory):
        if entry.name not in HARMLESS and entry.name != RESTORING_FILE:
            shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else Path(entry.path).unlink()
