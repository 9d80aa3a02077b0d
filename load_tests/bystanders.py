"""How much of the machine other processes took while something was measured.

A busy neighbour can halve one server's figures and spare the other's. It can't be prevented from here, but it can be
seen: what all processors did, less what the server and the load tests themselves did, was done by somebody else.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from load_tests.servers import LocalServer

_IDLE_FIELDS = (3, 4)
"""Positions of idle and waiting for input or output in the first line of /proc/stat."""
_FIELDS = 8
"""Fields of that line without time of guests, which the first two have already; the last is time stolen by the host."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """Seconds so far, summed over the processors."""

    at: float
    machine: float
    ours: float


class Bystanders:
    """Watches the machine beside one server, from construction on."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self._before = self._read()

    def share(self) -> float | None:
        """Part of all processor time since construction that others took, 0 to 1; None where there is no /proc."""
        before, after = self._before, self._read()
        if before is None or after is None:
            return None
        others = (after.machine - before.machine) - (after.ours - before.ours)
        return max(0.0, others / ((after.at - before.at) * (os.cpu_count() or 1)))

    def _read(self) -> _Reading | None:
        try:
            fields = Path("/proc/stat").read_text().splitlines()[0].split()[1 : _FIELDS + 1]
        except OSError:
            return None
        busy = sum(int(ticks) for position, ticks in enumerate(fields) if position not in _IDLE_FIELDS)
        ours = self._server.cpu_seconds() + _own_seconds()
        return _Reading(time.monotonic(), busy / os.sysconf("SC_CLK_TCK"), ours)


def _own_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
