"""Memory and disk after the ingest, before anything is asked."""

from __future__ import annotations

import time
from typing import Final

from load_tests.bench import Bench
from load_tests.measures import Measure
from load_tests.scenarios.scenario import Scenario

SETTLE_SECONDS: Final = 5.0


def resources(bench: Bench) -> list[Measure]:
    """Memory of the server's process tree and size of its directory, when it has had time to give back what it used."""
    time.sleep(SETTLE_SECONDS)
    local = bench.server.local
    memory = local.memory_bytes() if local else None
    disk = local.disk_bytes() if local else None
    return [
        Measure(name="memory (PSS)", value=_mebibytes(memory), unit="MiB", better="lower"),
        Measure(name="disk", value=_mebibytes(disk), unit="MiB", better="lower"),
    ]


def _mebibytes(size: int | None) -> float | None:
    return size / 2**20 if size is not None else None


SCENARIOS = (Scenario("resources", "memory of the server's process tree, size of its directory", resources),)
