"""From a path to what answers it, in one walk along its segments.

Routing looks at the path as it was sent. ASGI servers decode `%2F` before an application sees the path, and a name with a
slash would fall apart into two segments; so segments are told apart first, and decoded afterwards, one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, TypeVar

from msgspec import Struct, field

LIVE_PATH: Final = "/livez"
READY_PATH: Final = "/readyz"
PROBE_PATHS: Final = frozenset({LIVE_PATH, READY_PATH})
"""Answered to everybody: they say nothing about data, and probes have no credentials."""

T = TypeVar("T")


class _Node(Struct, Generic[T]):
    """What follows a beginning of paths. A placeholder stands for any segment that is not empty."""

    literals: dict[str, _Node[T]] = field(default_factory=dict[str, "_Node[T]"])
    placeholder: _Node[T] | None = None
    target: T | None = None


class PathTable(Generic[T]):
    """Targets by paths like `/tenants/{tenant}`. The names of placeholders do not matter: in one place they are one."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def setdefault(self, path: str, target: T) -> T:
        """Return the target of a path; it becomes this one if it has none yet."""
        node = self._root
        for segment in path.split("/"):
            if segment.startswith("{"):
                node.placeholder = node = node.placeholder or _Node()
            else:
                node = node.literals.setdefault(segment, _Node())
        if node.target is None:
            node.target = target
        return node.target

    def find(self, path: str) -> tuple[T, list[str]] | None:
        """Return the target of a path and what stands in the places of its placeholders, as it was sent.

        A path that is written out goes before one with a placeholder in the same place.
        """
        taken: list[str] = []
        target = _find(self._root, path.split("/"), 0, taken)
        return None if target is None else (target, taken)


def _find(node: _Node[T], segments: Sequence[str], position: int, taken: list[str]) -> T | None:
    if position == len(segments):
        return node.target
    segment = segments[position]
    literal = node.literals.get(segment)
    if literal is not None:
        found = _find(literal, segments, position + 1, taken)
        if found is not None:
            return found
    if node.placeholder is None or not segment:
        return None
    taken.append(segment)
    found = _find(node.placeholder, segments, position + 1, taken)
    if found is None:
        taken.pop()
    return found
