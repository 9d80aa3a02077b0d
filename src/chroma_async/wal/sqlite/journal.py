"""Makes durable what is in SQLite's journal."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from chroma_async.seams.limits import limit_error


class Journal:
    """SQLite's journal of a file. What is committed is in it; an fsync of it, by anybody, makes that durable."""

    def __init__(self, file: Path) -> None:
        self._path = file.with_name(f"{file.name}-wal")
        self._durable_inode = 0
        """Of the journal whose name in the directory is on disk too."""

    def sync(self) -> None:
        """See `LogStore.sync`. For threads, not for an event loop."""
        with ExitStack() as stack:

            def opened(path: Path) -> int:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                return descriptor

            try:
                journal, directory = opened(self._path), opened(self._path.parent)
            except FileNotFoundError:
                return  # nobody has the log open: SQLite made all of it safe when the last one closed it
            except OSError as error:
                raise limit_error(error, self._path.parent) or error from error
            os.fsync(journal)
            inode = os.fstat(journal).st_ino
            if inode != self._durable_inode:
                os.fsync(directory)
                self._durable_inode = inode
