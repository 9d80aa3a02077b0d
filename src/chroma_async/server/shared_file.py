"""Files without a name that the processes of a server map, to tell one another what each of them does."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import IO


@contextmanager
def shared_file(name: str, size: int) -> Generator[int]:
    """The descriptor of a file of so many zeros. In memory, where the system has such; the name is for who lists files."""
    with _file(name) as file:
        file.write(bytes(size))
        file.flush()
        yield file.fileno()


def _file(name: str) -> IO[bytes]:
    if sys.platform == "linux" and hasattr(os, "memfd_create"):
        with suppress(OSError):  # a sandbox may not allow it
            return os.fdopen(os.memfd_create(f"chroma-async-{name}"), "w+b")
    return tempfile.TemporaryFile(prefix=f"chroma-async-{name}-")
