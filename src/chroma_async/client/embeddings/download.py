"""The default model from Chroma's public archive: resumed, checked, and in place whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import httpx

from chroma_async.client.embeddings.failures import EmbeddingError
from chroma_async.client.embeddings.locate import (
    DIRECTORY_VARIABLE,
    FILES,
    MODEL_FILE,
    MODEL_NAME,
    SUBDIRECTORY,
    TOKENIZER_FILE,
    has_model,
)

if sys.platform != "win32":
    import fcntl

log = logging.getLogger("chroma_async.embeddings")

TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)
ATTEMPTS_MAX: Final = 20
RANGE_NOT_SATISFIABLE: Final = 416
"""The answer to a resumed download of which nothing is missing."""

Advance = Callable[[int], None]
"""Told the number of bytes that came."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A gzipped tar with the model's files; `sha256` is of the archive, in hex."""

    url: str
    sha256: str


CHROMA_ARCHIVE: Final = Archive(
    url="https://chroma-onnx-models.s3.amazonaws.com/all-MiniLM-L6-v2/onnx.tar.gz",
    sha256="913d7300ceae3b2dbc2c50d1de4baacab4be7b9380491c27fab7418616a16ec3",
)


class Interrupted(Exception):
    """The archive did not come, or not whole; what came is kept."""


def fetch(archive: Archive, cache: Path) -> Path:
    """Return the directory with the model's files, after downloading the archive into the cache if need be.

    Processes that want it at the same time wait for the first one.

    Raises:
        EmbeddingError: no connection, a refusal, or other bytes than expected; the message says what to put where.
    """
    target = cache / SUBDIRECTORY
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache / "lock"):
            if not has_model(target):
                partial = cache / "onnx.tar.gz.part"
                _download(archive, partial)
                _unpack(partial, target)
                partial.unlink()
    except (OSError, httpx.HTTPError, Interrupted, tarfile.TarError) as error:
        raise EmbeddingError(_advice(archive, cache, error)) from error
    return target


def _advice(archive: Archive, cache: Path, error: Exception) -> str:
    cause = " ".join(f"{type(error).__name__}: {error}".split())
    return (
        f"can't download the embedding model {MODEL_NAME}; put {MODEL_FILE} and {TOKENIZER_FILE} into a directory and set "
        f"{DIRECTORY_VARIABLE} to it, or unpack the archive into the cache. "
        f"archive={archive.url} cache={cache} cause={cause!r}"
    )


@contextlib.contextmanager
def _alone(path: Path) -> Generator[None]:
    """Hold a file lock. Windows has no such lock: there a second download overwrites, and the checksum tells."""
    with path.open("ab") as file:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(archive: Archive, partial: Path) -> None:
    """Go on as long as attempts bring bytes; begin anew when a resumed file is not the expected one."""
    for _ in range(ATTEMPTS_MAX):
        before = _size(partial)
        try:
            _continue(archive.url, partial)
        except Interrupted:
            if _size(partial) <= before:
                raise
            continue
        if _sha256(partial) == archive.sha256:
            return
        partial.unlink(missing_ok=True)
        if before == 0:
            raise Interrupted("the archive's sha256 is not the expected one")
    raise Interrupted(f"the archive did not come whole in {ATTEMPTS_MAX} attempts")


def _continue(url: str, partial: Path) -> None:
    """Append what is missing of the file, as far as the connection holds.

    Raises:
        Interrupted: it broke, or there was none.
        HTTPStatusError: the server refuses.
    """
    have = _size(partial)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with httpx.stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as answer:
            if answer.status_code == RANGE_NOT_SATISFIABLE:
                return
            answer.raise_for_status()
            resumed = answer.headers.get("content-range", "").startswith(f"bytes {have}-")
            with partial.open("ab" if resumed else "wb") as file, _progress(answer, have if resumed else 0) as advance:
                for chunk in answer.iter_raw():
                    file.write(chunk)
                    advance(len(chunk))
    except httpx.TransportError as error:
        raise Interrupted(f"{type(error).__name__} {error}") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _progress(answer: httpx.Response, done: int) -> Generator[Advance]:
    """A bar where a person looks and rich is installed, else a line in the log."""
    length = answer.headers.get("content-length")
    total = done + int(length) if length else None
    log.info("model.download url=%s bytes=%s resumed_at=%d", answer.url, total, done)
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield lambda count: None
        return
    console = Console(stderr=True)
    if not console.is_interactive:
        yield lambda count: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(MODEL_NAME, total=total, completed=done)
        yield lambda count: bar.advance(task, count)


def _unpack(archive: Path, target: Path) -> None:
    """Put the archive's files into place by one rename. Only the last part of their paths counts: none leads astray."""
    with tempfile.TemporaryDirectory(prefix="unpacking-", dir=target.parent) as name:
        fresh = Path(name) / SUBDIRECTORY
        fresh.mkdir()
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isfile():
                    _extract(tar, member, fresh / PurePosixPath(member.name).name)
        if not has_model(fresh):
            raise tarfile.TarError(f"the archive lacks {' or '.join(FILES)}")
        if target.exists():
            shutil.rmtree(target)
        fresh.rename(target)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(member)
    assert source is not None
    with source, path.open("wb") as file:
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())
