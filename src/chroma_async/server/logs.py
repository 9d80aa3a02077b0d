"""Log lines of the server's processes: to standard error, `noun.verb key=value`."""

from __future__ import annotations

import logging
import time

from chroma_async.settings import LogLevel


class _Formatter(logging.Formatter):
    """Times in UTC, as ISO 8601 has them."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s")
        self.converter = time.gmtime


def configure_logs(level: LogLevel) -> None:
    """Send everything from `level` on to standard error; called once, by each process for itself."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("hypercorn").setLevel("WARNING")
    logging.getLogger("asyncio").setLevel("WARNING")
