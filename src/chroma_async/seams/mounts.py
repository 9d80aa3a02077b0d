"""Which kind of file system a directory is on, as Linux tells it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/proc/self/mountinfo")

NETWORK: Final = frozenset(
    (
        *("afs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "lustre", "nfs", "nfs4", "ocfs2", "smb3", "smbfs"),
        *("fuse.ceph", "fuse.ceph-fuse", "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs", "fuse.rclone", "fuse.s3fs"),
        "fuse.sshfs",
    )
)
"""Types of file systems that other machines may change, or where locks, shared maps or renames don't reach all processes."""


def network_type(path: Path, mounts: Path = MOUNTS) -> str | None:
    """Return the type of the network file system that a directory is on; None: a local one, or the system does not say."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    found = _type_of(os.path.realpath(path), lines)
    return found if found in NETWORK else None


def _type_of(path: str, lines: list[str]) -> str | None:
    """The type of the mount that covers a path: the longest point, the newest of equals. Fields: proc(5), mountinfo."""
    best, kind = "", None
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = _unescaped(fields.split(" ")[4])
        if len(point) >= len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
            best, kind = point, rest.split(" ")[0]
    return kind


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
