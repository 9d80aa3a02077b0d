"""Reads every file of a data directory and says what is damaged; repairs what follows from other files.

Reading needs no turn: each collection is read inside one transaction of its tables, as a backup does. Repairing needs the
compactor's lock, since it publishes.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np

from chroma_async.core.catalog import Catalog
from chroma_async.engine.compactor import COLLECTIONS
from chroma_async.engine.directory import VERSION_FILE, check_version, check_writable
from chroma_async.engine.lock import FileCompactorLock
from chroma_async.engine.lost_collections import LOST_SUFFIX, KeptLog, unknown_collections
from chroma_async.errors import FormatError, LogCorrupt, LogError, StorageCorrupt
from chroma_async.index.hnsw import checksum
from chroma_async.model import Collection, CollectionId, Lsn
from chroma_async.projections.graph_builds import build_graphs
from chroma_async.projections.heal import heal, heal_tables, rebuild_files
from chroma_async.projections.manifest import Manifest, SegmentRef
from chroma_async.projections.records import RecordTables
from chroma_async.projections.store import RECORDS_FILE, CollectionStore
from chroma_async.projections.view import (
    COLUMNS,
    EMPTY_BASE,
    SEGMENTS,
    SLOTS_FILE,
    VECTORS_FILE,
    Base,
    check_slots,
    graph_path,
    load_base,
    load_piece,
    map_slots,
    map_vectors,
    vector_guard,
)
from chroma_async.seams import SystemFiles
from chroma_async.seams.limits import limit_error
from chroma_async.settings import EngineSettings
from chroma_async.wal import (
    LOG_FILE,
    LogCopy,
    check_log,
    check_lost,
    go_on_after,
    let_go_of,
    lost_tail,
    newest_of,
    owners_of,
    published_of,
)

Report = Callable[[str, int, int], None]
"""Told what is being done, how many bytes of it are done, and how many there are."""

DAMAGE: Final = (StorageCorrupt, FormatError, sqlite3.DatabaseError, UnicodeDecodeError)
"""How damage shows. SQLite quotes what it has read, so what it says may be no UTF-8 either."""

State = Literal["whole", "unsummed", "mendable", "mended", "lost"]

HELP: Final[dict[State, str]] = {
    "whole": "it matches its checksums",
    "unsummed": "release 0.1.0 wrote it, without checksums; the compactor adds them when it starts next",
    "mendable": "damaged or missing; it follows from other files, or is kept for feeds only: run verify --repair, or let "
    "the server heal it",
    "mended": "it was damaged, and was made anew from other files, let go of, or made up for",
    "lost": "damaged, and the only copy: restore it from a backup",
}

SOUND: Final[frozenset[State]] = frozenset({"whole", "unsummed", "mended"})

logger = logging.getLogger("chroma_async.verify")


class Finding(msgspec.Struct, frozen=True):
    """What is to be said of one file. `collection` is a name, for people."""

    path: str
    state: State
    reason: str = ""
    collection: str | None = None
    size_bytes: int = 0


class Verdict(msgspec.Struct, frozen=True):
    """All findings of a directory."""

    directory: str
    findings: tuple[Finding, ...]

    @property
    def is_whole(self) -> bool:
        """Nothing is damaged, or nothing is any more."""
        return all(finding.state in SOUND for finding in self.findings)

    def count(self, state: State) -> int:
        return sum(finding.state == state for finding in self.findings)


class _Progress(msgspec.Struct):
    report: Report | None
    total: int
    done: int = 0

    def add(self, size_bytes: int) -> None:
        self.done = min(self.total, self.done + size_bytes)
        if self.report is not None:
            self.report("verifying", self.done, self.total)


def verify(directory: Path, *, repair: bool = False, report: Report | None = None) -> Verdict:
    """Read every file of a data directory, which may be in use; with `repair`, which it may not, mend what can be mended.

    Raises:
        FormatError: it is no data directory, or of a newer release; or it is to be repaired, and a process compacts it.
        OSError: something can't be read, or the directory not be written to.
        ResourceLimitError, InsufficientStorageError: the machine lacks something.
    """
    with ExitStack() as stack:
        check_version(directory)
        check_writable(directory)
        if repair:
            stack.enter_context(compacting_alone(directory))
        progress = _Progress(report, size_of(directory))
        findings = [Finding(VERSION_FILE, "whole", size_bytes=(directory / VERSION_FILE).stat().st_size)]
        logged, copy = _verify_log(directory, progress, repair=repair)
        noted_applied: Mapping[CollectionId, Lsn] = {} if copy is None else copy.noted_applied
        published, applied = published_of(directory), Lsn(0)
        for known in _known_collections(directory):
            looked_at = _Collection(directory, known, progress, noted_applied.get(known.id, Lsn(0)))
            found = _verify_collection(looked_at)
            findings += _mended(looked_at.folder, found) if repair else found
            applied = max(applied, looked_at.applied)
        if copy is not None:
            findings += _lost_collections(directory, copy.first_lost)
        findings.insert(1, _with_end(directory, logged, applied, published, repair=repair))
    return Verdict(str(directory), tuple(findings))


@contextmanager
def compacting_alone(directory: Path) -> Generator[FileCompactorLock]:
    """Hold the compactor's lock, which is given.

    Raises:
        FormatError: another process holds it.
    """
    lock = FileCompactorLock(directory)
    if not lock.try_acquire():
        raise FormatError(f"a process works on this directory; stop it first. path={directory}")
    try:
        yield lock
    finally:
        lock.release()


def size_of(directory: Path) -> int:
    """Bytes of all files of a directory."""
    total = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):  # removed meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


def _verify_log(directory: Path, progress: _Progress, *, repair: bool) -> tuple[Finding, LogCopy | None]:
    """What is to be said of the log by itself, and what it holds; None: it can't be read."""
    path = directory / LOG_FILE
    try:
        size = path.stat().st_size
        found = check_log(directory)
    except (LogError, *DAMAGE, FileNotFoundError) as error:
        _check_reachable(path, error)
        return Finding(LOG_FILE, "lost", str(error)), None
    progress.add(size)
    if found.spoiled:
        reason = f"entries that are kept for feeds are damaged. lsn={found.spoiled[0]} entries={len(found.spoiled)}"
        state: State = "mendable"
        if repair:
            try:
                let_go_of(directory, found.spoiled)
                state = "mended"
            except sqlite3.DatabaseError as error:  # somebody writes
                logger.warning("repair.failed path=%s reason=%s", path, error)
        return Finding(LOG_FILE, state, reason, size_bytes=size), found
    return Finding(LOG_FILE, "whole", size_bytes=size), found


