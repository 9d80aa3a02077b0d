"""Log lines of the server's processes: to standard error, `noun.verb key=value`."""

from __future__ import annotations

import logging
import time

from chroma_async.settings import AccessLogForm, LogLevel


class _Formatter(logging.Formatter):
    """Times in UTC, as ISO 8601 has them."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s")
        self.converter = time.gmtime


def configure_logs(level: LogLevel, access_log: AccessLogForm | None = None) -> None:
    """Send everything from `level` on to standard error, and requests at any level; called by each process for itself."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("hypercorn").setLevel("WARNING")
    logging.getLogger("asyncio").setLevel("WARNING")
    access = logging.getLogger("chroma_async.access")
    access.setLevel("INFO" if access_log is not None else "WARNING")
    if access_log == "json":
        alone = logging.StreamHandler()
        alone.setFormatter(logging.Formatter("%(message)s"))
        access.handlers = [alone]
        access.propagate = False
