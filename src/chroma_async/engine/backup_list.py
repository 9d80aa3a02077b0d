"""What a backup says of itself: `backup.json`, written last. A folder without it is no whole backup."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

import msgspec

from chroma_async.engine.directory import BACKUP_FILE, VERSION_FILE
from chroma_async.errors import BackupError
from chroma_async.model import CollectionId, Lsn

FORMAT: Final = 1
PARTIAL_SUFFIX: Final = ".partial"
_CHUNK_BYTES: Final = 1 << 20

Report = Callable[[str, int, int], None]
"""Told what is being done, how many bytes of it are done, and how many there are, which is an estimate."""


class BackupFile(msgspec.Struct, frozen=True):
    """A file, by its path within the backup."""

    path: str
    size_bytes: int
    sha256: str


class BackupCollection(msgspec.Struct, frozen=True):
    """A collection that has files. `manifest` is the SHA-256 of its manifest: the same one, the same state."""

    id: CollectionId
    name: str
    applied: Lsn
    records: int
    manifest: str


class Backup(msgspec.Struct, frozen=True):
    """A data directory as of `lsn` of the log that has this identity. `created` is a time as ISO 8601, in UTC."""

    lsn: Lsn
    identity: str
    created: str
    collections: tuple[BackupCollection, ...]
    files: tuple[BackupFile, ...]
    format: int = FORMAT
    product: str = "chroma_async"

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


class _Sealed(msgspec.Struct, frozen=True):
    sha256: str
    backup: msgspec.Raw


def write_backup(folder: Path, backup: Backup) -> None:
    """Write the list of a backup whose files are on disk, and make it durable."""
    raw = msgspec.json.encode(backup)
    path = folder / BACKUP_FILE
    path.write_bytes(msgspec.json.encode(_Sealed(hashlib.sha256(raw).hexdigest(), msgspec.Raw(raw))))
    sync_file(path)
    sync_directory(folder)


def read_backup(folder: Path) -> Backup:
    """Return what a backup says of itself.

    Raises:
        BackupError: it is none, was never finished, is damaged, or is of a newer release.
    """
    path = folder / BACKUP_FILE
    try:
        sealed = msgspec.json.decode(path.read_bytes(), type=_Sealed)
        if hashlib.sha256(sealed.backup).hexdigest() != sealed.sha256:
            raise BackupError(f"the list of files does not match its checksum; use another backup. path={path}")
        backup = msgspec.json.decode(sealed.backup, type=Backup)
    except FileNotFoundError as error:
        raise BackupError(_why_none(folder)) from error
    except msgspec.DecodeError as error:
        raise BackupError(f"the list of files is damaged; use another backup. path={path} reason={error}") from error
    if backup.format > FORMAT:
        raise BackupError(
            f"a newer release made this backup; upgrade chroma_async to restore it. format={backup.format} known={FORMAT}"
        )
    for file in backup.files:
        if PurePosixPath(file.path).is_absolute() or ".." in PurePosixPath(file.path).parts:
            raise BackupError(f"the list of files names one outside of the backup. path={path} file={file.path!r}")
    return backup


def _why_none(folder: Path) -> str:
    if folder.name.endswith(PARTIAL_SUFFIX):
        return f"this backup was interrupted, and is not whole; use another one. path={folder}"
    if (folder / VERSION_FILE).exists():
        return f"this is a data directory, not a backup. path={folder}"
    if folder.is_dir() and any(folder.glob(f"*{PARTIAL_SUFFIX}")):
        return f"there is only a backup that was interrupted, and is not whole. path={folder}"
    return f"there is no backup. path={folder}"


def finished_backups(destination: Path) -> list[Path]:
    """Folders of the finished backups in a destination, oldest first."""
    found = (path.parent for path in destination.glob(f"*/{BACKUP_FILE}"))
    return sorted(path for path in found if not path.name.endswith(PARTIAL_SUFFIX))


def damaged_files(folder: Path, backup: Backup, progress: Callable[[int], None]) -> list[str]:
    """Paths of the files that are missing, or are not what was written, each with what is wrong with it."""
    damaged: list[str] = []
    for file in backup.files:
        try:
            size = (folder / file.path).stat().st_size
            if size != file.size_bytes:
                damaged.append(f"{file.path} (has {size} bytes, had {file.size_bytes})")
            elif digest_of(folder / file.path, progress) != file.sha256:
                damaged.append(f"{file.path} (does not match its checksum)")
        except OSError as error:
            damaged.append(f"{file.path} ({error.strerror})")
    return damaged


# ---- files, by chunks


def digest_of(path: Path, progress: Callable[[int], None]) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return read_through(file, os.fstat(file.fileno()).st_size, progress)


def read_through(source: BinaryIO, size: int, progress: Callable[[int], None], *sinks: Callable[[bytes], object]) -> str:
    """Hand the next `size` bytes to the sinks, chunk by chunk; return their SHA-256.

    Raises:
        EOFError: the file ends before.
    """
    digest = hashlib.sha256()
    while size:
        chunk = source.read(min(size, _CHUNK_BYTES))
        if not chunk:
            raise EOFError
        digest.update(chunk)
        for sink in sinks:
            sink(chunk)
        size -= len(chunk)
        progress(len(chunk))
    return digest.hexdigest()


def sync_file(path: Path) -> None:
    """Make a file durable, and forget what the system has cached of it, so that the next read is of the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make the names below a folder, and its own, durable."""
    for path, _, _ in os.walk(folder, topdown=False):
        sync_directory(Path(path))
    sync_directory(folder.parent)