def _with_end(directory: Path, logged: Finding, applied: Lsn, published: Lsn, *, repair: bool) -> Finding:
    """What is to be said of a log, now that it is known through which LSN something was applied of it, or told of."""
    if logged.state == "lost":
        return logged
    try:
        newest = newest_of(directory)  # as of now: the directory may be in use
    except sqlite3.DatabaseError as error:  # it was read whole a moment ago
        _check_reachable(directory / LOG_FILE, error)
        raise OSError(f"the end of the log can't be read now; try again. reason={error}") from error
    if applied > newest:
        reason = f"it ends before what was applied of it: a copy that was made while in use? newest={newest} {applied=}"
    elif lost_tail(newest, published):
        reason = f"it ends before what was written to it: its newest entries are lost. newest={newest} {published=}"
    else:
        return logged
    end = Lsn(max(applied, newest + lost_tail(newest, published)))
    state: State = "mendable"
    try:
        check_lost(newest, applied)
        if repair:
            go_on_after(directory, end)
            state = "mended"
    except StorageCorrupt:
        state = "lost"
    except sqlite3.DatabaseError as error:  # somebody writes
        logger.warning("repair.failed path=%s reason=%s", directory / LOG_FILE, error)
    if logged.state == "mendable" and state == "mended":
        return logged  # the other damage is still there
    return msgspec.structs.replace(logged, state=state, reason="; ".join(filter(None, (logged.reason, reason))))


