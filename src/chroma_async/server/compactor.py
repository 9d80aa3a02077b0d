"""The compactor process: applies the log, builds indexes and truncates, so that workers never do."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final

from chroma_async.engine import run_compactor
from chroma_async.server.child import Duty

NICENESS: Final = 5
"""Below workers: a write that waits to be acknowledged is more urgent. At 10, a busy machine took half as long again until
all was applied; at 5 it was hardly slower.
"""


async def work(duty: Duty) -> None:
    """Compact until told to stop; the compactor itself knows where it may be interrupted.

    Raises:
        FormatError, OSError: the data directory can't be opened.
    """
    os.nice(NICENESS)
    compacting = asyncio.create_task(run_compactor(Path(duty.orders.path), duty.orders.engine))
    stopping = asyncio.create_task(duty.stop.wait())
    duty.report_ready()
    await asyncio.wait({compacting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if duty.stop.is_set():
        compacting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await compacting
