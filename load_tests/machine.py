"""What a figure was measured on, since it means little without."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def describe() -> dict[str, str]:
    """Processor, cores, memory, system, python and present load, for people."""
    return {
        "processor": _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": _memory(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": "{:.2f} {:.2f} {:.2f} (mean number of busy processes over 1, 5 and 15 minutes)".format(*os.getloadavg()),
    }


def _memory() -> str:
    kilobytes = _first("/proc/meminfo", "MemTotal")
    return f"{int(kilobytes.split()[0]) / 2**20:.1f} GiB" if kilobytes else "unknown"


def _first(path: str, key: str) -> str | None:
    """Value of the first `key: value` line of a file, or None."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)
