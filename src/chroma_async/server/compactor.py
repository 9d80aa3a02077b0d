"""The compactor process: applies the log, builds indexes and truncates, so that workers never do."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Final

from chroma_async.engine import run_compactor
from chroma_async.seams import give_way
from chroma_async.server.child import Duty

NICENESS: Final = 5
"""Workers come first: somebody waits for each of their answers, for the compactor only who writes faster than it applies."""


async def work(duty: Duty) -> None:
    """Compact until told to stop; the compactor itself knows where it may be interrupted.

    Raises:
        FormatError, OSError: the data directory can't be opened.
    """
    give_way(NICENESS)
    compacting = asyncio.create_task(run_compactor(Path(duty.orders.path), duty.orders.engine, duty.report_ready))
    stopping = asyncio.create_task(duty.stop.wait())
    await asyncio.wait({compacting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if duty.stop.is_set():
        compacting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await compacting
