"""Encoded request bodies in one file, so that generator processes share them without copies or encoding."""

from __future__ import annotations

import mmap
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RequestFile:
    """Bodies laid end to end; body i spans `offsets[i]` to `offsets[i + 1]`."""

    path: Path
    offsets: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @staticmethod
    def write(path: Path, bodies: Iterable[bytes]) -> RequestFile:
        """Write the bodies and return where each one is. They are on the disk then: nothing is written later on."""
        offsets = [0]
        with path.open("wb") as file:
            for body in bodies:
                file.write(body)
                offsets.append(offsets[-1] + len(body))
            file.flush()
            os.fsync(file.fileno())
        return RequestFile(path, tuple(offsets))

    def first(self, count: int) -> RequestFile:
        """The first `count` bodies, or all if there are fewer."""
        return RequestFile(self.path, self.offsets[: count + 1])

    @contextmanager
    def open(self) -> Generator[list[memoryview], None, None]:
        """Map the file and give one view per body; the views end with the context."""
        with (
            self.path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as whole,
        ):
            views = [whole[start:end] for start, end in zip(self.offsets, self.offsets[1:], strict=False)]
            try:
                yield views
            finally:
                for view in views:
                    view.release()
