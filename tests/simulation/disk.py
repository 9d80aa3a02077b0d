"""The disk of a simulated machine: real files, and what a crash, a power cut, a full disk or a failed fsync leaves."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chroma_async.seams import SystemFiles
from chroma_async.seams.files import Buffer

Fault = Literal["die", "full", "sync"]
"""die: the process ends in the middle of an operation. full: there is no room to write any more. sync: an fsync fails."""


class ProcessCrashed(BaseException):
    """The process stopped existing in the middle of something."""


@dataclass
class Unsynced:
    """What a power cut may do to a file: take what is behind `safe_bytes`, or its name.

    `is_spoilt`: an fsync of it failed. The kernel then forgets what was to be written, so that a later fsync that succeeds
    says nothing of it; only writing it again helps.
    """

    safe_bytes: int
    name_is_safe: bool
    is_spoilt: bool = False


class SimulatedFiles(SystemFiles):
    """The real files, with a memory of what was not synced, and a fuse that burns with each operation.

    Nothing is really synced: the machine that runs the simulation keeps its power. While `is_lying`, an fsync does nothing
    and says that it did.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._unsynced: dict[Path, Unsynced] = {}
        self._fault: Fault | None = None
        self._fuse = 0
        self.is_lying = False
        self.lost: set[Path] = set()
        """Files that lost something, in the last power cut, of which an fsync had said that it was safe."""
        self._lied_about: set[Path] = set()
        self.struck = 0
        """How often a fault came to pass."""

    # ---- faults

    def break_after(self, fault: Fault, operations: int) -> None:
        """Let something fail at that many operations (of the kind that can fail so) from here."""
        self._fault, self._fuse = fault, operations

    def mend(self) -> None:
        """Nothing fails any more."""
        self._fault = None

    def _strikes(self, kind: Literal["write", "sync", "other"]) -> Fault | None:
        """Let the fuse burn; return the fault that comes to pass."""
        fault = self._fault
        if fault is None or (fault == "full" and kind != "write") or (fault == "sync" and kind != "sync"):
            return None
        self._fuse -= 1
        if self._fuse >= 0:
            return None
        if fault != "full":
            self._fault = None
        self.struck += 1
        return fault

    def _fail(self, fault: Fault, path: Path) -> None:
        if fault == "die":
            raise ProcessCrashed
        raise OSError(errno.ENOSPC if fault == "full" else errno.EIO, f"simulated: {fault}", str(path))

    # ---- files

    def write(self, path: Path, parts: Iterable[Buffer]) -> None:
        data = b"".join(parts)
        fault = self._strikes("write")
        self._touch(path, 0)
        super().write(path, [data[: self._some(len(data))] if fault else data])
        if fault:
            self._fail(fault, path)

    def write_at(self, path: Path, offset: int, data: Buffer) -> None:
        fault = self._strikes("write")
        self._touch(path, offset)
        whole = memoryview(data).cast("B")
        super().write_at(path, offset, whole[: self._some(len(whole))] if fault else whole)
        if fault:
            self._fail(fault, path)

    def _some(self, size: int) -> int:
        return self._rng.randint(0, size)

    def _touch(self, path: Path, safe_bytes: int) -> None:
        """Note a write of all that is behind so many bytes."""
        known = self._unsynced.get(path)
        if known is None:
            known = self._unsynced[path] = Unsynced(safe_bytes, name_is_safe=path.exists())
        if safe_bytes <= known.safe_bytes:
            known.is_spoilt = False  # all of it that is not safe is written again
        known.safe_bytes = min(safe_bytes, known.safe_bytes)

    def sync(self, path: Path) -> None:
        fault = self._strikes("sync")
        known = self._unsynced.get(path)
        if fault == "sync" and known is not None:
            known.is_spoilt = True
        if fault:
            self._fail(fault, path)
        if known is None or known.is_spoilt:
            return
        if self.is_lying:
            self._lied_about.add(path)
        else:
            known.safe_bytes = path.stat().st_size
            self._lied_about.discard(path)

    def sync_directory(self, path: Path) -> None:
        fault = self._strikes("sync")
        if fault:
            self._fail(fault, path)
        for child, state in self._unsynced.items():
            if child.parent == path and self.is_lying:
                self._lied_about.add(child)
            elif child.parent == path:
                state.name_is_safe = True

    def replace(self, source: Path, destination: Path) -> None:
        fault = self._strikes("other")
        if fault:
            self._fail(fault, source)
        moved = self._unsynced.pop(source, None) or Unsynced(source.stat().st_size, name_is_safe=True)
        super().replace(source, destination)
        self._unsynced[destination] = Unsynced(moved.safe_bytes, name_is_safe=False, is_spoilt=moved.is_spoilt)
        if source in self._lied_about:
            self._lied_about.add(destination)

    def make_directory(self, path: Path) -> None:
        fault = self._strikes("other")
        if fault:
            self._fail(fault, path)
        super().make_directory(path)

    def remove(self, path: Path) -> None:
        fault = self._strikes("other")
        if fault:
            self._fail(fault, path)
        super().remove(path)
        for gone in [known for known in self._unsynced if known == path or path in known.parents]:
            del self._unsynced[gone]
            self._lied_about.discard(gone)

    # ---- power

    def lose_unsynced(self) -> None:
        """Cut the power: each file that was not synced loses a part of what was not."""
        self.lost = set()
        for path, state in sorted(self._unsynced.items()):
            if path.is_file() and self._damage(path, state) and path in self._lied_about:
                self.lost.add(path)
        self._unsynced.clear()
        self._lied_about.clear()
        self.is_lying = False
        self.mend()

    def _damage(self, path: Path, state: Unsynced) -> bool:
        if not state.name_is_safe and self._rng.random() < 0.5:
            path.unlink()
            return True
        size = path.stat().st_size
        if size <= state.safe_bytes or self._rng.random() < 0.3:
            return False
        with path.open("r+b") as file:
            if self._rng.random() < 0.5:
                file.truncate(self._rng.randint(state.safe_bytes, size - 1))
            else:  # pages reach the disk in any order: a hole of zeros in the middle
                first = self._rng.randint(state.safe_bytes, size - 1)
                file.seek(first)
                file.write(bytes(self._rng.randint(1, size - first)))
        return True