def _check_reachable(path: Path, error: Exception) -> None:
    """See that what an error says of a database is damage: why SQLite can't open one, it does not say.

    Raises:
        ResourceLimitError, InsufficientStorageError: the machine lacks something.
        PermissionError: this process may not open it.
    """
    limit = limit_error(error, path.parent)
    if limit is not None:
        raise limit from error
    is_unopened = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF == sqlite3.SQLITE_CANTOPEN
    if is_unopened and path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from error


def _verify_collection(looked_at: _Collection) -> list[Finding]:
    """What is to be said of a collection; nothing, when it was deleted while it was looked at."""
    directory, known, folder = looked_at.directory, looked_at.collection, looked_at.folder
    found: list[Finding] = []
    try:
        if (folder / RECORDS_FILE).exists():
            found = list(looked_at.verify())
        elif looked_at.noted_applied or _has_files(folder / SEGMENTS):
            found = [Finding(f"{COLLECTIONS}/{known.id}/{RECORDS_FILE}", "lost", "missing", known.name)]
    except FileNotFoundError:
        if _is_known(directory, known.id):
            raise
        return []
    is_sound = all(finding.state in SOUND for finding in found)
    return found if is_sound or _is_known(directory, known.id) else []


def _lost_collections(directory: Path, first_lost: Lsn | None) -> Iterator[Finding]:
    """Directories of collections that the log has lost. Those of deleted ones are nothing to speak of: they are removed."""
    root = directory / COLLECTIONS
    if not root.exists():
        return
    known = frozenset(collection.id for collection in _known_collections(directory))
    unknown = unknown_collections(root, known)
    owners = owners_of(directory, [applied for applied in unknown.values() if applied])
    kept = KeptLog(newest_of(directory), first_lost, owners)
    lost = [
        collection_id
        for collection_id, applied in unknown.items()
        if kept.may_have_lost(collection_id, applied) and not _is_known(directory, collection_id)
    ]
    for path in sorted([*root.glob(f"*{LOST_SUFFIX}"), *(root / collection_id for collection_id in lost)]):
        reason = "the log has lost that this collection was made; remove the directory when you don't need it"
        yield Finding(f"{COLLECTIONS}/{path.name}", "lost", reason, size_bytes=size_of(path))


def _has_files(segments: Path) -> bool:
    try:
        return any(segments.glob("*/*"))
    except FileNotFoundError:  # removed meanwhile
        return False


def _is_known(directory: Path, collection_id: CollectionId) -> bool:
    """Whether a collection is there; so it is taken to be while the catalog can't be read."""
    catalog = _catalog(directory)
    return catalog is None or catalog.collection(collection_id) is not None


def _known_collections(directory: Path) -> Sequence[Collection]:
    """The collections of the catalog; without a catalog that can be read there is nothing to tell them by."""
    catalog = _catalog(directory)
    found = () if catalog is None else map(catalog.collection, sorted(catalog.collection_ids()))
    return [collection for collection in found if collection is not None]


def _catalog(directory: Path) -> Catalog | None:
    """The catalog as of now; None: it can't be read."""
    uri = f"{(directory / LOG_FILE).absolute().as_uri()}?mode=rw"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=10.0)) as connection:
            rows = connection.execute("SELECT key, value FROM catalog").fetchall()
        return Catalog.from_rows({k: value for k, value in rows if isinstance(k, str) and isinstance(value, bytes)})
    except (LogCorrupt, sqlite3.DatabaseError, ValueError, KeyError) as error:
        _check_reachable(directory / LOG_FILE, error)
        return None


