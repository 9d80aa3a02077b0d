"""One page of metrics for all processes of a server, whichever of them answers it.

Each process keeps its counts in files of a directory that they share (prometheus-client's multiprocess mode), under a name
that its replacement inherits. So counters never go back, also when a worker is killed, and a scrape reads the files and adds
up: counters and histograms of all processes are summed. Of gauges the largest value is shown, unless the gauge itself names
another way (`multiprocess_mode`); gauges of a process end with it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import prometheus_client.values
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from starlette.types import Receive, Scope, Send

from chroma_async.protocol import WireResponse
from chroma_async.server.answers import send_response

METRICS_PATH: Final = "/metrics"

_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"


@contextmanager
def metrics_directory() -> Generator[str]:
    """A directory for the life of a server; nobody else can read it."""
    with tempfile.TemporaryDirectory(prefix="chroma-async-metrics-", ignore_cleanup_errors=True) as path:
        yield path


def share_metrics(directory: str, process: str) -> None:
    """Keep what this process counts from now on in `directory`, under a name that no other running process has."""
    assert "_" not in process
    for left in Path(directory).glob(f"gauge_*_{process}.db"):
        left.unlink()
    os.environ[_VARIABLE] = directory
    values = cast("Any", prometheus_client.values)
    values.ValueClass = values.MultiProcessValue(lambda: process)


class SharedMetrics(Collector):
    """Reads what all processes have counted."""

    def __init__(self, directory: str) -> None:
        self._files = Path(directory)

    def collect(self) -> Iterable[Metric]:
        found = cast("Any", MultiProcessCollector).merge([str(file) for file in self._files.glob("*.db")])
        return sorted((_largest(metric) for metric in found), key=lambda metric: metric.name)


def _largest(metric: Metric) -> Metric:
    """Leave one value of a gauge that each process has set for itself."""
    if metric.type != "gauge":
        return metric
    most: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for sample in metric.samples:
        labels = tuple((name, value) for name, value in sample.labels.items() if name != "pid")
        most[sample.name, labels] = max(sample.value, most.get((sample.name, labels), sample.value))
    metric.samples = [Sample(name, dict(labels), value) for (name, labels), value in most.items()]
    return metric


class MetricsPage:
    """Answers a scrape in Prometheus' text format."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    @classmethod
    def shared(cls, directory: str) -> MetricsPage:
        registry = CollectorRegistry()
        registry.register(SharedMetrics(directory))
        return cls(registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {"content-type": CONTENT_TYPE_LATEST}
        await send_response(send, WireResponse(200, generate_latest(self._registry), headers))
