"""A copy of a data directory as of one LSN, made while any number of processes write to it.

Theory of operation. Copies that are taken one after another disagree because of truncation: a collection is copied at LSN
10, the log at LSN 20, and in between entry 15 was applied and freed, so that neither copy has it. Therefore the log is
pinned first, which stops truncation and nothing else. Then each collection is copied as of its own applied LSN, and last
the log, as of the LSN that the backup has. What a collection's copy lacks is in the log's copy, and no collection's copy
is ahead of it. docs/decisions says what else was considered.

One collection is pinned by a read transaction of its tables. The files that its manifest names are opened inside of it;
the compactor may unlink them from then on. They are immutable, or only grow behind what the manifest says.

A backup is a data directory with a list of its files. A file that the newest earlier backup beside it has, byte for
byte, becomes a hard link to that one. Nothing is linked to the data directory itself, so no file has two owners.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from msgspec import Struct, field

from chroma_async.checksums import crc32
from chroma_async.core.catalog import Catalog
from chroma_async.engine.backup_list import (
    PARTIAL_SUFFIX,
    Backup,
    BackupCollection,
    BackupFile,
    Report,
    digest_of,
    finished_backups,
    read_backup,
    read_through,
    sync_directory,
    sync_file,
    sync_tree,
    write_backup,
)
from chroma_async.engine.compactor import COLLECTIONS
from chroma_async.engine.directory import VERSION_FILE
from chroma_async.engine.verify import size_of
from chroma_async.errors import BackupError, StorageCorrupt
from chroma_async.model import CollectionId
from chroma_async.projections.manifest import Manifest, encode_manifest
from chroma_async.projections.records import RecordTables
from chroma_async.projections.store import RECORDS_FILE
from chroma_async.projections.view import COLUMNS, SEGMENTS, SLOTS_FILE, VECTORS_FILE, map_vectors, vector_guard
from chroma_async.seams import Clock, Workers
from chroma_async.wal import LOG_FILE, LogCopy, LogStore, copy_log

LOCK_FILE: Final = "backup.lock"
PIN_ATTEMPTS: Final = 20
"""Times that a newer manifest is taken because files of the one that was read are gone by now."""

logger = logging.getLogger("chroma_async.backup")


class BackupResult(Struct, frozen=True):
    """A finished backup: its folder, and how much was copied. The rest is linked to the backup before it."""

    path: Path
    backup: Backup
    copied_files: int
    copied_bytes: int


async def back_up(
    directory: Path, log: LogStore, destination: Path, workers: Workers, clock: Clock, report: Report | None = None
) -> BackupResult:
    """Back up an open data directory into a new folder of `destination`, which may hold earlier ones.

    `report` is called in a worker thread.

    Raises:
        BackupError: the destination can't be used, or another backup is being made there.
        StorageCorrupt, LogError: the only copy of something is damaged; there is no backup, the earlier ones remain.
        OSError: something can't be read or written.
    """
    meter = Meter(report)
    now = datetime.fromtimestamp(clock.now_ns() / 1e9, UTC)
    try:
        async with log.pinned():
            catalog = Catalog.from_rows((await log.catalog()).rows)
            return await workers.run(lambda: _back_up(directory, destination, catalog, now, meter))
    finally:
        meter.stop()


class Meter:
    """Tells how far the work is, and ends it when nobody waits for it any more."""

    def __init__(self, report: Report | None = None) -> None:
        self._report = report
        self._stopped = threading.Event()
        self._what, self._done, self._total = "", 0, 0

    def begin(self, what: str, total: int) -> None:
        self._what, self._done, self._total = what, 0, total
        self.add(0)

    def add(self, size_bytes: int) -> None:
        if self._stopped.is_set():
            raise BackupError("it was given up before its end")
        self._done += size_bytes
        self._total = max(self._total, self._done)
        if self._report is not None:
            self._report(self._what, self._done, self._total)

    def stop(self) -> None:
        self._stopped.set()


def _back_up(directory: Path, destination: Path, catalog: Catalog, now: datetime, meter: Meter) -> BackupResult:
    _check_destination(directory, destination)
    destination.mkdir(parents=True, exist_ok=True)
    with _alone_in(destination):
        for leftover in destination.glob(f"*{PARTIAL_SUFFIX}"):
            logger.warning("backup.interrupted path=%s removed=yes", leftover)
            shutil.rmtree(leftover)
        target = _free_name(destination, now)
        partial = target.with_name(target.name + PARTIAL_SUFFIX)
        partial.mkdir()
        copier = _Copier(directory, partial, _newest(destination), meter)
        backup = copier.run(catalog, now)
        partial.rename(target)
        sync_directory(destination)
    return BackupResult(target, backup, len(copier.copied), sum(copier.files[name].size_bytes for name in copier.copied))


def _check_destination(directory: Path, destination: Path) -> None:
    if destination.exists() and not destination.is_dir():
        raise BackupError(f"the destination is a file; name a directory. path={destination}")
    if (destination / VERSION_FILE).exists():
        raise BackupError(f"the destination is a data directory, or one backup; name another one. path={destination}")
    if destination.resolve().is_relative_to(directory.resolve()):
        raise BackupError(f"the destination is inside of the data directory; name another one. path={destination}")


@contextmanager
def _alone_in(destination: Path) -> Generator[None]:
    with (destination / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BackupError(f"another backup is being made there; wait for it. path={destination}") from error
        yield


def _free_name(destination: Path, now: datetime) -> Path:
    """A new name in the order of time: names are sorted as text."""
    stem = name = f"{now:%Y-%m-%dT%H-%M-%SZ}"
    number = 1
    while (destination / name).exists():
        number += 1
        name = f"{stem}-{number:03d}"
    return destination / name


def _newest(destination: Path) -> tuple[Path, Backup] | None:
    for path in reversed(finished_backups(destination)):
        try:
            return path, read_backup(path)
        except BackupError as error:
            logger.warning("backup.unreadable path=%s reason=%s", path, error)
    return None


class _Wanted(Struct, frozen=True):
    """A file that a manifest reaches; `size_bytes` None: all of it, which has this CRC-32."""

    name: str
    size_bytes: int | None = None
    crc: int | None = None
    is_graph: bool = False


def _reached(manifest: Manifest) -> list[_Wanted]:
    wanted = [_Wanted(f"{COLUMNS}/{piece.file}", crc=piece.crc) for piece in manifest.pieces]
    for segment in manifest.segments:
        folder = f"{SEGMENTS}/{segment.number}"
        wanted.append(_Wanted(f"{folder}/{VECTORS_FILE}", segment.rows * (manifest.dimension or 0) * 4))
        wanted.append(_Wanted(f"{folder}/{SLOTS_FILE}", segment.rows * 8, segment.slots_crc))
        if segment.graph is not None:
            wanted.append(_Wanted(f"{folder}/{segment.graph.file}", crc=segment.graph.crc, is_graph=True))
    return wanted


class _Copier(Struct):
    """Copies a directory into a new folder, and links what an earlier backup has."""

    directory: Path
    target: Path
    earlier: tuple[Path, Backup] | None
    meter: Meter
    files: dict[str, BackupFile] = field(default_factory=dict[str, BackupFile])
    copied: list[str] = field(default_factory=list[str])
    _known: dict[str, BackupFile] = field(default_factory=dict[str, BackupFile])

    def run(self, catalog: Catalog, now: datetime) -> Backup:
        if self.earlier is not None:
            self._known = {file.path: file for file in self.earlier[1].files}
        self.meter.begin("copying", size_of(self.directory))
        with (self.directory / VERSION_FILE).open("rb") as version:
            self._take(_Wanted(VERSION_FILE), VERSION_FILE, version)
        taken = {item: self._take_collection(item) for item in sorted(catalog.collection_ids())}
        log = copy_log(self.directory, self.target, self.meter.add)
        self._note_copied(LOG_FILE)
        collections = self._settle(log, {item: manifest for item, manifest in taken.items() if manifest is not None})
        self._verify()
        sync_tree(self.target)
        files = tuple(self.files[name] for name in sorted(self.files))
        backup = Backup(log.lsn, log.identity, now.isoformat(timespec="seconds"), collections, files)
        write_backup(self.target, backup)
        return backup

    def _settle(self, log: LogCopy, taken: Mapping[CollectionId, Manifest]) -> tuple[BackupCollection, ...]:
        """Forget collections that were deleted meanwhile, and check that the rest is what the log continues."""
        catalog = Catalog.from_rows(log.rows)
        collections: list[BackupCollection] = []
        for item, manifest in taken.items():
            collection = catalog.collection(item)
            if collection is None:
                self._forget(item)
                continue
            fingerprint = _fingerprint(manifest)
            collections.append(BackupCollection(item, collection.name, manifest.applied, manifest.live, fingerprint))
        for item in catalog.collection_ids():
            noted_applied, applied = log.noted_applied.get(item, 0), taken[item].applied if item in taken else 0
            if not noted_applied <= applied <= log.lsn:
                raise StorageCorrupt(
                    "a collection's files do not go with the log; chroma-async verify says what is lost of them, and verify "
                    f"--repair makes up for a log that ends too early. collection={item} "
                    f"noted_applied={noted_applied} applied={applied} committed={log.lsn}"
                )
        return tuple(collections)

    def _forget(self, collection_id: CollectionId) -> None:
        shutil.rmtree(self.target / COLLECTIONS / collection_id)
        prefix = f"{COLLECTIONS}/{collection_id}/"
        self.files = {name: file for name, file in self.files.items() if not name.startswith(prefix)}
        self.copied = [name for name in self.copied if name in self.files]

    def _verify(self) -> None:
        """Read what was copied back from the disk. What was linked was read already, and tables were checked by SQLite."""
        self.meter.begin("verifying", sum(self.files[name].size_bytes for name in self.copied))
        for name in self.copied:
            if digest_of(self.target / name, self.meter.add) != self.files[name].sha256:
                raise BackupError(f"a file reads otherwise than it was written; check the disk. path={self.target / name}")

    # ---- collections

    def _take_collection(self, collection_id: CollectionId) -> Manifest | None:
        """Copy a collection as of its applied LSN; None where nothing was applied yet, or where it was just deleted."""
        source = self.directory / COLLECTIONS / collection_id
        missed, lost = 0, set[str]()
        for _ in range(PIN_ATTEMPTS):
            if not (source / RECORDS_FILE).exists():
                return None
            with ExitStack() as stack:
                tables = stack.enter_context(closing(RecordTables(source / RECORDS_FILE, writable=False)))
                stack.enter_context(tables.transaction())
                manifest = _manifest(tables)
                if manifest is None:
                    return None
                wanted = [item for item in _reached(manifest) if item.name not in lost]
                opened, missing = _open_all(stack, source, wanted)
                if missing is None:
                    self._copy_collection(f"{COLLECTIONS}/{collection_id}", tables, manifest, wanted, opened)
                    return manifest
            if manifest.version == missed:  # it is still the newest one, so the file is not gone but lost
                if not missing.is_graph:
                    raise StorageCorrupt(f"a file is missing that the manifest names. path={source / missing.name}")
                logger.warning("backup.graph_left_out path=%s reason=missing", source / missing.name)
                lost.add(missing.name)
            missed = manifest.version
        raise StorageCorrupt(f"the collection changes faster than it can be copied; try again. collection={collection_id}")

    def _copy_collection(
        self, folder: str, tables: RecordTables, manifest: Manifest, wanted: Sequence[_Wanted], opened: Sequence[BinaryIO]
    ) -> None:
        (self.target / folder / COLUMNS).mkdir(parents=True)
        (self.target / folder / SEGMENTS).mkdir()
        for item, file in zip(wanted, opened, strict=True):
            self._take(item, f"{folder}/{item.name}", file)
        self._check_vectors(self.target / folder, tables, manifest)
        name = f"{folder}/{RECORDS_FILE}"
        if not (self._is_known_state(folder, manifest) and self._link(name)):
            tables.copy_to(self.target / name, self.meter.add)
            self._note_copied(name)

    def _check_vectors(self, folder: Path, tables: RecordTables, manifest: Manifest) -> None:
        """Compare the vectors of a copy with their checksums, block by block."""
        for segment in manifest.segments:
            vectors = map_vectors(folder, segment, manifest.dimension or 0)
            guard = vector_guard(folder, segment, vectors, tables.block_sums(segment.number))
            if guard is not None:
                guard.check_from(0)

    def _is_known_state(self, folder: str, manifest: Manifest) -> bool:
        """Whether the earlier backup has the collection in just this state."""
        fingerprint = _fingerprint(manifest)
        collections = () if self.earlier is None else self.earlier[1].collections
        return any(f"{COLLECTIONS}/{item.id}" == folder and item.manifest == fingerprint for item in collections)

    # ---- files

    def _take(self, wanted: _Wanted, name: str, source: BinaryIO) -> None:
        """Link or copy a file. A damaged graph is left out: it is built again."""
        size = os.fstat(source.fileno()).st_size if wanted.size_bytes is None else wanted.size_bytes
        try:
            self._take_checked(name, source, size, wanted.crc)
        except (_Damaged, EOFError) as error:
            path = self.directory / name
            if not wanted.is_graph:
                raise StorageCorrupt(f"a file is damaged, and the only copy of what it holds. path={path}") from error
            logger.warning("backup.graph_left_out path=%s reason=damaged", path)
            (self.target / name).unlink(missing_ok=True)

    def _take_checked(self, name: str, source: BinaryIO, size: int, crc: int | None) -> None:
        known = self._known.get(name)
        if known is not None and known.size_bytes == size:
            digest = self._read(source, size, crc)
            if digest == known.sha256 and self._link(name):
                return
            source.seek(0)
        path = self.target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            digest = self._read(source, size, crc, file)
        sync_file(path)
        self.files[name] = BackupFile(name, size, digest)
        self.copied.append(name)

    def _read(self, source: BinaryIO, size: int, crc: int | None, target: BinaryIO | None = None) -> str:
        running = _Crc()
        sinks = [running.update] if target is None else [running.update, target.write]
        digest = read_through(source, size, self.meter.add, *sinks)
        if crc is not None and running.value != crc:
            raise _Damaged
        return digest

    def _link(self, name: str) -> bool:
        """Link a file of the earlier backup, if it is still what it was; say whether that went well."""
        assert self.earlier is not None
        path, known = self.earlier[0] / name, self._known.get(name)
        try:
            if known is None or digest_of(path, self.meter.add) != known.sha256:
                logger.warning("backup.damaged path=%s copied_anew=yes", path)
                return False
            (self.target / name).parent.mkdir(parents=True, exist_ok=True)
            (self.target / name).hardlink_to(path)
        except OSError as error:
            logger.info("backup.not_linked path=%s reason=%s", path, error)
            return False
        self.files[name] = known
        return True

    def _note_copied(self, name: str) -> None:
        path = self.target / name
        sync_file(path)
        self.files[name] = BackupFile(name, path.stat().st_size, digest_of(path, self.meter.add))
        self.copied.append(name)


class _Damaged(Exception):
    """What was read does not match the manifest's checksum."""


class _Crc(Struct):
    value: int = 0

    def update(self, data: bytes) -> None:
        self.value = crc32(data, self.value)


def _fingerprint(manifest: Manifest) -> str:
    return hashlib.sha256(encode_manifest(manifest)).hexdigest()


def _manifest(tables: RecordTables) -> Manifest | None:
    """The manifest that a transaction sees; None before the first, also while the tables are just being made."""
    try:
        manifest = tables.manifest()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise
    return manifest if manifest.version else None


def _open_all(stack: ExitStack, folder: Path, wanted: Sequence[_Wanted]) -> tuple[list[BinaryIO], _Wanted | None]:
    """Open files, so that they can be read whoever unlinks them; or say which of them is not there."""
    opened: list[BinaryIO] = []
    for item in wanted:
        try:
            opened.append(stack.enter_context((folder / item.name).open("rb")))
        except FileNotFoundError:
            return opened, item
    return opened, None