def chosen_collections(directory: Path, names: Sequence[str]) -> list[Collection]:
    """The collections of these names or ids; all of them without names.

    Raises:
        FormatError: no collection has that name.
    """
    known = _known_collections(directory)
    unknown = {*names} - {item.name for item in known} - {item.id for item in known}
    if unknown:
        raise FormatError(f"no collection of that name. path={directory} name={min(unknown)!r}")
    return [item for item in known if not names or item.name in names or item.id in names]


class _Collection(msgspec.Struct):
    """Verifies one collection. `applied`: through which LSN its tables are, once they were read."""

    directory: Path
    collection: Collection
    progress: _Progress
    noted_applied: Lsn
    applied: Lsn = Lsn(0)

    @property
    def folder(self) -> Path:
        return self.directory / COLLECTIONS / self.collection.id

    def verify(self) -> Iterator[Finding]:
        path = self.folder / RECORDS_FILE
        try:
            with closing(RecordTables(path, writable=False)) as tables:
                problem = tables.problem()
                self.progress.add(path.stat().st_size)
                if problem is not None:
                    yield self._finding(path, "mendable" if _rows_are_whole(tables, path) else "lost", problem)
                else:
                    yield self._finding(path, "whole" if tables.is_summed() else "unsummed")
                with tables.transaction():
                    manifest = tables.manifest()
                    self.applied = manifest.applied
                    if manifest.applied < self.noted_applied:
                        marks = f"applied={manifest.applied} noted_applied={self.noted_applied}"
                        yield self._finding(path, "lost", f"the newest records are lost. {marks}")
                    yield from self._files(tables, manifest)
        except DAMAGE as error:
            _check_reachable(path, error)
            if self.noted_applied or "no such table: manifest" not in str(error):  # else they are just being made
                yield self._finding(path, "lost", str(error))

    def _finding(self, path: Path, state: State, reason: str = "") -> Finding:
        size = path.stat().st_size if path.exists() else 0
        return Finding(str(path.relative_to(self.directory)), state, reason, self.collection.name, size)

    def _files(self, tables: RecordTables, manifest: Manifest) -> Iterator[Finding]:
        for piece in manifest.pieces:
            path = self.folder / COLUMNS / piece.file
            yield self._checked(path, "mendable", partial(load_piece, self.folder, piece))
        for segment in manifest.segments:
            yield from self._segment(tables, manifest, segment)
        yield from self._whole(tables, manifest)

    def _segment(self, tables: RecordTables, manifest: Manifest, segment: SegmentRef) -> Iterator[Finding]:
        folder = self.folder / SEGMENTS / str(segment.number)
        dimension = manifest.dimension or 0
        whole: State = "whole" if segment.block_rows else "unsummed"

        def check_vectors() -> None:
            vectors = map_vectors(self.folder, segment, dimension)
            guard = vector_guard(self.folder, segment, vectors, tables.block_sums(segment.number))
            if guard is not None:
                guard.check_from(0)

        def check_their_slots() -> None:
            check_slots(self.folder, segment, map_slots(self.folder, segment), manifest.next_slot)

        yield self._checked(folder / VECTORS_FILE, "lost", check_vectors, whole)
        yield self._checked(folder / SLOTS_FILE, "lost", check_their_slots, whole)
        if segment.graph is not None:
            graph, path = segment.graph, graph_path(self.folder, segment, segment.graph.file)

            def check_graph() -> None:
                if checksum(path) != graph.crc:
                    raise StorageCorrupt(f"graph file does not match its checksum. path={path}")

            yield self._checked(path, "mendable", check_graph)

    def _checked(self, path: Path, otherwise: State, check: Callable[[], object], whole: State = "whole") -> Finding:
        try:
            check()
        except (StorageCorrupt, FormatError) as error:
            return self._finding(path, otherwise, str(error))
        found = self._finding(path, whole)
        self.progress.add(found.size_bytes)
        return found

    def _whole(self, tables: RecordTables, manifest: Manifest) -> Iterator[Finding]:
        """Every file by itself may be whole, and still not go with the others."""
        try:
            base = load_base(self.folder, manifest, EMPTY_BASE, tables)
        except (StorageCorrupt, FormatError):
            return  # said already, of the file
        problem = _disagreement(base, tables)
        if problem is not None:
            yield self._finding(self.folder / RECORDS_FILE, "lost", problem)


