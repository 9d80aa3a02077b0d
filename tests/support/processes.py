"""Processes as the system shows them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def children_of(process: int) -> list[int]:
    """Ids of the processes that a process, or one of its threads, has begun and that are not waited for yet."""
    found: list[int] = []
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended meanwhile
            found += map(int, children.read_text().split())
    return found
