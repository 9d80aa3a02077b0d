"""Writing files as an argument, so that a simulation can lose what was not synced."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from chroma_async.errors import StorageCorrupt

Buffer = bytes | bytearray | memoryview

_IS_DAMAGE: Final = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EIO,
        errno.EBADMSG,
        getattr(errno, "EUCLEAN", errno.EIO),  # Linux: what the file system has noted is damaged
    }
)
"""What keeps a file from being read for good. All else, such as want of handles or memory, says nothing of the file."""


@contextmanager
def opened(path: Path) -> Generator[BinaryIO]:
    """Open a file that has to be there, to be read or mapped inside.

    Raises:
        StorageCorrupt: it is not there, or the disk can't read it.
        OSError: the machine lacks something, or this process may not read it. The file may be whole.
    """
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        if error.errno not in _IS_DAMAGE:
            raise
        raise StorageCorrupt(f"file can't be read. path={path} reason={error}") from error


class Files(Protocol):
    """The few things that are done to files by hand. All paths are absolute.

    1. What was written survives a crash of the machine only after `sync` of the file, and its name only after
       `sync_directory` of its directory.
    2. `replace` is atomic: another process sees the old file or the new one.
    """

    def write(self, path: Path, parts: Iterable[Buffer]) -> None:
        """Make a new file of these parts, or overwrite one."""
        ...

    def write_at(self, path: Path, offset: int, data: Buffer) -> None:
        """Write into a file, making it when absent; bytes behind what is written are cut off."""
        ...

    def sync(self, path: Path) -> None: ...

    def sync_directory(self, path: Path) -> None: ...

    def replace(self, source: Path, destination: Path) -> None: ...

    def make_directory(self, path: Path) -> None: ...

    def remove(self, path: Path) -> None:
        """Remove a file or a directory with all it holds; nothing happens when it is not there."""
        ...


class SystemFiles:
    """The operating system's files."""

    def write(self, path: Path, parts: Iterable[Buffer]) -> None:
        with path.open("wb") as file:
            for part in parts:
                file.write(part)

    def write_at(self, path: Path, offset: int, data: Buffer) -> None:
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() < offset:
                raise StorageCorrupt(f"file is shorter than its manifest says. path={path} expected_bytes={offset}")
            file.seek(offset)
            file.write(data)
            file.truncate()

    def sync(self, path: Path) -> None:
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def sync_directory(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def replace(self, source: Path, destination: Path) -> None:
        source.replace(destination)

    def make_directory(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def remove(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