def _disagreement(base: Base, tables: RecordTables) -> str | None:
    """Say how live slots, rows and current vectors disagree; None: they don't."""
    alive = np.flatnonzero(base.alive)
    owned = np.concatenate([view.owners[view.owners >= 0] for view in base.segments] or [np.empty(0, np.int64)])
    if len(alive) != base.manifest.live or tables.count() != base.manifest.live:
        return f"records disagree with the manifest. live={base.manifest.live} slots={len(alive)} rows={tables.count()}"
    if not np.array_equal(np.sort(owned), alive):
        return f"vectors disagree with the records. records={len(alive)} vectors={len(owned)}"
    return None


def _rows_are_whole(tables: RecordTables, path: Path) -> bool:
    """Whether all records and the manifest can be read and match their checksums: then indexes can be made again."""
    try:
        with tables.transaction():
            return sum(1 for _ in tables.every_row()) == tables.manifest().live
    except DAMAGE as error:
        _check_reachable(path, error)
        return False


def _mended(folder: Path, findings: Sequence[Finding]) -> list[Finding]:
    """Heal a collection where that helps, and say what became of it."""
    if not any(finding.state == "mendable" for finding in findings):
        return list(findings)
    try:
        with closing(CollectionStore(folder, SystemFiles())) as store:
            heal_tables(store)
            heal(store)
    except DAMAGE as error:
        _check_reachable(folder / RECORDS_FILE, error)
        logger.warning("repair.failed path=%s reason=%s", folder, error)
        return list(findings)
    return [
        msgspec.structs.replace(finding, state="mended") if finding.state == "mendable" else finding for finding in findings
    ]


class Rebuilt(msgspec.Struct, frozen=True):
    """A collection whose derived files were made anew, or why they were not."""

    collection: Collection
    graphs: int
    failure: str | None = None


def rebuild(
    directory: Path, names: Sequence[str] = (), *, settings: EngineSettings | None = None, report: Report | None = None
) -> list[Rebuilt]:
    """Make all that follows from records and vectors anew: columns, indexes of the tables, graphs. Nobody may compact.

    `names` are those of collections, or their ids; without any, all of them are meant.

    Raises:
        FormatError: it is no data directory; or another process compacts it; or no collection has that name.
    """
    check_version(directory)
    settings = settings or EngineSettings()
    with compacting_alone(directory):
        chosen = chosen_collections(directory, names)
        done: list[Rebuilt] = []
        for number, collection in enumerate(chosen):
            if report is not None:
                report(f"rebuilding {collection.name}", number, len(chosen))
            if (directory / COLLECTIONS / collection.id / RECORDS_FILE).exists():
                done.append(_rebuild(directory, collection, settings))
        return done


def _rebuild(directory: Path, collection: Collection, settings: EngineSettings) -> Rebuilt:
    graphs, folder = 0, directory / COLLECTIONS / collection.id
    try:
        with closing(CollectionStore(folder, SystemFiles())) as store:
            rebuild_files(store)
            while build_graphs(store, collection.hnsw, rows_min=settings.graph_rows_min, threads=settings.index_threads):
                graphs = sum(segment.graph is not None for segment in store.manifest.segments)
    except DAMAGE as error:
        _check_reachable(folder / RECORDS_FILE, error)
        return Rebuilt(collection, graphs, str(error))
    return Rebuilt(collection, graphs)
