"""The data directory: recognised before it is opened, never mistaken for something else."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

import msgspec

from chroma_async.errors import FormatError
from chroma_async.seams import Files
from chroma_async.seams.limits import is_read_only
from chroma_async.seams.mounts import MOUNTS, network_type

FORMAT: Final = 1
VERSION_FILE: Final = "VERSION"
CHROMA_FILE: Final = "chroma.sqlite3"
BACKUP_FILE: Final = "backup.json"
RESTORING_FILE: Final = "restoring"
"""There while a restore into the directory is not finished."""

HARMLESS: Final = frozenset({"lost+found", ".gitkeep", ".gitignore"})


class VersionRecord(msgspec.Struct, frozen=True):
    """What VERSION holds, as JSON."""

    format: int
    product: str = "chroma_async"


# Made before there are threads: msgspec's first look into a type must not be taken by two at once.
_VERSION_DECODER: Final = msgspec.json.Decoder(VersionRecord)


def prepare_directory(path: Path, files: Files, *, allow_network: bool = False, mounts: Path = MOUNTS) -> None:
    """Check that the directory is ours, or make it so when it is empty or absent.

    Raises:
        FormatError: it belongs to somebody else, or to a newer release, or is on a network file system.
        OSError: it can't be made, or can't be written to.
    """
    if path.exists() and not path.is_dir():
        raise FormatError(f"the data path is a file; name a directory. path={path}")
    if not path.exists():
        _make(path)
        files.sync_directory(path.parent)
    if not allow_network:
        _refuse_network(path, mounts)
    _refuse_backup(path)
    marker = path / VERSION_FILE
    if marker.exists():
        _check(path, marker.read_bytes())
        _refuse_without_log(path)
        check_writable(path)
        return
    _refuse_foreign(path)
    check_writable(path)
    aside = path / f"{VERSION_FILE}.{os.getpid()}.{threading.get_ident()}"
    files.write(aside, [msgspec.json.encode(VersionRecord(FORMAT))])
    files.sync(aside)
    files.replace(aside, marker)
    files.sync_directory(path)


def check_version(path: Path) -> None:
    """Check that this is a data directory that this release can read; it is not changed.

    Raises:
        FormatError: it is none, or its VERSION is damaged, or of a newer release.
    """
    _refuse_backup(path)
    marker = path / VERSION_FILE
    if not marker.is_file():
        raise FormatError(f"this is not a data directory: it has no {VERSION_FILE}. path={path}")
    _check(path, marker.read_bytes())


def _check(path: Path, raw: bytes) -> None:
    try:
        record = _VERSION_DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"the directory's {VERSION_FILE} can't be read. path={path} reason={error}") from error
    if record.product != "chroma_async":
        raise FormatError(f"the directory belongs to another product. path={path} product={record.product!r}")
    if record.format > FORMAT:
        raise FormatError(
            "the directory was written by a newer release; upgrade chroma_async to open it. "
            f"path={path} format={record.format} known={FORMAT}"
        )


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"the data directory can't be made: {error.strerror}", str(path)) from error


def _refuse_network(path: Path, mounts: Path) -> None:
    kind = network_type(path, mounts)
    if kind is not None:
        raise FormatError(
            "the directory is on a network file system, where locks and shared memory do not reach every process; use a "
            "local disk, or allow_network_file_system=True (--allow-network-file-system) if one machine alone uses it. "
            f"path={path} type={kind}"
        )


def _refuse_backup(path: Path) -> None:
    if (path / BACKUP_FILE).exists():
        raise FormatError(f"this is a backup; restore it to a directory of its own: chroma-async restore. path={path}")
    if (path / RESTORING_FILE).exists():
        raise FormatError(f"a restore to this directory is not finished; run it, again if it was interrupted. path={path}")


def _refuse_without_log(path: Path) -> None:
    """A new log would know nothing of the collections that are there, and they would be swept."""
    collections = path / "collections"
    if not (path / "log.sqlite3").exists() and collections.is_dir() and any(collections.iterdir()):
        raise FormatError(f"the log is missing, and collections are there; restore it from a backup. path={path}")


def _refuse_foreign(path: Path) -> None:
    names = sorted(entry.name for entry in path.iterdir() if entry.name not in HARMLESS)
    ours = [name for name in names if name.startswith((VERSION_FILE, "log.", "compactor.lock", "collections"))]
    if CHROMA_FILE in names:
        raise FormatError(
            "this is a data directory of Chroma itself; name another one. `chroma-async import-chroma` takes over its "
            f"collections. path={path}"
        )
    if names and len(ours) < len(names):
        raise FormatError(
            f"the directory is not empty and not a chroma_async data directory; name another one. "
            f"path={path} found={names[0]!r}"
        )


def check_writable(path: Path) -> None:
    """Check that files of a directory can be opened, for which SQLite makes others beside them.

    Raises:
        PermissionError: it is on a read-only file system, or this process may not write to it.
    """
    if is_read_only(path):
        raise PermissionError(
            "the data directory is on a read-only file system; mount it writable, or restore a backup elsewhere to read it. "
            f"path={path}"
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"the data directory can't be written to. path={path}")
