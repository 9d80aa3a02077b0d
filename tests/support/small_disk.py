"""A small disk of its own for a test, which really gets full: a tmpfs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


class NoMounts(Exception):
    """This machine lets the test mount nothing."""


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Generator[Path]:
    """Mount an empty file system of that size.

    Raises:
        NoMounts: the test's user may not mount.
    """
    path.mkdir(parents=True, exist_ok=True)
    options = f"size={size_bytes},mode=777"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True, text=True)
    if made.returncode:
        raise NoMounts(made.stderr.strip())
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path: Path, leave_bytes: int = 0) -> Path:
    """Take all the room of a disk but so much; return the file that does."""
    ballast = path / "ballast"
    with ballast.open("wb") as file:
        while True:
            found = os.statvfs(path)
            left = found.f_bavail * found.f_frsize - leave_bytes
            if left <= 0:
                return ballast
            try:
                file.write(bytes(min(left, 2**20)))
                file.flush()
            except OSError:
                return ballast
